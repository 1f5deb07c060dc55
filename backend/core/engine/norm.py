"""Root mean square normalisation (Zhang and Sennrich, 2019, arXiv:1910.07467), native and in plain torch."""

from __future__ import annotations

from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor

from backend.core.engine.library import fits, function


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x²) + eps) * weight over the last dimension; x float32 [..., width], weight [width].

    Tensors that the kernel cannot read, such as slices and other dtypes, go to the twin.
    """
    native = function("rms_norm", c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_float)
    width = x.shape[-1]
    if native is None or not fits((x, weight)) or weight.shape != (width,):
        return rms_norm_twin(x, weight, eps)
    y = torch.empty_like(x)
    if y.numel():
        native(x.data_ptr(), weight.data_ptr(), y.data_ptr(), x.numel() // width, width, eps)
    return y


def rms_norm_twin(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm`` in plain torch."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
