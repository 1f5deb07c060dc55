"""Packages that only some settings need, asked for before anything is written."""

from __future__ import annotations

from importlib.util import find_spec

from backend.errors import ModelError


def require_bitsandbytes(setting: str) -> None:
    """Raise ModelError ``needs-bitsandbytes`` if the package, which ``setting`` needs, is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{setting} needs the package bitsandbytes, which is not installed.",
            remedy="Run: pip install bitsandbytes",
            code="needs-bitsandbytes",
        )
