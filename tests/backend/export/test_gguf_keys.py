"""The keys of a GGUF file beside what was trained: backend/export/gguf_keys.py. Files are changed in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.core.gguf.convert import ROPE_FREQS, gguf_config
from backend.core.gguf.file import GgufFile, read_gguf
from backend.errors import ModelError
from backend.export.forms import write_form
from backend.export.gguf_keys import (
    END_KEYS,
    check_adapter_keys,
    check_keys,
    readable_model,
    unknown_gguf_keys,
)
from tests.backend.export.conftest import Asked, ask
from tests.backend.export.results import finished
from tests.backend.export.spoil import others

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 3e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 3e4, "factor": 4.0, "original_max_position_embeddings": 64}
STRUCTURE = ("general.architecture", "general.alignment", *END_KEYS)
"""Not of this room: how the file is read, and ends, which are compared with the rules of generation."""
NAMES = ("general.name", "general.size_label")
DERIVED = ("key_length", "value_length", "dimension_count", "vocab_size")
"""Left out, they are what the other keys say."""


@pytest.fixture(scope="module", params=[LLAMA3, YARN], ids=["llama3", "yarn"])
def scaled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Asked, GgufFile]:
    root = tmp_path_factory.mktemp("scaled")
    asked = ask(finished(root, family="llama3", rope_parameters=request.param), rows=1)
    (root / "out").mkdir()
    return asked, read_gguf(write_form(asked.fresh(), "gguf", "F32", root / "out", max_shard_size="5GB")[0])


def found(asked: Asked, file: GgufFile) -> list[str]:
    """All that is said of a file's keys, wrong or unknown; that it cannot be read is said as well."""
    trained = asked.trained
    try:
        config = gguf_config(readable_model(file))
        told = list(check_keys(file, config, trained.model.config, trained.tokenizer, "F32"))
    except (ModelError, LookupError, TypeError, ValueError) as error:
        return [str(error)]
    return [*told, *unknown_gguf_keys(file, trained.tokenizer)]


def changes(file: GgufFile) -> Iterator[tuple[str, bool, GgufFile]]:
    """(what was changed, whether it means anything, the file) for each key that is changed or left out alone."""
    for key, value in file.metadata.items():
        rest = {name: other for name, other in file.metadata.items() if name != key}
        yield f"{key} left out", not key.endswith((*NAMES, *DERIVED)), replace(file, metadata=rest)
        for other in others(value):
            yield f"{key} = {str(other)[:60]}", key not in NAMES, replace(file, metadata=rest | {key: other})


def test_every_key_that_is_changed_alone_is_named(scaled: tuple[Asked, GgufFile]) -> None:
    asked, file = scaled
    assert found(asked, file) == []
    tried = [each for each in changes(file) if not each[0].startswith(STRUCTURE)]
    missed = [said for said, meant, spoilt in tried if meant and not found(asked, spoilt)]
    assert missed == []
    assert len(tried) > 50


def test_positions_that_lie_in_a_tensor_are_compared(scaled: tuple[Asked, GgufFile]) -> None:
    asked, file = scaled
    tensors = {name: tensor for name, tensor in file.tensors.items() if name != ROPE_FREQS}
    plain = replace(file, tensors=tensors)
    odd = np.full((1, 16), 1, np.float32).view(np.uint8)
    other = replace(next(iter(file.tensors.values())), name=ROPE_FREQS, shape=(4,), rows=odd[:, :16])
    rule = asked.trained.model.config.rope_parameters["rope_type"]
    said = {
        "llama3": (["rope_parameters.rope_type is default"], [f"{ROPE_FREQS} scales positions differently"]),
        "yarn": ([], [f"{ROPE_FREQS} scales positions, which the trained model does not"]),
    }[rule]
    for spoilt, starts in zip(
        (plain, replace(file, tensors=tensors | {ROPE_FREQS: other})), said, strict=True
    ):
        told = found(asked, spoilt)
        assert [each for start in starts for each in told if each.startswith(start)] != [] or told == starts


@pytest.mark.parametrize("key", ["llama.logit_scale", "llama.attention.sliding_window", "tokenizer.ggml.odd"])
def test_what_llama_cpp_may_read_and_we_do_not_know_is_named(
    key: str, scaled: tuple[Asked, GgufFile]
) -> None:
    asked, file = scaled
    assert found(asked, replace(file, metadata=file.metadata | {key: 7})) == [
        f"{file.path.name} has the key {key}"
    ]


@pytest.mark.parametrize("key", ["general.license", "mine.note"])
def test_a_note_changes_nothing(key: str, scaled: tuple[Asked, GgufFile]) -> None:
    asked, file = scaled
    assert found(asked, replace(file, metadata=file.metadata | {key: "x"})) == []


def test_an_adapters_keys_are_compared(llama: Asked, tmp_path: Path) -> None:
    file = read_gguf(write_form(llama.trained, "lora-gguf", "F32", tmp_path, max_shard_size="5GB")[0])
    adapter: dict[str, Any] = {"r": 4, "lora_alpha": 32}
    config = llama.trained.model.config
    assert list(check_adapter_keys(file, adapter, config)) == []
    told = [list(check_adapter_keys(spoilt, adapter, config)) for _, _, spoilt in changes(file)]
    named = {each.split(" is ")[0] for tell in told for each in tell}
    assert named == {"general.type", "general.architecture", "adapter.type", "adapter.lora.alpha"}
    rescaled = adapter | {"lora_alpha": 64}
    assert list(check_adapter_keys(file, rescaled, config)) == [
        "adapter.lora.alpha is 32.0, but 64.0 in training"
    ]
