"""A model as an ONNX graph: backend/export/onnx_writer.py, run by the real onnxruntime."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import LlamaConfig, MistralConfig, PreTrainedModel

from backend.errors import ExportError
from backend.export.onnx_writer import ONNX_FILE, check_graph, check_onnx, write_onnx
from tests.tiny import tiny_model

STATES = (2, 0, 8)
"""Heads, tokens and width of an empty cache of the tiny model."""


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("qwen3", num_hidden_layers=1)


@pytest.fixture(scope="module")
def session(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    file = tmp_path_factory.mktemp("onnx") / ONNX_FILE
    write_onnx(file, model)
    assert sorted(path.name for path in file.parent.iterdir()) == [ONNX_FILE, f"{ONNX_FILE}.data"]
    return onnxruntime.InferenceSession(file)


def run(
    session: onnxruntime.InferenceSession, ids: list[list[int]], mask: Any, states: list[Any]
) -> tuple[Any, list[Any]]:
    """Logits and the states behind them; positions count what is not masked."""
    positions = (np.cumsum(np.array(mask, np.int64), 1) - 1).clip(0)[:, -len(ids[0]) :]
    entries = dict(zip([entry.name for entry in session.get_inputs()][3:], states, strict=True))
    fed = {"input_ids": np.array(ids), "attention_mask": np.array(mask, np.int64), "position_ids": positions}
    logits, *kept = session.run(None, fed | entries)
    return logits, kept


@torch.inference_mode()
def logits_of(model: PreTrainedModel, ids: list[int]) -> Any:
    return model(input_ids=torch.tensor([ids])).logits[0].numpy()


@pytest.mark.slow
def test_names_are_those_that_readers_look_for(session: onnxruntime.InferenceSession) -> None:
    states = ["0.key", "0.value"]
    own = ["input_ids", "attention_mask", "position_ids"]
    assert [entry.name for entry in session.get_inputs()] == own + [f"past_key_values.{s}" for s in states]
    assert [entry.name for entry in session.get_outputs()] == ["logits"] + [f"present.{s}" for s in states]
    assert session.get_inputs()[0].shape == ["batch", "tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_prompt_of_any_length_and_what_follows_it(
    length: int, session: onnxruntime.InferenceSession, model: PreTrainedModel
) -> None:
    prompt, more = list(range(50, 50 + length)), [7, 9]
    first, states = run(session, [prompt], np.ones((1, length)), [np.zeros((1, *STATES), np.float32)] * 2)
    second, _ = run(session, [more], np.ones((1, length + 2)), states)
    wanted = logits_of(model, prompt + more)
    assert np.abs(np.concatenate([first[0], second[0]]) - wanted).max() < 1e-5


@pytest.mark.slow
def test_rows_padded_on_the_left_say_what_they_say_alone(
    session: onnxruntime.InferenceSession, model: PreTrainedModel
) -> None:
    ids, mask = [[3, 4, 5, 6], [0, 0, 8, 9], [0, 0, 0, 2]], [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    logits, _ = run(session, ids, mask, [np.zeros((3, *STATES), np.float32)] * 2)
    wanted = [logits_of(model, row)[-1] for row in ([3, 4, 5, 6], [8, 9], [2])]
    assert np.abs(logits[:, -1] - np.stack(wanted)).max() < 1e-5


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (MistralConfig(), "unsupported-architecture"),
        (
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "unsupported-positions",
        ),
    ],
    ids=["mistral", "dynamic"],
)
def test_what_was_never_tried_is_refused(config: Any, code: str) -> None:
    with pytest.raises(ExportError) as caught:
        check_graph(config)
    assert caught.value.code == code


def test_attention_in_windows_is_refused() -> None:
    config = tiny_model("qwen3").config
    assert check_graph(config) is None
    config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ExportError, match="sliding-window"):
        check_graph(config)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_onnx() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExportError, match=r"pip install onnx onnxscript onnxruntime") as caught:
        check_onnx()
    assert caught.value.code == "no-onnx"
