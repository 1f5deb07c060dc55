"""The modules that load torch, imported when first used: backend/commands/lazy.py."""

from __future__ import annotations

import ast

import pytest

from backend.commands import lazy
from tests.house import ROOT, parsed

DECLARED = {
    alias.name: f"{node.module}.{alias.name}"
    for node in ast.walk(parsed(ROOT / "backend/commands/lazy.py"))
    if isinstance(node, ast.ImportFrom) and str(node.module).startswith("backend")
    for alias in node.names
}


def test_what_a_type_checker_sees_is_what_is_imported() -> None:
    assert sorted(DECLARED) == sorted(lazy.__all__)
    assert {name: getattr(lazy, name).__name__ for name in lazy.__all__} == DECLARED


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="nowhere"):
        lazy.__getattr__("nowhere")
