"""Compare the contents of an export with the trained model: weights here, settings and tokens through other modules.

A reader's answers show that something is wrong; this tells what. ``check_*`` return what is wrong, a sentence part
each; ``unknown_*`` return what Tunesmith does not know, which need not be wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf.quants import dequantize, quantize
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from backend.core.gguf.convert import unpack_gguf, unpermuted
from backend.core.gguf.file import GgufFile, read_gguf
from backend.core.model_loader import load_base
from backend.errors import ModelError
from backend.export.gguf_keys import (
    END_KEYS,
    check_adapter_keys,
    check_keys,
    readable_model,
    unknown_gguf_keys,
)
from backend.export.gguf_writer import ARCHITECTURES, FILE_TYPES
from backend.export.onnx_writer import ONNX_FILE
from backend.export.plain import WEIGHTS, PlainLora, matrix_name, read_config
from backend.export.quantizer import is_weighed
from backend.export.rounding import distance, largest_error
from backend.export.settings import check_config, check_rules, unknown_rules, unknown_settings
from backend.export.trained import greedy_rules, model_weights
from backend.export.vocabulary import check_ends, check_tokenizer, unknown_tokenizer_settings

Floats = npt.NDArray[np.float32]
Readers = dict[str, Callable[[], Floats]]

_FLOATS = frozenset({"F32", "F16", "BF16"})


def check_folder(
    folder: Path,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    *,
    stored: torch.dtype | None = None,
    base: Path | None = None,
) -> list[str]:
    """Return every difference between a model in Hugging Face layout and the trained one.

    ``stored`` is the precision that the weights should have; ``base`` is the model before training, which tells a
    layer into which the adapter was not merged.
    """
    return [
        *_check_files(folder, config, tokenizer, end_ids, stored),
        *_check_weights(folder, weights, base, _Stored({}, dtype=stored)),
    ]


def unknown_in_folder(
    folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]
) -> list[str]:
    """Return the unknown settings of a model in Hugging Face layout."""
    return [
        *unknown_settings(folder / "config.json", config),
        *unknown_rules(folder / "generation_config.json", greedy_rules(tokenizer, end_ids)),
        *unknown_tokenizer_settings(folder, tokenizer),
    ]


def _check_files(
    folder: Path,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    stored: torch.dtype | None,
) -> Iterator[str]:
    precision = str(stored).removeprefix("torch.") if stored else None
    yield from check_config(folder / "config.json", config, precision)
    yield from _check_tokens(folder, tokenizer, end_ids)


def _check_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> Iterator[str]:
    rules = greedy_rules(tokenizer, end_ids)
    yield from check_tokenizer(folder, tokenizer)
    yield from check_rules(folder / "generation_config.json", rules)
    yield from check_ends(folder, rules, tokenizer)


@dataclass(frozen=True)
class _Stored:
    """The storage of weights: ``kinds`` by name in a GGUF file, which is ``ours`` or llama.cpp's, or a ``dtype``."""

    kinds: Mapping[str, gguf.GGMLQuantizationType]
    ours: bool = True
    dtype: torch.dtype | None = None


def _check_weights(
    folder: Path, weights: Mapping[str, Tensor], base: Path | None, stored: _Stored
) -> Iterator[str]:
    read = _readers(folder, weights.keys())
    yield from (f"the weight {name} is missing" for name in sorted(weights.keys() - read.keys()))
    yield from (f"the weight {name} does not belong there" for name in sorted(read.keys() - weights.keys()))
    for name in sorted(weights.keys() & read.keys()):
        values, trained = read[name](), weights[name].detach().float().cpu().numpy()
        if not is_rounded(values, trained, stored.kinds.get(name), stored.dtype, ours=stored.ours):
            yield f"{name} {_explain(name, values, trained, weights, base)}"


def check_gguf(
    path: Path,
    scratch: Path,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    *,
    base: Path | None = None,
    precision: str | None = None,
) -> list[str]:
    """Return every difference between a GGUF file in ``precision`` and the trained model.

    The file is unpacked into ``scratch``, which must not exist. Raises ModelError if our import cannot read it.
    """
    file = read_gguf(path)
    unpack_gguf(readable_model(file), scratch)
    found = json.loads((scratch / "config.json").read_text("utf-8"))
    ends = frozenset(int(file.metadata[key]) for key in END_KEYS if key in file.metadata)
    ours = file.metadata.get("general.file_type") in FILE_TYPES.values() and not is_weighed(file)
    stored = _Stored(_kinds(file, config, weights), ours=ours)
    return [
        *check_keys(file, found, config, tokenizer, precision),
        *check_ends(scratch, greedy_rules(tokenizer, end_ids), tokenizer, ends),
        *_check_weights(scratch, weights, base, stored),
    ]


