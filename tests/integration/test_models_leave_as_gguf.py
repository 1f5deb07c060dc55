"""Tiny models of today's families as GGUF files, read by llama.cpp: as trained, or not green."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import create_autospec

import pytest
from gguf import GGMLQuantizationType as Kind

from backend.core.gguf.file import GgufFile, read_gguf
from backend.export import converter
from backend.export.certificate import Light
from backend.export.forms import convert_model, write_model_gguf
from backend.export.trained import load_trained
from tests.backend.export.conftest import Asked, ask, export_of
from tests.backend.export.results import finished_over
from tests.converting import run_converter
from tests.exported import FAMILIES, Made, build_folder

pytestmark = pytest.mark.skipif(
    converter.find_converter() is None, reason="llama.cpp's converter is not installed (make setup)"
)
BY_NAME = {made.name: made for made in FAMILIES}
QUICK = ("Gemma 3 (text)", "Mistral", "Phi 3", "Granite", "SmolLM3", "Qwen 3")
OURS = ("Llama 3", "Qwen 3")


@pytest.fixture(autouse=True)
def convert_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter runs in a fork, which has imported torch and transformers already."""
    real = converter.subprocess.run
    monkeypatch.setattr(converter.subprocess, "run", create_autospec(real, side_effect=_run(real)))


def _run(real):  # type: ignore[no-untyped-def]
    def run(command, **options):  # type: ignore[no-untyped-def]
        is_converter = str(command[-1]).endswith("convert_with_llama_cpp.py")
        return run_converter(command, **options) if is_converter else real(command, **options)

    return run


def a_run(root: Path, made: Made) -> Asked:
    return ask(finished_over(build_folder(root / "model", made), root))


@pytest.mark.parametrize("name", QUICK)
def test_a_model_of_the_family_is_read_as_it_was_trained(name: str, tmp_path: Path) -> None:
    asked = a_run(tmp_path, BY_NAME[name])
    (tmp_path / "out").mkdir()
    file, certificate = export_of(asked, tmp_path / "out", "gguf", "F32")
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file.name]


def test_its_four_bits_are_green_within_their_tolerance(tmp_path: Path) -> None:
    pytest.importorskip("libgguf")
    asked = a_run(tmp_path, BY_NAME["Gemma 3 (text)"])
    (tmp_path / "out").mkdir()
    file, certificate = export_of(asked, tmp_path / "out", "gguf", "Q4_K_M")
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])
    assert {tensor.kind for tensor in read_gguf(file).tensors.values()} == {Kind.F32, Kind.Q4_K, Kind.Q6_K}


def swap(payload: Path, _: object) -> None:
    """Let two matrices of a layer change places."""
    file = read_gguf(payload)
    one, other = file.tensors["blk.0.ffn_up.weight"], file.tensors["blk.0.ffn_gate.weight"]
    data = bytearray(payload.read_bytes())
    places = [data.index(tensor.rows.tobytes()) for tensor in (one, other)]
    for place, tensor in zip(places, (other, one), strict=True):
        data[place : place + tensor.rows.nbytes] = tensor.rows.tobytes()
    payload.write_bytes(data)


@pytest.mark.parametrize("precision", ["F32", "Q4_K_M"])
def test_a_wrong_file_is_red(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("libgguf")
    asked = a_run(tmp_path, BY_NAME["Gemma 3 (text)"])
    (tmp_path / "out").mkdir()
    _, certificate = export_of(asked, tmp_path / "out", "gguf", precision, swap)
    assert certificate.light == Light.RED
    assert any("blk.0.ffn_" in reason for reason in certificate.reasons)


SAID_OTHERWISE = {
    "general.basename",
    "general.finetune",
    "general.name",
    "general.size_label",
    "general.version",
    "general.languages",
    "general.tags",
}
"""Descriptions that the converter takes from the name of a folder; llama.cpp computes with none of them."""
OURS_ALONE = {"vocab_size", "rope.dimension_count"}
"""Sizes that the converter leaves out of some families; llama.cpp takes them from the tokens and the keys then."""


@pytest.mark.parametrize("name", OURS)
def test_our_file_is_that_of_the_converter(name: str, tmp_path: Path) -> None:
    """Tensor by tensor and key by key."""
    folder = build_folder(tmp_path / "model", BY_NAME[name])
    trained = load_trained(finished_over(folder, tmp_path))
    model = trained.merge()
    write_model_gguf(trained, model, tmp_path / "ours.gguf", "F32")
    convert_model(trained, model, tmp_path / "theirs.gguf", "F32")
    ours, theirs = read_gguf(tmp_path / "ours.gguf"), read_gguf(tmp_path / "theirs.gguf")
    assert described(ours) == described(theirs)
    odd = {key for key in {*ours.metadata, *theirs.metadata} - SAID_OTHERWISE if differs(key, ours, theirs)}
    assert {key.partition(".")[2] for key in odd & ours.metadata.keys()} - OURS_ALONE == set()
    assert odd & theirs.metadata.keys() == set()


def described(file: GgufFile) -> dict[str, tuple[object, ...]]:
    return {name: (part.shape, part.kind, part.rows.tobytes()) for name, part in file.tensors.items()}


def differs(key: str, ours: GgufFile, theirs: GgufFile) -> bool:
    return bool(ours.metadata.get(key) != theirs.metadata.get(key))
