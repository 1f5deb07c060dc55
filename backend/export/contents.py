"""What lies in an export beside what was trained: weights here, settings and tokens in rooms of their own.

A reader's answers say that something is wrong; this says what. ``check_*`` name what is wrong, in words;
``unknown_*`` name what nobody here knows, which need not be wrong.
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
from backend.export.settings import check_config, check_rules, unknown_rules, unknown_settings
from backend.export.trained import greedy_rules, model_weights
from backend.export.vocabulary import check_ends, check_tokenizer, unknown_tokenizer_settings

Floats = npt.NDArray[np.float32]
Readers = dict[str, Callable[[], Floats]]

COARSE_ERRORS = {"Q6_K": 0.03, "Q5_K": 0.06, "Q4_K": 0.12, "Q3_K": 0.24, "Q2_K": 0.45}
"""Largest relative error of a tensor in a format that we cannot repeat; llama.cpp's own reaches about 0.6 of it."""
OTHER_ERROR = 0.15
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
    """Every difference between a model in Hugging Face layout and the trained one, in words; none where equal.

    ``stored`` is the precision the weights were meant to have; ``base`` is the model before training, by which a
    layer without its adapter is known.
    """
    return [
        *_check_files(folder, config, tokenizer, end_ids, stored),
        *_check_weights(folder, weights, base, _Stored({}, dtype=stored)),
    ]


def unknown_in_folder(
    folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]
) -> list[str]:
    """What the files beside the weights say that nobody here knows, in words."""
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
    yield from _check_words(folder, tokenizer, end_ids)


