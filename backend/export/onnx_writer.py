"""Write a merged model as an ONNX graph with a key-value cache.

PyTorch's own exporter writes it. Inputs and outputs have the names of Hugging Face's Optimum, which readers expect:
``input_ids``, ``attention_mask``, ``position_ids``, ``past_key_values.<layer>.key`` and ``.value`` in; ``logits``,
``present.<layer>.key`` and ``.value`` out.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from backend.errors import ExportError
from backend.utils.warning_utils import unwarned

ONNX_FILE = "model.onnx"
ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""The architectures that were tested, by the model_type of config.json."""
POSITIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding that do not depend on the length of a text; a graph is the same for every length."""
States = list[tuple[Tensor, Tensor]]


def check_onnx() -> None:
    """Raise ExportError (``no-onnx``) if the packages that write ONNX are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise ExportError(
            "ONNX export needs the packages onnx and onnxscript, which are not installed here.",
            remedy="Run: pip install onnx onnxscript onnxruntime",
            code="no-onnx",
        )


def check_graph(config: PretrainedConfig) -> None:
    """Raise ExportError (``unsupported-architecture``, ``unsupported-positions``) for a model we cannot write."""
    if config.model_type not in ARCHITECTURES:
        raise ExportError(
            f"ONNX export supports {', '.join(ARCHITECTURES)}; this model is {config.model_type}.",
            remedy="Export it with `to=merged` instead.",
            code="unsupported-architecture",
        )
    rule = config.rope_parameters.get("rope_type", "default")
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if rule not in POSITIONS or windows:
        raise ExportError(
            f"ONNX export does not support positions scaled by {rule} or sliding-window attention.",
            remedy="Export it with `to=merged` instead.",
            code="unsupported-positions",
        )


class _Graph(nn.Module):
    """The module that is exported: one call of the model, with its cache as plain tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: States
    ) -> tuple[Tensor, States]:
        cache = DynamicCache(past)
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, [(layer.keys, layer.values) for layer in cache.layers]


def write_onnx(file: Path, model: PreTrainedModel) -> None:
    """Write ``model`` in float32 to ``file`` and its weights to ``<file>.data``; every length is dynamic."""
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows, read, new = 2, 3, 4  # sizes of the example; torch.export would treat 0 or 1 as constants
    shape = rows, heads, read, size
    example = (
        torch.zeros(rows, new, dtype=torch.int64),
        torch.ones(rows, read + new, dtype=torch.int64),
        torch.arange(read, read + new).repeat(rows, 1),
        [
            (torch.zeros(shape), torch.zeros(shape)) for _ in range(layers)
        ],  # distinct objects: shared ones merge
    )
    tokens, past = {0: "batch", 1: "tokens"}, {0: "batch", 2: "past"}
    shapes = (tokens, {0: "batch", 1: "past_and_tokens"}, tokens, [(past, past) for _ in range(layers)])
    with _quiet():
        program = torch.onnx.export(
            _Graph(model).eval(),
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["input_ids", "attention_mask", "position_ids", *_names("past_key_values", layers)],
            output_names=["logits", *_names("present", layers)],
            verbose=False,
        )
    cast("torch.onnx.ONNXProgram", program).save(file, external_data=True)


def _names(prefix: str, layers: int) -> Sequence[str]:
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about itself and about operators that no language model has."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with unwarned():
            yield
    finally:
        logger.setLevel(level)
