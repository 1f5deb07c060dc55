"""Store a float32 GGUF file in fewer bits: by the package libgguf, or by llama.cpp's ``llama-quantize``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize as quantize_rows

from backend.core.gguf.file import GgufFile, GgufTensor, read_gguf
from backend.errors import ExportError
from backend.export.gguf_mix import MIXES, PLAIN, choose_kinds
from backend.export.gguf_rewrite import rewrite
from backend.export.imatrix import read_importance
from backend.utils.machine_utils import available_cores

PROGRAM = "llama-quantize"
PACKAGE = "libgguf"
BY_GGUF = frozenset({Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0})
"""The kinds that the package gguf writes by itself, if all columns count the same."""
_UNWEIGHED = frozenset({Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0})
"""The kinds on which an importance matrix has no effect."""
Importance = Mapping[str, npt.NDArray[np.float32]]


def check(precision: str, *, weighed: bool = False) -> None:
    """Raise ExportError (``no-quantizer``) if nothing here can write ``precision``.

    ``weighed`` is whether an importance matrix is to be used.
    """
    needed = precision in MIXES or (weighed and precision in PLAIN)
    if needed and importlib.util.find_spec(PACKAGE) is None and shutil.which(PROGRAM) is None:
        matrix = " with an importance matrix" if weighed else ""
        raise ExportError(
            f"{precision}{matrix} needs {PACKAGE} or {PROGRAM}, and neither is here.",
            remedy=f"Install it with `pip install {PACKAGE}`, or choose {', '.join(PLAIN)} without an "
            "importance matrix.",
            code="no-quantizer",
        )


def quantize(source: Path, target: Path, precision: str, imatrix: Path | None = None) -> None:
    """Write the float32 file ``source`` as ``target`` in ``precision``, one of ``MIXES`` or ``PLAIN``.

    ``imatrix`` is a file of importances, see ``imatrix.py``. Raises ExportError (``quantizer-failed``,
    ``no-quantizer``).
    """
    check(precision, weighed=imatrix is not None)
    if importlib.util.find_spec(PACKAGE) or (imatrix is None and precision in PLAIN):
        _by_package(source, target, precision, imatrix)
    else:
        _by_program(source, target, precision, imatrix)


def is_weighed(file: GgufFile) -> bool:
    """Return whether an importance matrix decided how a file was rounded."""
    return "quantize.imatrix.entries_count" in file.metadata


def _by_package(source: Path, target: Path, precision: str, imatrix: Path | None) -> None:
    file = read_gguf(source)
    importance = read_importance(imatrix) if imatrix else {}
    kinds = choose_kinds(file, precision, weighed=imatrix is not None)
    types = {**MIXES, **PLAIN}
    keys: dict[str, int | str] = {"general.file_type": int(types[precision][0])}
    if imatrix:
        keys |= {"quantize.imatrix.file": imatrix.name, "quantize.imatrix.entries_count": len(importance)}
    rewrite(file, target, kinds, keys, lambda tensor, kind: _stored(tensor, kind, importance))


def _stored(tensor: GgufTensor, kind: Kind, importance: Importance) -> npt.NDArray[Any]:
    """Return the rows of a float32 tensor in ``kind``; an importance matrix has one row, or one for each expert."""
    if kind == tensor.kind:
        return tensor.rows
    rows = tensor.rows.view(np.float32)
    weights = importance.get(tensor.name)
    if kind in BY_GGUF and (weights is None or kind in _UNWEIGHED):
        array: npt.NDArray[Any] = quantize_rows(rows, kind)
        return array
    parts = [rows] if weights is None or len(weights) == 1 else np.split(rows, len(weights))
    each = [None] * len(parts) if weights is None else list(weights)
    return np.concatenate([_by_libgguf(part, kind, row) for part, row in zip(parts, each, strict=True)])


def _by_libgguf(rows: npt.NDArray[np.float32], kind: Kind, weights: npt.NDArray[np.float32] | None) -> Any:
    import libgguf  # noqa: PLC0415 - an extra

    threads = min(available_cores(), len(rows))
    with ThreadPoolExecutor(threads) as pool:
        chunks = np.array_split(rows, threads)
        return np.concatenate(
            list(pool.map(lambda part: libgguf.quantize_rows(part, int(kind), weights), chunks))
        )


def _by_program(source: Path, target: Path, precision: str, imatrix: Path | None) -> None:
    options = ["--imatrix", str(imatrix)] if imatrix else []
    child = subprocess.run(
        [PROGRAM, *options, str(source), str(target), precision],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if "TOKEN" not in name},
        check=False,
    )
    if child.returncode != 0 or not target.is_file():
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise ExportError(
            f"{PROGRAM} could not write {precision}: {last}.",
            remedy=f"Install `{PACKAGE}`, or choose {', '.join(PLAIN)}.",
            code="quantizer-failed",
        )
