"""Fewer bits for a file: backend/export/quantizer.py, against llama.cpp's own rounding."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import dequantize

from backend.core.gguf.file import read_gguf
from backend.errors import ExportError
from backend.export import quantizer
from backend.export.gguf_mix import MIXES
from backend.export.rounding import distance, largest_error

COPY = '#!/bin/sh\ncp "$1" "$2" && printf " as %s" "$3" >> "$2"\n'
WEIGHED = '#!/bin/sh\ncp "$3" "$4" && printf " as %s by %s" "$5" "$2" >> "$4"\n'
FAIL = "#!/bin/sh\necho starting; echo 'no such format' >&2; exit 3\n"
NOTHING = "#!/bin/sh\nexit 0\n"
WEIGHTS = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
QUERY = "blk.0.attn_q.weight"


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """No libgguf here, so that only the program is left."""
    monkeypatch.setattr(quantizer.importlib.util, "find_spec", lambda _: None)


def install(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / quantizer.PROGRAM
    path.write_text(program)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "f32.gguf").write_text("weights")
    return tmp_path / "f32.gguf"


def a_file(path: Path, tensors: dict[str, npt.NDArray[np.float32]]) -> Path:
    writer = GGUFWriter(None, "llama")
    writer.add_block_count(1)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def an_imatrix(path: Path, name: str, sums: npt.NDArray[np.float32], counts: list[float]) -> Path:
    return a_file(
        path, {f"{name}.in_sum2": sums, f"{name}.counts": np.array(counts, dtype=np.float32)[:, None]}
    )


def by_llama_cpp(rows: npt.NDArray[np.float32], kind: Kind, weights: npt.NDArray[np.float32] | None) -> bytes:
    """The blocks that llama.cpp makes of ``rows``: the function that llama-quantize calls, in the reader's wheel."""
    folder = Path(str(pytest.importorskip("xllamacpp").__file__)).parent
    library = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    library.ggml_row_size.restype = library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    whole, pointer = ctypes.c_int64, ctypes.c_void_p
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, whole, whole, whole, pointer]
    size = library.ggml_row_size(int(kind), rows.shape[1]) * len(rows)
    target = (ctypes.c_uint8 * size)()
    values = np.ascontiguousarray(rows)
    given = None if weights is None else np.ascontiguousarray(weights).ctypes.data
    done = library.ggml_quantize_chunk(
        int(kind), values.ctypes.data, target, 0, len(rows), rows.shape[1], given
    )
    assert done == size
    return bytes(target)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("precision", sorted(MIXES))
def test_blocks_are_those_of_llama_cpp(precision: str, weighed: bool, tmp_path: Path) -> None:
    pytest.importorskip(quantizer.PACKAGE)
    file = a_file(tmp_path / "f32.gguf", {QUERY: WEIGHTS, "output.weight": WEIGHTS})
    importance = np.random.default_rng(1).gamma(0.5, size=512).astype(np.float32)
    imatrix = an_imatrix(tmp_path / "rows.gguf", QUERY, importance[None], [1]) if weighed else None
    quantizer.quantize(file, tmp_path / "out.gguf", precision, imatrix)
    done = read_gguf(tmp_path / "out.gguf")
    found = done.tensors[QUERY]
    assert found.kind == MIXES[precision][1]
    assert found.rows.tobytes() == by_llama_cpp(WEIGHTS, found.kind, importance if weighed else None)
    assert done.metadata["general.file_type"] == MIXES[precision][0]
    assert quantizer.is_weighed(done) == weighed


def test_important_columns_lose_less(tmp_path: Path) -> None:
    pytest.importorskip(quantizer.PACKAGE)
    file = a_file(tmp_path / "f32.gguf", {QUERY: WEIGHTS, "output.weight": WEIGHTS})
    importance = np.where(np.arange(512) % 8 == 0, 1000, 1).astype(np.float32)
    imatrix = an_imatrix(tmp_path / "rows.gguf", QUERY, importance[None], [1])
    errors = []
    for given in (None, imatrix):
        quantizer.quantize(file, tmp_path / "out.gguf", "Q4_0", given)
        tensor = read_gguf(tmp_path / "out.gguf").tensors[QUERY]
        errors.append(distance(dequantize(tensor.rows, tensor.kind)[:, ::8], WEIGHTS[:, ::8]))
    assert errors[1] < 0.8 * errors[0]


def test_experts_have_an_importance_each(tmp_path: Path) -> None:
    pytest.importorskip(quantizer.PACKAGE)
    name = "blk.0.ffn_up_exps.weight"
    sums = np.random.default_rng(1).gamma(0.5, size=(2, 512)).astype(np.float32)
    file = a_file(tmp_path / "f32.gguf", {name: np.stack([WEIGHTS, WEIGHTS]), "output.weight": WEIGHTS})
    imatrix = an_imatrix(tmp_path / "rows.gguf", name, sums, [1, 1])
    quantizer.quantize(file, tmp_path / "out.gguf", "Q4_K_S", imatrix)
    rows = read_gguf(tmp_path / "out.gguf").tensors[name].rows
    assert rows[8:].tobytes() == by_llama_cpp(WEIGHTS, Kind.Q4_K, sums[1])
    assert rows[8:].tobytes() != rows[:8].tobytes()


@pytest.mark.usefixtures("without_package")
def test_four_plain_bits_need_no_other_package(tmp_path: Path) -> None:
    file = a_file(tmp_path / "f32.gguf", {QUERY: WEIGHTS, "output.weight": WEIGHTS})
    quantizer.quantize(file, tmp_path / "out.gguf", "Q4_0")
    tensors = read_gguf(tmp_path / "out.gguf").tensors
    assert [tensor.kind for tensor in tensors.values()] == [Kind.Q4_0, Kind.Q8_0]
    found = tensors[QUERY]
    assert distance(dequantize(found.rows, found.kind), WEIGHTS) < largest_error("Q4_0")


@pytest.mark.usefixtures("without_package")
def test_the_program_is_asked_for_the_format(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(COPY, tmp_path, monkeypatch)
    quantizer.quantize(source, tmp_path / "out.gguf", "Q4_K_M")
    assert (tmp_path / "out.gguf").read_text() == "weights as Q4_K_M"
    install(WEIGHED, tmp_path, monkeypatch)
    quantizer.quantize(source, tmp_path / "out.gguf", "Q4_K_M", Path("rows.gguf"))
    assert (tmp_path / "out.gguf").read_text() == "weights as Q4_K_M by rows.gguf"


@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize(("program", "said"), [(FAIL, "no such format"), (NOTHING, "exit code 0")])
def test_its_failure_is_told(
    program: str, said: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(program, tmp_path, monkeypatch)
    with pytest.raises(ExportError, match=said) as caught:
        quantizer.quantize(source, tmp_path / "out.gguf", "Q4_K_M")
    assert caught.value.code == "quantizer-failed"


@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize(("precision", "weighed"), [("Q4_K_M", False), ("Q4_0", True)])
def test_without_it_such_a_format_is_refused(
    precision: str, weighed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError) as caught:
        quantizer.check(precision, weighed=weighed)
    assert caught.value.code == "no-quantizer"
    assert "pip install libgguf" in caught.value.remedy


@pytest.mark.usefixtures("without_package")
def test_the_others_need_neither(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checked: Any = quantizer.check("Q4_0")
    assert checked is None