def unknown_in_gguf(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the unknown keys of a GGUF file."""
    return unknown_gguf_keys(read_gguf(path), tokenizer)


def check_onnx(
    folder: Path,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
) -> list[str]:
    """Return every difference between an ONNX graph in ``folder`` and the trained model.

    In a graph weights have lost their names and some are transposed. So a missing weight is found, but not two that
    are swapped.
    """
    import onnx  # noqa: PLC0415 - an extra

    problems = list(_check_files(folder, config, tokenizer, end_ids, torch.float32))
    graph = onnx.load(folder / ONNX_FILE).graph
    stored = {_digest(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().float().cpu().numpy()
        if not {_digest(values), _digest(values.T)} & stored:
            problems.append(f"the weight {name} is nowhere in the graph")
    return problems


def _digest(values: npt.NDArray[Any]) -> str:
    """Return a text that is equal for arrays of the same shape and numbers."""
    return f"{values.shape} {hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()}"


def _readers(folder: Path, names: Set[str]) -> Readers:
    """Return a function to read each weight, by name; transformers reads models stored under other names."""
    read: Readers = {}
    for file in sorted(folder.glob("*.safetensors")):
        read |= {name: partial(_tensor, file, name) for name in _names(file)}
    if names - read.keys() and read.keys() - names:
        with suppress(ModelError):
            return {name: part.numpy for name, part in model_weights(load_base(folder)).items()}
    return read


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def _tensor(file: Path, name: str) -> Floats:
    with safe_open(file, "pt") as tensors:
        values: Floats = tensors.get_tensor(name).float().numpy()
    return values


def _kinds(
    file: GgufFile, config: PretrainedConfig, weights: Mapping[str, Tensor]
) -> dict[str, gguf.GGMLQuantizationType]:
    """Return the GGUF kind of each weight, by its Hugging Face name."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    found = {name: names.get_name(name, try_suffixes=(".weight", ".bias")) for name in weights}
    return {name: file.tensors[part].kind for name, part in found.items() if part in file.tensors}


def _rounded(
    trained: Floats, kind: gguf.GGMLQuantizationType | None, stored: torch.dtype | None
) -> Floats | None:
    """Return the trained values rounded to the stored precision; None if only llama.cpp can round so."""
    if kind is None:
        values: Floats = torch.from_numpy(trained).to(stored or torch.float32).float().numpy()
        return values
    if kind.name not in FILE_TYPES:
        return None
    rounded: Floats = dequantize(quantize(trained, kind), kind)
    return rounded


def is_rounded(
    values: Floats,
    trained: Floats,
    kind: gguf.GGMLQuantizationType | None,
    stored: torch.dtype | None = None,
    *,
    ours: bool = True,
) -> bool:
    """Return whether ``values`` are the trained ones in ``kind`` or ``stored``.

    They must be equal if we can round in the same way; K-quants, and blocks rounded by llama.cpp (not ``ours``), may
    have a small error.
    """
    repeated = ours or kind is None or kind.name in _FLOATS
    wanted = _rounded(trained, kind, stored) if repeated else None
    if wanted is not None or values.shape != trained.shape:
        return np.array_equal(values, trained if wanted is None else wanted)
    return distance(values, trained) <= largest_error(kind.name if kind else "")


def _explain(
    name: str, values: Floats, trained: Floats, weights: Mapping[str, Tensor], base: Path | None
) -> str:
    """Return the likeliest explanation of a wrong weight, or just its distance from the trained one."""
    if values.shape != trained.shape:
        return f"has the shape {list(values.shape)} instead of {list(trained.shape)}"
    apart = distance(values, trained)
    before = _base_tensor(base, name)
    if before is not None and distance(values, before) < apart / 3:
        return "holds the base model's values: the adapter was not merged into it"
    factor = float(np.vdot(values, trained) / (np.vdot(trained, trained) or 1.0))
    if abs(factor - 1) > 0.01 and distance(values, factor * trained) < apart / 3:
        return f"is {factor:.4g} times the trained weight: its scale is wrong"
    others = (other for other, tensor in weights.items() if other != name and tensor.shape == values.shape)
    for other in others:
        if distance(values, weights[other].detach().float().cpu().numpy()) < apart / 3:
            return f"holds the values of {other}"
    if values.ndim > 1 and apart > 0.5 and distance(_row_norms(values), _row_norms(trained)) < apart / 3:
        return "has its rows in another order: its heads are permuted"
    return f"differs from the trained weight by {apart:.1%}"


def _row_norms(values: Floats) -> Floats:
    norms: Floats = np.sort(np.linalg.norm(values, axis=1))
    return norms


def _base_tensor(base: Path | None, name: str) -> Floats | None:
    """Return a weight before training; None without the base."""
    files = sorted(base.glob("*.safetensors")) if base else []
    file = next((file for file in files if name in _names(file)), None)
    return None if file is None else _tensor(file, name)


# --- adapters ---------------------------------------------------------------------------------------------


def check_adapter(
    folder: Path,
    plain: PlainLora,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    *,
    naming: Mapping[str, Any],
) -> list[str]:
    """Return every difference between an exported adapter and the plain form of the trained one.

    ``naming`` are the keys of adapter_config.json that are meant to differ, see ``Trained.naming``.
    """
    problems = list(_check_tokens(folder, tokenizer, end_ids))
    mine = {name: values.numpy() for name, values in plain.weights.items()}
    theirs = {name: _tensor(folder / WEIGHTS, name) for name in _names(folder / WEIGHTS)}
    problems += [f"the weight {name} is missing" for name in sorted(mine.keys() - theirs.keys())]
    problems += [f"the weight {name} does not belong there" for name in sorted(theirs.keys() - mine.keys())]
    problems += [
        f"{name} differs from the trained adapter"
        for name in sorted(mine.keys() & theirs.keys())
        if not np.array_equal(mine[name], theirs[name])
    ]
    found, wanted = read_config(folder), {**plain.config, **naming}
    problems += [
        f"adapter_config.json has {key} {found.get(key)}, not {value}"
        for key, value in wanted.items()
        if value != found.get(key)
    ]
    return problems


def unknown_in_adapter(
    folder: Path, plain: PlainLora, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]
) -> list[str]:
    """Return the unknown settings of an exported adapter."""
    more = sorted(read_config(folder).keys() - plain.config.keys())
    return [
        *(f"adapter_config.json has the key {key}" for key in more),
        *unknown_rules(folder / "generation_config.json", greedy_rules(tokenizer, end_ids)),
        *unknown_tokenizer_settings(folder, tokenizer),
    ]


