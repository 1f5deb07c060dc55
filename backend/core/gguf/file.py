"""Read the header of an untrusted GGUF file.

The gguf package's own reader takes seconds for a vocabulary, since it makes an array of every string; this one walks
the header once. Every length is checked against the size of the file before it is used.

Source of the layout: the GGUF specification (ggml repository, docs/gguf.md), versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from backend.errors import ModelError

Bytes = npt.NDArray[np.uint8]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: ``shape`` with the outermost dimension first, and its ``rows`` as stored, [rows, bytes per row]."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    rows: Bytes


@dataclass(frozen=True)
class GgufFile:
    """Metadata by key, tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf(path: Path) -> GgufFile:
    """Return the metadata and tensors of a GGUF file; tensor data is memory-mapped.

    Raises ModelError ``damaged-gguf`` for anything that is not a complete GGUF file.
    """
    try:
        data: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
        return _parse(path, data)
    except (OSError, ValueError, struct.error, OverflowError) as error:
        raise ModelError(
            f"{path} is not a whole GGUF file: {error}.",
            code="damaged-gguf",
            remedy="Download it again, or give a folder with config.json and model.safetensors.",
        ) from error


def read_pairs(path: Path) -> dict[str, bytes]:
    """Return the entry of each key in the header of a GGUF file, as it is stored: key, type and value.

    Raises ModelError ``damaged-gguf``.
    """
    file = read_gguf(path)
    cursor = _Cursor(np.memmap(path, dtype=np.uint8, mode="r"))
    cursor.position = 16
    pairs = {}
    for _ in range(cursor.scalar("<Q")):
        start = cursor.position
        key = cursor.string()
        cursor.value(cursor.scalar("<I"))
        pairs[key] = bytes(cursor.view[start : cursor.position])
    return {key: pairs[key] for key in file.metadata}


class _Cursor:
    """A position in the header; reading past the end raises ValueError or struct.error."""

    def __init__(self, data: Bytes) -> None:
        self.view: memoryview = data.data
        self.position = 0

    def scalar(self, layout: str) -> Any:
        value = struct.unpack_from(layout, self.view, self.position)[0]
        self.position += struct.calcsize(layout)
        return value

    def count(self, smallest_bytes: int) -> int:
        """Read a number of items; raise ValueError if the file is too short for them, at ``smallest_bytes`` each."""
        number: int = self.scalar("<Q")
        if number * smallest_bytes > len(self.view) - self.position:
            raise ValueError(f"it announces {number} items and ends before them")
        return number

    def string(self) -> str:
        length = self.count(1)
        text = bytes(self.view[self.position : self.position + length]).decode("utf-8")
        self.position += length
        return text

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(self.scalar("<I"))
        return self.scalar(_layout(kind))

    def _array(self, kind: int) -> list[Any]:
        if kind == _STRING:
            return [self.string() for _ in range(self.count(8))]
        layout = _layout(kind)
        length = self.count(struct.calcsize(layout))
        values = struct.unpack_from(f"<{length}{layout[1]}", self.view, self.position)
        self.position += length * struct.calcsize(layout)
        return list(values)


def _layout(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"value type {kind} is unknown")
    return _SCALARS[kind]


def _parse(path: Path, data: Bytes) -> GgufFile:
    if bytes(data[:4]) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    cursor = _Cursor(data)
    cursor.position = 4
    version = cursor.scalar("<I")
    if version not in _VERSIONS:
        raise ValueError(f"version {version} is none of {_VERSIONS}")
    tensor_count = cursor.count(24)
    pair_count = cursor.count(13)
    metadata = {}
    for _ in range(pair_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("<I"))
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {alignment!r}")
    start = -(-cursor.position // alignment) * alignment
    tensors = {info.name: _tensor(data, start, info) for info in infos}
    return GgufFile(path, metadata, tensors)


class _Info(NamedTuple):
    """The header entry of one tensor; ``offset`` is in bytes from the beginning of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def _tensor_info(cursor: _Cursor) -> _Info:
    name = cursor.string()
    dimensions = cursor.scalar("<I")
    if not 1 <= dimensions <= 4:
        raise ValueError(f"tensor {name} has {dimensions} dimensions")
    innermost_first = [cursor.scalar("<Q") for _ in range(dimensions)]
    return _Info(name, tuple(reversed(innermost_first)), cursor.scalar("<I"), cursor.scalar("<Q"))


def _tensor(data: Bytes, start: int, info: _Info) -> GgufTensor:
    kind = GGMLQuantizationType(info.kind)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if info.shape[-1] % block or 0 in info.shape:
        raise ValueError(f"tensor {info.name} of shape {info.shape} does not fit blocks of {block}")
    row_bytes = info.shape[-1] // block * block_bytes
    rows = math.prod(info.shape[:-1])
    begin = start + info.offset
    end = begin + rows * row_bytes
    if end > len(data):
        raise ValueError(f"tensor {info.name} should end at byte {end} and the file ends at {len(data)}")
    return GgufTensor(info.name, info.shape, kind, np.asarray(data[begin:end]).reshape(rows, row_bytes))
