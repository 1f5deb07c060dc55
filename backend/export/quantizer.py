"""Quantize GGUF files with llama.cpp's ``llama-quantize`` in the formats that the gguf package cannot write."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from backend.errors import ExportError
from backend.export.gguf_writer import FILE_TYPES

PROGRAM = "llama-quantize"
BY_LLAMA_CPP = (
    *("Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"),
    *("IQ4_NL", "IQ4_XS"),
)
"""Formats that need ``llama-quantize``."""


def check(quantization: str) -> None:
    """Raise ExportError (``no-quantizer``) when a format needs a program that is not installed."""
    if quantization in BY_LLAMA_CPP and shutil.which(PROGRAM) is None:
        raise ExportError(
            f"{quantization} is written by {PROGRAM}, which is not installed here.",
            remedy=f"Install llama.cpp and put {PROGRAM} on the PATH, or choose {', '.join(FILE_TYPES)}.",
            code="no-quantizer",
        )


def quantize(source: Path, target: Path, quantization: str) -> None:
    """Write the F32 file ``source`` as ``target``. Raises ExportError (``quantizer-failed``, ``no-quantizer``)."""
    check(quantization)
    child = subprocess.run(
        [PROGRAM, str(source), str(target), quantization], capture_output=True, text=True, check=False
    )
    if child.returncode != 0 or not target.is_file():
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise ExportError(
            f"{PROGRAM} could not write {quantization}: {last}.",
            remedy=f"Choose {', '.join(FILE_TYPES)}, which need no other program.",
            code="quantizer-failed",
        )