def check_shared_ends(model: PreTrainedModel, result: Path) -> Iterator[str]:
    """Yield a sentence if head and embeddings are one matrix and the adapter was trained on only one of them.

    Merged, its update is in both, so no reader of the export can get the trained head.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if ends[1] is None or ends[0].weight.data_ptr() != ends[1].weight.data_ptr():
        return
    names = [name for name, part in model.named_modules() if part in ends]
    adapted = {
        name.removeprefix("base_model.model.").partition(".lora_")[0] for name in _names(result / WEIGHTS)
    }
    for name in sorted(adapted & set(names)):
        yield (
            f"the adapter's update of {name} is in both head and embeddings, which are one matrix; it was trained "
            f"for {name} alone"
        )


def check_lora(path: Path, plain: PlainLora, config: PretrainedConfig) -> list[str]:
    """Return every difference between an adapter's GGUF file and the plain form of the trained adapter."""
    file = read_gguf(path)
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    problems = list(check_adapter_keys(file, plain.config, config))
    wanted: dict[str, Floats] = {}
    for name, values in plain.weights.items():
        layer, side = matrix_name(name)
        part = names.get_name(f"{layer.removeprefix('base_model.model.')}.weight", try_suffixes=(".weight",))
        by_token = part == "token_embd.weight" and side == "A"
        wanted[f"{part}.lora_{side.lower()}"] = (values.T if by_token else values).numpy()
    problems += [f"the weight {part} is missing" for part in sorted(wanted.keys() - file.tensors.keys())]
    extra = sorted(file.tensors.keys() - wanted.keys())
    problems += [f"the weight {part} does not belong there" for part in extra]
    for part in sorted(wanted.keys() & file.tensors.keys()):
        tensor = file.tensors[part]
        rows = unpermuted(tensor, config.to_dict()) if part.endswith("lora_b") else tensor.rows
        if not np.array_equal(rows.view(np.float32).ravel(), wanted[part].ravel()):
            problems.append(f"{part} differs from the trained adapter")
    return problems
