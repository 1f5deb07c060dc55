"""The shape of a model, read from config.json and the headers of its weights: no weight and no library is loaded."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import ModelError
from backend.run.config import TuningConfig
from backend.run.methods import fits_pattern, is_target, layer_number
from backend.utils.file_utils import DamagedFileError, read_json_object

MAX_HEADER_BYTES = 100_000_000
_EMBEDDINGS = re.compile(r"(^|\.)(embed_\w+|wte|wpe|word_embeddings|embeddings|lm_head)(\.|$)")
_ENDS = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|word_embeddings|lm_head|embed_out)$")


@dataclass(frozen=True)
class Linear:
    """One weight matrix that an adapter can stand beside: ``inputs`` to ``outputs``, in numbers."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class ModelShape:
    """The shape of a model, which decides time, memory and disk. ``context`` is in tokens, 0 if unknown."""

    parameters: int
    layers: int
    width: int
    intermediate: int
    vocabulary: int
    context: int
    linears: tuple[Linear, ...]
    sizes: dict[str, int] = field(default_factory=dict, hash=False)
    """Parameters by the name of their module."""

    @property
    def linear_parameters(self) -> int:
        """The parameters in the matrices that every token passes through; embeddings and the head are none."""
        return sum(one.inputs * one.outputs for one in self.linears)

    def lora_parameters(self, tuning: TuningConfig) -> int:
        """Trained parameters of the LoRA matrices that ``tuning`` asks for, with names matched as peft does."""
        return sum(
            _rank(one.name, tuning) * (one.inputs + one.outputs) + tuning.use_dora * one.outputs
            for one in self.linears
            if _has_adapter(one.name, tuning)
        )

    def whole_parameters(self, tuning: TuningConfig) -> int:
        """Parameters that ``tuning`` trains beside the adapter: whole layers, and rows of tokens in both ends.

        A head that shares the matrix of the embeddings is no matrix in the files, so it counts as one.
        """
        found = {name: size for name, size in self.sizes.items() if is_target(name, tuning.modules_to_save)}
        head = self.vocabulary * self.width if tuning.modules_to_save and not found else 0
        ends = [name for name in self.sizes if _ENDS.search(name)]
        rows = len(tuning.trainable_token_indices) * self.width * max(1, len(ends))
        return sum(found.values()) + head + rows


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in ``folder``. Raises ModelError (``no-config``, ``damaged-weights``)."""
    try:
        config = read_json_object(folder / "config.json")
    except (OSError, DamagedFileError) as error:
        raise ModelError(
            f"{folder} has no readable config.json.",
            remedy="Give a folder in Hugging Face layout.",
            code="no-config",
        ) from error
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    tensors = dict(_tensors(folder))
    width = _first(text, "hidden_size", "n_embd", "d_model")
    return ModelShape(
        parameters=sum(math.prod(shape) for shape in tensors.values()),
        layers=_first(text, "num_hidden_layers", "n_layer", "num_layers"),
        width=width,
        intermediate=_first(text, "intermediate_size", "n_inner", "d_ff") or 4 * width,
        vocabulary=_first(text, "vocab_size"),
        context=_first(text, "max_position_embeddings", "n_positions"),
        linears=tuple(_linears(tensors)),
        sizes=_sizes(tensors),
    )


def _has_adapter(name: str, tuning: TuningConfig) -> bool:
    targets, layers = tuning.lora_target_modules, tuning.layers_to_transform
    aimed = targets == "all-linear" or is_target(name, targets)
    left_out = is_target(name, [*tuning.exclude_modules, *tuning.modules_to_save])
    return aimed and not left_out and (not layers or layer_number(name) in layers)


def _rank(name: str, tuning: TuningConfig) -> int:
    fitting = (rank for key, rank in tuning.rank_pattern.items() if fits_pattern(name, key))
    return next(fitting, tuning.lora_r)


def _first(config: Mapping[str, Any], *names: str) -> int:
    return next((value for name in names if isinstance(value := config.get(name), int)), 0)


def _sizes(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, shape in tensors.items():
        module = name.rpartition(".")[0]
        sizes[module] = sizes.get(module, 0) + math.prod(shape)
    return sizes


def _linears(tensors: Mapping[str, tuple[int, ...]]) -> Iterator[Linear]:
    for name, shape in sorted(tensors.items()):
        if len(shape) == 2 and name.endswith(".weight") and not _EMBEDDINGS.search(name):
            yield Linear(name.removesuffix(".weight"), shape[1], shape[0])


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor in the folder's safetensors files, from their headers alone."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > MAX_HEADER_BYTES:
                    raise ValueError("its header is too long")
                header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            found = [(name, tuple(int(size) for size in entry["shape"])) for name, entry in header.items()]
        except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The header of {path} cannot be read.",
                remedy="Download or convert the model again.",
                code="damaged-weights",
            ) from error
        yield from found
