"""Exports of every form and family, certified by their real readers: backend/export/check.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.core.model_loader import load_adapter, load_base, merge_adapter
from backend.export.certificate import Light
from backend.export.check import unchecked
from backend.export.forms import Target
from backend.export.trained import Trained
from tests.backend.export.conftest import Asked, Harm, ask, export_of
from tests.backend.export.harm import rewrite
from tests.backend.export.results import finished
from tests.tiny import Architecture, Family


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize(
    ("target", "precision", "reader"),
    [
        ("adapter", "float32", "transformers"),
        ("merged", "float32", "transformers"),
        ("gguf", "F32", "llama.cpp"),
        ("ollama", "F16", "llama.cpp"),
        ("lora-gguf", "F32", "llama.cpp"),
    ],
)
def test_every_form_is_green(
    target: Target, precision: str, reader: str, llama: Asked, tmp_path: Path
) -> None:
    certificate = export_of(llama, tmp_path, target, precision)[1]
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])
    assert certificate.reader.startswith(reader)
    assert certificate.rows == len(llama.panel.rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "family"),
    [("qwen2", "qwen3"), ("qwen3", "qwen3"), ("llama", "llama3"), ("llama", "mistral"), ("llama", "base")],
)
def test_every_family_is_read_by_llama_cpp_as_it_was_trained(
    architecture: Architecture, family: Family, tmp_path: Path
) -> None:
    asked = ask(finished(tmp_path / "made", architecture=architecture, family=family))
    (tmp_path / "out").mkdir()
    certificate = export_of(asked, tmp_path / "out", "gguf", "F32")[1]
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])


def test_a_full_run_leaves_as_gguf(tmp_path: Path) -> None:
    asked = ask(finished(tmp_path / "made", method="full"))
    (tmp_path / "out").mkdir()
    assert export_of(asked, tmp_path / "out", "gguf", "F32")[1].light == Light.GREEN


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 300]},
    ],
    ids=["dora", "head", "tokens"],
)
def test_what_no_adapter_can_hold_is_in_the_merged_model(lora: dict[str, Any], tmp_path: Path) -> None:
    asked = ask(finished(tmp_path / "made", lora=lora, tie_word_embeddings=False))
    (tmp_path / "out").mkdir()
    certificate = export_of(asked, tmp_path / "out", "gguf", "F32")[1]
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip


def note(file: Path) -> None:
    """A key more, of the architecture's own, in place of a name that is as long."""
    file.write_bytes(file.read_bytes().replace(b"general.name", b"llama.oddnam"))


def lose_positions(file: Path, _: Trained) -> None:
    rewrite(file, tensors=lambda found: found.pop("rope_freqs.weight"))


@pytest.mark.parametrize(
    ("harm", "light"), [(lambda *_: None, Light.GREEN), (lose_positions, Light.RED)], ids=["right", "lost"]
)
def test_scaled_positions_are_green_where_they_are_right_and_red_where_they_are_lost(
    harm: Harm, light: Light, tmp_path: Path
) -> None:
    """A row beyond the context of pre-training is read, by llama.cpp."""
    asked = ask(finished(tmp_path / "made", family="llama3", rope_parameters=LLAMA3))
    (tmp_path / "out").mkdir()
    certificate = export_of(asked, tmp_path / "out", "gguf", "F32", harm)[1]
    told = {check.name: check.light for check in certificate.checks}
    assert (certificate.light, told["contents"], told["long rows"]) == (light, light, light)


def test_a_key_that_nobody_knows_is_amber(llama: Asked, tmp_path: Path) -> None:
    file, certificate = export_of(llama, tmp_path, "gguf", "F32", lambda file, _: note(file))
    assert (certificate.light, file.name in certificate.reasons[0]) == (Light.AMBER, True)
    assert certificate.reasons[0].endswith("has the key llama.oddnam.")


@pytest.fixture
def no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return


def test_without_a_reader_it_is_never_green(no_llama_cpp: None, llama: Asked, tmp_path: Path) -> None:
    certificate = export_of(llama, tmp_path, "gguf", "F32")[1]
    assert certificate.light == Light.AMBER
    assert certificate.reasons == [
        "Not checked: xllamacpp is not installed, and nothing else here reads this form."
    ]


def test_what_nobody_asked_for_is_amber(llama: Asked) -> None:
    certificate = unchecked(llama.trained, "gguf", "F32", "no rows were asked for.")
    assert (certificate.light, certificate.rows) == (Light.AMBER, 0)
    assert certificate.reasons == ["Not checked: no rows were asked for."]


def test_a_panel_of_training_rows_is_amber(llama: Asked, tmp_path: Path) -> None:
    noted = replace(llama, panel=replace(llama.panel, note="These were trained on."))
    certificate = export_of(noted, tmp_path, "gguf", "F32")[1]
    assert (certificate.light, certificate.reasons) == (Light.AMBER, ["These were trained on."])


@pytest.mark.parametrize(("target", "light"), [("lora-gguf", Light.AMBER), ("gguf", Light.GREEN)])
def test_an_adapter_over_another_base_than_its_name_says_is_amber(
    target: Target, light: Light, llama: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trained, "base_note", "Another base.")
    certificate = export_of(llama, tmp_path, target, "F32")[1]
    assert (certificate.light, certificate.reasons) == (light, ["Another base."] * (light == Light.AMBER))


def test_nothing_is_left_beside_the_export(llama: Asked, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_of(llama, tmp_path / "out", "lora-gguf", "F32")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class TestOverABaseIn4Bits:
    """What leaves is what was trained: the base's rounded values, and not those that were published."""

    @pytest.mark.usefixtures("read_here")
    @pytest.mark.parametrize(
        ("target", "precision", "light"),
        [
            ("adapter", "float32", Light.GREEN),
            ("merged", "float32", Light.GREEN),
            ("gguf", "F32", Light.GREEN),
            ("lora-gguf", "F32", Light.AMBER),  # llama.cpp has no such base to load it over
        ],
    )
    def test_every_form_answers_as_trained(
        self, target: Target, precision: str, light: Light, packed: Asked, tmp_path: Path
    ) -> None:
        certificate = export_of(packed, tmp_path, target, precision)[1]
        assert certificate.light == light
        assert certificate.reasons == [packed.trained.rounded_base_note] * (light == Light.AMBER)

    @pytest.mark.usefixtures("read_here")
    def test_the_published_weights_with_the_adapter_are_red(self, packed: Asked, tmp_path: Path) -> None:
        def merge_into_published(payload: Path, trained: Trained) -> None:
            merged = merge_adapter(load_adapter(load_base(trained.base), trained.result))
            merged.save_pretrained(payload)

        certificate = export_of(packed, tmp_path, "merged", "float32", merge_into_published)[1]
        assert certificate.light == Light.RED
