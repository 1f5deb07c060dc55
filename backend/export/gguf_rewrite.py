"""Write a GGUF file again with the same keys and its tensors stored in other kinds.

Keys are copied byte by byte, since a vocabulary has hundreds of thousands of strings. Source of the layout: the GGUF
specification (ggml repository, docs/gguf.md), version 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quant_shape_to_byte_shape

from backend.core.gguf.file import GgufFile, GgufTensor, read_pairs

_ALIGNMENT = 32
_UINT32, _STRING = 4, 8


def rewrite(
    source: GgufFile,
    target: Path,
    kinds: Mapping[str, Kind],
    keys: Mapping[str, int | str],
    stored: Callable[[GgufTensor, Kind], npt.NDArray[Any]],
) -> None:
    """Write ``source`` as ``target``: ``kinds`` are those of the tensors, ``keys`` are added or replaced.

    ``stored`` converts one tensor, which must have as many bytes as its kind says. Raises OSError.
    """
    fixed = {"general.quantization_version": gguf.GGML_QUANT_VERSION, "general.alignment": _ALIGNMENT}
    pairs = read_pairs(source.path) | {key: _pair(key, value) for key, value in {**fixed, **keys}.items()}
    infos, end = [], 0
    for name, tensor in source.tensors.items():
        infos.append(_string(name) + _info(tensor, kinds[name], end))
        end += _padded(_size(tensor, kinds[name]))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join([*pairs.values(), *infos])
    with target.open("wb") as stream:
        stream.write(header + bytes(_padded(len(header)) - len(header)))
        for name, tensor in source.tensors.items():
            data = stored(tensor, kinds[name]).tobytes()
            stream.write(data + bytes(_padded(len(data)) - len(data)))


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _size(tensor: GgufTensor, kind: Kind) -> int:
    """Return the bytes of a tensor stored in ``kind``."""
    width = {Kind.F32: 4, Kind.F16: 2}.get(kind)
    return (
        math.prod(tensor.shape) * width if width else math.prod(quant_shape_to_byte_shape(tensor.shape, kind))
    )


def _info(tensor: GgufTensor, kind: Kind, offset: int) -> bytes:
    sizes = tensor.shape[::-1]
    return struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, int(kind), offset)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, value: int | str) -> bytes:
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", _STRING) + _string(value)
    return _string(key) + struct.pack("<II", _UINT32, value)
