"""The native kernels as loaded on this machine, or the reason why the twins in plain torch run instead."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from backend.core.engine import build
from backend.errors import ModelError

SWITCH = "TUNESMITH_NATIVE"
"""The environment variable that turns the native kernels off, if it is 0."""
_VARIANTS = {"AVX512": "avx512", "AVX2": "avx2"}
"""What torch calls the instructions of this processor; every other name means the least."""
_log = logging.getLogger("tunesmith.engine")


def variant() -> str:
    """Return the variant for this processor, as torch sees it; ATEN_CPU_CAPABILITY restricts both alike."""
    return _VARIANTS.get(torch.backends.cpu.get_cpu_capability(), "baseline")


@cache
def library() -> ctypes.CDLL | None:
    """Return the native kernels, compiled now if need be; None where they cannot run, which the log explains once."""
    if os.environ.get(SWITCH) == "0" or variant() not in build.variants():
        return None
    try:
        return ctypes.CDLL(str(build.compiled(variant()) or build.compile_variant(variant())))
    except (ModelError, OSError) as error:
        _log.warning("%s", error)
        return None


def kernels() -> str:
    """Return what computes here, in a word or two: the variant of the native kernels, or plain torch."""
    return "plain torch" if library() is None else variant()


@cache
def function(name: str, *arguments: type[Any]) -> Any:
    """Return the native function ``name``, which takes ``arguments`` and returns nothing; None without kernels.

    Tensors are passed by ``data_ptr()`` as ctypes.c_void_p. The interpreter lock is released during a call.
    """
    kernels = library()
    if kernels is None:
        return None
    found = kernels[name]
    found.argtypes, found.restype = arguments, None
    return found


def fits(tensors: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> bool:
    """Return True if a kernel can read these tensors: on the CPU, contiguous, of ``dtype``, without a gradient."""
    return all(
        each.device.type == "cpu"
        and each.dtype == dtype
        and each.is_contiguous()
        and not needs_gradient(each)
        for each in tensors
    )


def needs_gradient(tensor: Tensor) -> bool:
    """Return True if autograd would record what is done to ``tensor``; kernels are not recorded."""
    return tensor.requires_grad and torch.is_grad_enabled()
