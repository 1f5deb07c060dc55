"""Compare a GGUF file that llama.cpp's converter made with the trained model.

The converter knows more families than this project's import, so the file is not turned back into a Hugging Face
folder. Instead the trained model is converted once more, in float32: every key and tensor of the file must be that of
the second conversion, and every trained weight must be somewhere among its tensors. Whether llama.cpp computes with
them as training did is for its answers to show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from gguf import LlamaFileType
from gguf.quants import dequantize, quantize
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.core.gguf.file import GgufFile, GgufTensor
from backend.export.gguf_mix import MIXES, PLAIN, choose_kinds
from backend.export.gguf_writer import FILE_TYPES
from backend.export.quantizer import is_weighed
from backend.export.rounding import distance, largest_error

Floats = npt.NDArray[np.float32]

_OF_PRECISION = ("general.file_type", "general.quantization_version", "general.alignment", "quantize.")
"""Beginnings of keys that tell how a file is rounded, and are not those of the float32 file."""
_EXACT = frozenset({"F32", "F16", "BF16"})
"""Kinds in which a tensor has only one right rounding, whoever rounds it."""


def check_converted(
    file: GgufFile, again: GgufFile, tokenizer: PreTrainedTokenizerBase, precision: str
) -> list[str]:
    """Return every difference between a GGUF ``file`` in ``precision`` and ``again``, a float32 file of the model."""
    return [
        *_keys(file, again, tokenizer, precision),
        *_tensors(file, again, precision),
    ]


def _keys(
    file: GgufFile, again: GgufFile, tokenizer: PreTrainedTokenizerBase, precision: str
) -> Iterator[str]:
    wanted, found = (
        {k: v for k, v in each.metadata.items() if not _is_of_precision(k)} for each in (again, file)
    )
    for key in sorted(wanted.keys() | found.keys()):
        if key not in found:
            yield f"the key {key} is missing"
        elif key not in wanted:
            yield f"the key {key} does not belong there"
        elif found[key] != wanted[key]:
            yield f"the key {key} differs from that of the trained model"
    if file.metadata.get("tokenizer.chat_template") != tokenizer.chat_template:
        yield "its chat template differs from the one used in training"
    kind = file.metadata.get("general.file_type")
    if kind != _file_type(precision):
        yield f"general.file_type is {kind!r}, but {int(_file_type(precision))} for {precision}"


def _is_of_precision(key: str) -> bool:
    return key.startswith(_OF_PRECISION)


def _file_type(precision: str) -> LlamaFileType:
    return FILE_TYPES[precision] if precision in FILE_TYPES else MIXES[precision][0]


def _tensors(file: GgufFile, again: GgufFile, precision: str) -> Iterator[str]:
    yield from (
        f"the tensor {name} is missing" for name in sorted(again.tensors.keys() - file.tensors.keys())
    )
    yield from (
        f"the tensor {name} does not belong there"
        for name in sorted(file.tensors.keys() - again.tensors.keys())
    )
    mixed = precision in MIXES or precision in PLAIN
    kinds = choose_kinds(again, precision, weighed=is_weighed(file)) if mixed else {}
    for name in sorted(again.tensors.keys() & file.tensors.keys()):
        found, wanted = file.tensors[name], again.tensors[name]
        if found.shape != wanted.shape:
            yield f"{name} has the shape {list(found.shape)} instead of {list(wanted.shape)}"
        elif not _is_same(found, wanted):
            yield f"{name} differs from the trained weight by {distance(_floats(found), _floats(wanted)):.1%}"
        elif found.kind != kinds.get(name, found.kind):
            yield f"{name} is stored as {found.kind.name} instead of {kinds[name].name}"
        elif not mixed and found.kind.name not in {precision, wanted.kind.name}:
            yield f"{name} is stored as {found.kind.name} instead of {precision}"


def _is_same(found: GgufTensor, wanted: GgufTensor) -> bool:
    """Return whether a tensor is the float32 one, rounded to its kind."""
    values, kind = _floats(wanted), found.kind
    if kind.name in _EXACT:
        return bool(np.array_equal(_floats(found), dequantize(quantize(values, kind), kind)))
    return distance(_floats(found), values) <= largest_error(kind.name)


def _floats(tensor: GgufTensor) -> Floats:
    values: Floats = dequantize(tensor.rows, tensor.kind)
    return values


def lost_weights(weights: Mapping[str, Tensor], again: GgufFile) -> list[str]:
    """Return the names of trained weights of which ``again``, a float32 file, has no rows with the same numbers.

    Rows may have another order and stand in other tensors, a matrix may be transposed, and vectors are found in the
    forms that llama.cpp stores: as they are, plus one (norms of Gemma), or as ``-exp`` (decay of state-space models).
    """
    there = {
        digest for tensor in again.tensors.values() for digest in _digests(_floats(tensor), tensor.shape)
    }
    return [
        name
        for name, tensor in weights.items()
        if not _is_there(tensor.detach().float().cpu().numpy(), there)
    ]


def _digests(values: Floats, shape: tuple[int, ...]) -> set[bytes]:
    """Return a digest of each row; of a vector, of its values in order of size."""
    rows = np.sort(values.ravel())[None] if len(shape) == 1 else values.reshape(-1, shape[-1])
    return {hashlib.blake2b(row.tobytes(), digest_size=12).digest() for row in np.ascontiguousarray(rows)}


def _is_there(values: Floats, there: set[bytes]) -> bool:
    flat = values.squeeze() if values.ndim > 1 else values
    if flat.ndim < 2:
        forms = (values, values + 1, -np.exp(values))
        return any(_digests(each.astype(np.float32).ravel(), (values.size,)) <= there for each in forms)
    turned = np.swapaxes(flat, -1, -2)
    return any(_digests(np.ascontiguousarray(each), each.shape) <= there for each in (flat, turned))
