"""The shape of a model from its files, held against the loaded model itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from backend.errors import ModelError
from backend.manager.planning.model_shape import Linear, ModelShape, read_shape
from backend.run.config import TuningConfig
from backend.training.tuning import make_trainable, trainable_parameters
from tests.tiny import ARCHITECTURES, Architecture, tiny_model, tiny_model_folder

SHAPE = ModelShape(100, 1, 4, 8, 10, 16, (Linear("a.q_proj", 4, 6), Linear("a.v_proj", 4, 2)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_the_shape_of_the_loaded_model(architecture: Architecture, tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model", architecture=architecture)
    model = tiny_model(architecture, vocab_size=400)
    shape = read_shape(folder)
    assert shape.parameters == model.num_parameters()
    assert (shape.layers, shape.width, shape.vocabulary, shape.context) == (2, 32, 400, 512)
    assert shape.intermediate == {"gpt2": 128}.get(architecture, 64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_adapters_have_as_many_parameters_as_peft_gives_them(
    architecture: Architecture, rank: int, tmp_path: Path
) -> None:
    shape = read_shape(tiny_model_folder(tmp_path / "model", architecture=architecture))
    tuning = TuningConfig(lora_r=rank)
    adapted = make_trainable(tiny_model(architecture, vocab_size=400), tuning, seed=0)
    trained = sum(part.numel() for part in trainable_parameters(adapted).values())
    assert shape.lora_parameters(tuning) == trained


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2, "down_proj": 7}},
        {"exclude_modules": ["up_proj"], "layers_to_transform": [1]},
        {"init_lora_weights": "olora"},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["norm", "down_proj"]},
        {"trainable_token_indices": [1, 2, 3]},
    ],
    ids=str,
)
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_further_settings_change_the_parameters_as_in_peft(
    settings: dict[str, Any], tie: bool, tmp_path: Path
) -> None:
    shape = read_shape(tiny_model_folder(tmp_path / "model", tie_word_embeddings=tie))
    tuning = TuningConfig(lora_r=4, **settings)
    adapted = make_trainable(tiny_model(vocab_size=400, tie_word_embeddings=tie), tuning, seed=0)
    trained = sum(part.numel() for part in trainable_parameters(adapted).values())
    assert shape.lora_parameters(tuning) + shape.whole_parameters(tuning) == trained


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", 3 * (10 + 6)),
        (["q_proj"], 30),
        (["a.v_proj"], 18),
        (["proj"], 0),
        (r".*_proj", 48),
        (r".*\.q_proj", 30),
        ("(", 0),
    ],
)
def test_targets_are_matched_as_peft_does(targets: str | list[str], expected: int) -> None:
    assert SHAPE.lora_parameters(TuningConfig(lora_r=3, lora_target_modules=targets)) == expected


def test_matrices_that_every_token_passes() -> None:
    assert SHAPE.linear_parameters == 4 * 6 + 4 * 2


def test_a_model_inside_a_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = folder / "config.json"
    config.write_text('{"text_config": ' + config.read_text() + "}")
    assert read_shape(folder) == read_shape(tiny_folder)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_shape(tmp_path)
    assert caught.value.code == "no-config"


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b'\x07\0\0\0\0\0\0\0{"a":1}'])
def test_weights_with_a_broken_header(tiny_folder: Path, tmp_path: Path, content: bytes) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors") as caught:
        read_shape(folder)
    assert caught.value.code == "damaged-weights"
