"""Fault rows that do not apply to us, each with its reason; every other row has a test that carries its name."""

from __future__ import annotations

STRUCK = {
    "S04": "Nothing of ours asks a scanner: what is not safetensors is refused, whatever anybody says about it.",
    "F22": "There is no database: runs are folders, and a listing is a scan (docs/lifecycle.md).",
}
