"""What lies in an export, weight by weight and setting by setting, beside what was trained. Floor F2.

A reader's answers say that something is wrong; this says what. A GGUF file is read by our own import, which goes
the other way than the writer and shares no code with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
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
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from backend.core.gguf_file import GgufFile, read_gguf
from backend.core.gguf_import import convert_gguf
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError
from backend.export.gguf_writer import ARCHITECTURES, FILE_TYPES
from backend.export.onnx_writer import ONNX_FILE
from backend.export.trained import model_weights

Floats = npt.NDArray[np.float32]
Readers = dict[str, Callable[[], Floats]]

COARSE_ERRORS = {"Q6_K": 0.03, "Q5_K": 0.06, "Q4_K": 0.12, "Q3_K": 0.24, "Q2_K": 0.45}
"""Largest relative error of a tensor in a format that we cannot repeat; llama.cpp's own reaches about 0.6 of it."""
OTHER_ERROR = 0.15
_FLOATS = frozenset({"F32", "F16", "BF16"})
_END_KEYS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_SETTINGS = (
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size"),
    *("rms_norm_eps", "tie_word_embeddings", "vocab_size", "head_dim"),
)


def check_folder(
    folder: Path,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    *,
    stored: torch.dtype | None = None,
    base: Path | None = None,
    gguf_file: Path | None = None,
) -> list[str]:
    """Every difference between a model in Hugging Face layout and the trained one, in words; none where equal.

    ``stored`` is the precision the weights were meant to have, ``gguf_file`` the file they came from instead;
    ``base`` is the model before training, by which a layer without its adapter is known.
    """
    found = json.loads((folder / "config.json").read_text("utf-8"))
    file = read_gguf(gguf_file) if gguf_file else None
    named = {int(file.metadata[key]) for key in _END_KEYS if key in file.metadata} if file else set()
    problems = [*_settings(found, config), *_tokens(folder, tokenizer, end_ids, named)]
    problems += _lost_tokens(_added(folder) if file is None else _standing(file), tokenizer)
    kinds = _kinds(file, config, weights) if file else {}
    ours = file is None or file.metadata.get("general.file_type") in FILE_TYPES.values()
    read = _readers(folder, weights.keys())
    problems += [f"the weight {name} is missing" for name in sorted(weights.keys() - read.keys())]
    problems += [f"the weight {name} is too many" for name in sorted(read.keys() - weights.keys())]
    for name in sorted(weights.keys() & read.keys()):
        values, trained = read[name](), weights[name].detach().float().cpu().numpy()
        if not is_rounded(values, trained, kinds.get(name), stored, ours=ours):
            problems.append(f"{name} {_how(name, values, trained, weights, base)}")
    return problems


def check_gguf(
    path: Path,
    scratch: Path,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    *,
    base: Path | None = None,
) -> list[str]:
    """The same for a GGUF file; it is converted back into ``scratch``, which must not exist."""
    convert_gguf(path, scratch)
    return check_folder(scratch, config, weights, tokenizer, end_ids, base=base, gguf_file=path)


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

    found = json.loads((folder / "config.json").read_text("utf-8"))
    problems = [*_settings(found, config), *_tokens(folder, tokenizer, end_ids, set())]
    problems += _lost_tokens(_added(folder), tokenizer)
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


def _settings(found: Mapping[str, Any], config: PretrainedConfig) -> Iterator[str]:
    for key in _SETTINGS:
        wanted = getattr(config, key, None)
        if wanted is not None and key in found and found[key] is not None and not _close(found[key], wanted):
            yield f"{key} is {found[key]}, and {wanted} in the trained model"
    bases = _rope_bases(found.get("rope_parameters"))
    for layers, wanted in _rope_bases(getattr(config, "rope_parameters", None)).items():
        if not _close(base := bases.get(layers, 0), wanted):
            yield f"the rope base{layers} is {base:g}, and {wanted:g} in the trained model"


def _rope_bases(rope: Mapping[str, Any] | None) -> dict[str, float]:
    """The base of the positions, by kind of layer where each has its own; none where no angle tells positions."""
    parts = {f" of {kind}": part for kind, part in (rope or {}).items() if isinstance(part, Mapping)}
    return {
        kind: part["rope_theta"] for kind, part in (parts or {"": rope or {}}).items() if "rope_theta" in part
    }


