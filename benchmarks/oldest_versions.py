"""A constraints file of the lowest version of every dependency that pyproject.toml allows, for ``make compat``.

    python benchmarks/oldest_versions.py > oldest.txt

torch stays at the version of constraints.txt, and so does whatever is no dependency of the package itself.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    versions = {_name(pin): pin for pin in pins}
    versions |= {_name(text): _lowest(text) for text in project["dependencies"] if _name(text) != "torch"}
    print("\n".join(sorted(versions.values())))


def _name(text: str) -> str:
    return canonicalize_name(Requirement(text).name)


def _lowest(text: str) -> str:
    (lowest,) = (bound.version for bound in Requirement(text).specifier if bound.operator == ">=")
    return f"{_name(text)}=={lowest}"


if __name__ == "__main__":
    main()
