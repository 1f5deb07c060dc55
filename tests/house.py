"""The sources of the house as the guards look at them: files, module names and syntax trees."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
BACKEND = sorted(ROOT.glob("backend/**/*.py"))
APP = sorted(ROOT.glob("app/**/*.py"))
ROOMS = [path for path in BACKEND if path.name != "__init__.py"]
TESTS = sorted(ROOT.glob("tests/**/*.py"))


def dotted(path: Path) -> str:
    """The name by which a file of ours is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree, read once."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