def _check_words(folder: Path, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> Iterator[str]:
    rules = greedy_rules(tokenizer, end_ids)
    yield from check_tokenizer(folder, tokenizer)
    yield from check_rules(folder / "generation_config.json", rules)
    yield from check_ends(folder, rules, tokenizer)


@dataclass(frozen=True)
class _Stored:
    """How weights are stored: in the ``kinds`` of a GGUF file, written by us (``ours``) or not, or in ``dtype``."""

    kinds: Mapping[str, gguf.GGMLQuantizationType]
    ours: bool = True
    dtype: torch.dtype | None = None


def _check_weights(
    folder: Path, weights: Mapping[str, Tensor], base: Path | None, stored: _Stored
) -> Iterator[str]:
    read = _readers(folder, weights.keys())
    yield from (f"the weight {name} is missing" for name in sorted(weights.keys() - read.keys()))
    yield from (f"the weight {name} is too many" for name in sorted(read.keys() - weights.keys()))
    for name in sorted(weights.keys() & read.keys()):
        values, trained = read[name](), weights[name].detach().float().cpu().numpy()
        if not is_rounded(values, trained, stored.kinds.get(name), stored.dtype, ours=stored.ours):
            yield f"{name} {_how(name, values, trained, weights, base)}"


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
    """The same for a GGUF file, meant to be in ``precision``; it is unpacked into ``scratch``, which must not exist.

    Raises ModelError where our import cannot read it.
    """
    file = read_gguf(path)
    unpack_gguf(readable_model(file), scratch)
    found = json.loads((scratch / "config.json").read_text("utf-8"))
    ends = frozenset(int(file.metadata[key]) for key in END_KEYS if key in file.metadata)
    ours = file.metadata.get("general.file_type") in FILE_TYPES.values()
    stored = _Stored(_kinds(file, config, weights), ours=ours)
    return [
        *check_keys(file, found, config, tokenizer, precision),
        *check_ends(scratch, greedy_rules(tokenizer, end_ids), tokenizer, ends),
        *_check_weights(scratch, weights, base, stored),
    ]


def unknown_in_gguf(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a GGUF file says that nobody here knows, in words."""
    return unknown_gguf_keys(read_gguf(path), tokenizer)


def check_onnx(
    folder: Path,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
) -> list[str]:
    """The same for an ONNX graph in ``folder``.

    Its weights have no names any more and some are turned, so that it can be seen that a trained one is nowhere, but
    not that two stand in each other's place.
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
    """What two arrays of the same shape and numbers have in common."""
    return f"{values.shape} {hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()}"


def _readers(folder: Path, names: Set[str]) -> Readers:
    """What reads each weight, by its name; transformers reads where a family is stored under other names."""
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
    """How each weight is stored in a GGUF file, by its Hugging Face name."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    found = {name: names.get_name(name, try_suffixes=(".weight", ".bias")) for name in weights}
    return {name: file.tensors[part].kind for name, part in found.items() if part in file.tensors}


def _rounded(
    trained: Floats, kind: gguf.GGMLQuantizationType | None, stored: torch.dtype | None
) -> Floats | None:
    """What the trained values become in the precision they are stored in; None where we cannot repeat that."""
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
    """Return whether ``values`` are the trained ones in ``kind`` or ``stored``: exactly, or as near as K-quants come.

    What is not ``ours`` was written by llama.cpp, which may round the same kind of block in another way.
    """
    repeated = ours or kind is None or kind.name in _FLOATS
    wanted = _rounded(trained, kind, stored) if repeated else None
    if wanted is not None or values.shape != trained.shape:
        return np.array_equal(values, trained if wanted is None else wanted)
    return _distance(values, trained) <= COARSE_ERRORS.get(kind.name if kind else "", OTHER_ERROR)


def _distance(values: Floats, wanted: Floats) -> float:
    """The relative root mean square difference."""
    return float(np.linalg.norm(values - wanted) / (np.linalg.norm(wanted) or 1.0))


def _how(name: str, values: Floats, trained: Floats, weights: Mapping[str, Tensor], base: Path | None) -> str:
    """In what way a weight is wrong, where it can be told: the likeliest of the known ways."""
    if values.shape != trained.shape:
        return f"has the shape {list(values.shape)} instead of {list(trained.shape)}"
    apart = _distance(values, trained)
    before = _base_tensor(base, name)
    if before is not None and _distance(values, before) < apart / 3:
        return "holds the base model's weights: what was trained is not merged into it"
    factor = float(np.vdot(values, trained) / (np.vdot(trained, trained) or 1.0))
    if abs(factor - 1) > 0.01 and _distance(values, factor * trained) < apart / 3:
        return f"is {factor:.4g} times the trained weight: its scale is wrong"
    others = (other for other, tensor in weights.items() if other != name and tensor.shape == values.shape)
    for other in others:
        if _distance(values, weights[other].detach().float().cpu().numpy()) < apart / 3:
            return f"holds the values of {other}"
    if values.ndim > 1 and apart > 0.5 and _distance(_row_norms(values), _row_norms(trained)) < apart / 3:
        return "has its rows in another order: its heads are permuted"
    return f"differs from the trained weight by {apart:.1%}"


def _row_norms(values: Floats) -> Floats:
    norms: Floats = np.sort(np.linalg.norm(values, axis=1))
    return norms


def _base_tensor(base: Path | None, name: str) -> Floats | None:
    """A weight before training, where the base is at hand."""
    files = sorted(base.glob("*.safetensors")) if base else []
    file = next((file for file in files if name in _names(file)), None)
    return None if file is None else _tensor(file, name)


# --- adapters ---------------------------------------------------------------------------------------------

_WEIGHTS = "adapter_model.safetensors"


def check_adapter(
    folder: Path,
    result: Path,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    *,
    naming: Mapping[str, Any],
) -> list[str]:
    """Every difference between an exported adapter and the run's own, in words.

    ``naming`` is what its adapter_config.json says in its own way, see ``Trained.naming``.
    """
    problems = list(_check_words(folder, tokenizer, end_ids))
    mine, theirs = (
        {name: _tensor(place / _WEIGHTS, name) for name in _names(place / _WEIGHTS)}
        for place in (result, folder)
    )
    problems += [f"the weight {name} is missing" for name in sorted(mine.keys() - theirs.keys())]
    problems += [f"the weight {name} is too many" for name in sorted(theirs.keys() - mine.keys())]
    problems += [
        f"{name} differs from the trained adapter"
        for name in sorted(mine.keys() & theirs.keys())
        if not np.array_equal(mine[name], theirs[name])
    ]
    ours, found = (_adapter_config(place) for place in (result, folder))
    wanted = {**ours, **naming}
    problems += [
        f"adapter_config.json says {key} {found.get(key)}, not {value}"
        for key, value in wanted.items()
        if value != found.get(key)
    ]
    return problems


def unknown_in_adapter(
    folder: Path, result: Path, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]
) -> list[str]:
    """What an exported adapter says that the run's own does not, in words."""
    more = sorted(_adapter_config(folder).keys() - _adapter_config(result).keys())
    return [
        *(f"adapter_config.json says {key}" for key in more),
        *unknown_rules(folder / "generation_config.json", greedy_rules(tokenizer, end_ids)),
        *unknown_tokenizer_settings(folder, tokenizer),
    ]


def check_shared_ends(model: PreTrainedModel, result: Path) -> Iterator[str]:
    """Yield what is wrong where head and embeddings are one matrix and the adapter was trained on one of them alone.

    Merged, its update is in both: no reader of the export could get the head that was trained.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if ends[1] is None or ends[0].weight.data_ptr() != ends[1].weight.data_ptr():
        return
    names = [name for name, part in model.named_modules() if part in ends]
    adapted = {
        name.removeprefix("base_model.model.").partition(".lora_")[0] for name in _names(result / _WEIGHTS)
    }
    for name in sorted(adapted & set(names)):
        yield (
            f"the adapter's update of {name} is in head and embeddings, which are one matrix; it was trained for "
            f"{name} alone"
        )


def _adapter_config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    return found


def check_lora(path: Path, result: Path, config: PretrainedConfig) -> list[str]:
    """Every difference between an adapter's GGUF file and a run's own adapter, in words."""
    file = read_gguf(path)
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    problems = list(check_adapter_keys(file, _adapter_config(result), config))
    wanted: dict[str, Floats] = {}
    for name in _names(result / _WEIGHTS):
        module, _, side = name.removeprefix("base_model.model.").partition(".lora_")
        part = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        wanted[f"{part}.lora_{side[0].lower()}"] = _tensor(result / _WEIGHTS, name)
    problems += [f"the weight {part} is missing" for part in sorted(wanted.keys() - file.tensors.keys())]
    problems += [f"the weight {part} is too many" for part in sorted(file.tensors.keys() - wanted.keys())]
    for part in sorted(wanted.keys() & file.tensors.keys()):
        tensor = file.tensors[part]
        rows = unpermuted(tensor, config.to_dict()) if part.endswith("lora_b") else tensor.rows
        if not np.array_equal(rows.view(np.float32).ravel(), wanted[part].ravel()):
            problems.append(f"{part} differs from the trained adapter")
    return problems
