"""A frozen matrix in float32, bfloat16 or 8 bits, and its product with rows of float32: native and in plain torch."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.core.engine.library import fits, function

GROUP = 64
"""Weights of a row that share a scale, in 8 bits."""
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


@dataclass(frozen=True, eq=False)
class Matrix:
    """``data`` [rows, width]; if that is int8, ``scale`` float32 [rows, groups]; ``bias`` float32 [rows] or None.

    An ``adapter`` beside it adds up · (down · x): the matrices down [rank, width] and up [rows, rank].
    """

    data: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None
    adapter: tuple[Matrix, Matrix] | None = None

    @property
    def rank(self) -> int:
        """The rank of the adapter; 0 if there is none."""
        return 0 if self.adapter is None else len(self.adapter[0].data)

    @property
    def bytes(self) -> int:
        """Bytes that a product reads."""
        parts = [part for part in (self.data, self.scale, self.bias) if part is not None]
        own = sum(part.numel() * part.element_size() for part in parts)
        return own + sum(part.bytes for part in self.adapter or ())

    def dense(self) -> Tensor:
        """Return the weights as float32 [rows, width], without the adapter."""
        if self.scale is None:
            return self.data.float()
        scales = self.scale.repeat_interleave(GROUP, 1)[:, : self.data.shape[1]]
        return self.data.float() * scales

    @cached_property
    def struct(self) -> MatrixStruct:
        """The matrix as C sees it, as long as this object lives; all its parts must be contiguous."""
        rows, width = self.data.shape
        addresses = (pointer(part) for part in (self.data, self.scale, self.bias))
        beside = (ctypes.addressof(part.struct) for part in self.adapter or ())
        return MatrixStruct(*addresses, rows, width, KINDS[self.data.dtype], *beside)


def quantised(weight: Tensor, bias: Tensor | None = None) -> Matrix:
    """Return ``weight`` [rows, width] in 8 bits: whole numbers from -127 to 127, and a scale for every ``GROUP``.

    The largest weight of each group becomes 127 or -127 (symmetric absmax rounding to the nearest).
    """
    rows, width = weight.shape
    groups = F.pad(weight.float(), (0, -width % GROUP)).view(rows, -1, GROUP)
    scale = groups.abs().amax(-1) / 127
    whole = (groups / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round()
    data = whole.clamp(-127, 127).to(torch.int8).view(rows, -1)[:, :width]
    return Matrix(data.contiguous(), scale.contiguous(), bias)


class MatrixStruct(ctypes.Structure):
    """``matrix`` of native/product.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("data", "scale", "bias")),
        *((name, c_int64) for name in ("rows", "width", "kind")),
        *((name, c_void_p) for name in ("down", "up")),
    ]


Pointer: TypeAlias = int | None


def pointer(tensor: Tensor | None) -> Pointer:
    """Return the address of a tensor's values for a C structure, which does not keep them alive."""
    return None if tensor is None else tensor.data_ptr()


def product(matrix: Matrix, x: Tensor) -> Tensor:
    """Return x · weightsᵀ + bias, float32 [count, rows], for x float32 [count, width]; without an adapter.

    Each value is one sum in a fixed order, whatever the other rows of ``x`` are. Tensors that the kernel cannot read
    go to the twin. Raises RuntimeError for an ``x`` of another width.
    """
    native = function(
        "product_part", *(c_void_p,) * 3, *(c_int64,) * 4, c_int
    )  # weights, x, y; count, step, first, last; add
    readable = fits([x, *(part for part in (matrix.scale, matrix.bias) if part is not None)])
    rows, width = matrix.data.shape
    if native is None or not readable or not matrix.data.is_contiguous() or x.shape[1:] != (width,):
        return product_twin(matrix, x)
    y = torch.empty(len(x), rows)
    native(ctypes.addressof(matrix.struct), x.data_ptr(), y.data_ptr(), len(x), rows, 0, rows, 0)
    return y


def product_twin(matrix: Matrix, x: Tensor) -> Tensor:
    """``product`` in plain torch."""
    return F.linear(x, matrix.dense(), matrix.bias)