def _close(value: Any, wanted: Any) -> bool:
    return bool(np.isclose(float(value), float(wanted), rtol=1e-6, atol=0.0))


def _tokens(
    folder: Path, tokenizer: PreTrainedTokenizerBase, end_ids: set[int], named: set[int]
) -> Iterator[str]:
    """What differs in template and tokens; ``named`` are ends that are said elsewhere than in the usual file."""
    found = load_tokenizer(folder)
    if (found.chat_template or "") != (tokenizer.chat_template or ""):
        yield "its chat template is another than the one that was trained with"
    if found.eos_token_id != tokenizer.eos_token_id:
        yield f"its end token (eos) is {found.eos_token!r}, and {tokenizer.eos_token!r} in training"
    rules = json.loads((folder / "generation_config.json").read_text("utf-8")).get("eos_token_id", [])
    missing = end_ids - named - set(rules if isinstance(rules, list) else [rules])
    if missing:
        yield f"nothing says that an answer ends with {tokenizer.convert_ids_to_tokens(sorted(missing))}"
    mine, theirs = (
        {index: token for token, index in each.get_vocab().items()} for each in (tokenizer, found)
    )
    odd = sorted(index for index, token in mine.items() if theirs.get(index) != token)
    if odd:
        yield f"token {odd[0]} is {theirs.get(odd[0])!r}, and {mine[odd[0]]!r} in training"


def _lost_tokens(kept: set[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What is said of added tokens that no longer stand for themselves in a text."""
    lost = [
        str(token) for index, token in sorted(tokenizer.added_tokens_decoder.items()) if index not in kept
    ]
    return (
        [f"the added token {lost[0]} is lost ({len(lost)} of {len(tokenizer.added_tokens_decoder)})"]
        if lost
        else []
    )


def _added(folder: Path) -> set[int]:
    """Ids of the added tokens that tokenizer.json names."""
    return {
        token["id"] for token in json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    }


def _standing(file: GgufFile) -> set[int]:
    """Ids of the tokens of a GGUF file that are control tokens, or a user's own."""
    kinds = file.metadata["tokenizer.ggml.token_type"]
    return {
        index
        for index, kind in enumerate(kinds)
        if kind in {gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED}
    }


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
    """Whether ``values`` are the trained ones in ``kind`` or ``stored``: exactly, or as near as K-quants come.

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


def check_adapter(
    folder: Path, result: Path, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]
) -> list[str]:
    """Every difference between an exported adapter and the run's own, in words."""
    file = "adapter_model.safetensors"
    mine, theirs = (
        {name: _tensor(place / file, name) for name in _names(place / file)} for place in (result, folder)
    )
    problems = [*_tokens(folder, tokenizer, end_ids, set()), *_lost_tokens(_added(folder), tokenizer)]
    problems += [f"the weight {name} is missing" for name in sorted(mine.keys() - theirs.keys())]
    problems += [
        f"{name} differs from the trained adapter"
        for name in sorted(mine.keys() & theirs.keys())
        if not np.array_equal(mine[name], theirs[name])
    ]
    one, other = (
        json.loads((place / "adapter_config.json").read_text("utf-8")) for place in (result, folder)
    )
    free = {"base_model_name_or_path", "revision", "inference_mode"}
    problems += [
        f"adapter_config.json says {k} {other.get(k)}, not {one[k]}"
        for k in one
        if k not in free and one[k] != other.get(k)
    ]
    return problems


def check_lora(path: Path, result: Path, config: PretrainedConfig) -> list[str]:
    """Every weight of a run's adapter that an adapter GGUF lacks or holds with other values, in words.

    Rows of a Llama's q and k lie in another order there, so that values are compared sorted.
    """
    stored = read_gguf(path).tensors
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    problems = []
    for name in _names(result / "adapter_model.safetensors"):
        module, _, side = name.removeprefix("base_model.model.").partition(".lora_")
        part = f"{names.get_name(f'{module}.weight', try_suffixes=('.weight',))}.lora_{side[0].lower()}"
        trained = _tensor(result / "adapter_model.safetensors", name)
        if part not in stored:
            problems.append(f"the weight {part} is missing")
        elif not np.array_equal(
            np.sort(stored[part].rows.view(np.float32).ravel()), np.sort(trained.ravel())
        ):
            problems.append(f"{part} differs from the trained adapter")
    return problems
