"""``python -m tunesmith`` and the ``tunesmith`` script: the command line, once it is sure to be ours."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_OURS = Path(__file__).resolve().parents[1]


def strangers() -> list[str]:
    """Return the packages of ours that another project's package of the same name stands in the way of."""
    return [name for name in ("backend", "app") if not _is_ours(name)]


def _is_ours(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parents[1] == _OURS


def main() -> int:
    """Run the command line and return its exit code; 2 where Tunesmith does not have an environment of its own."""
    names = " and ".join(f"'{name}'" for name in strangers())
    if names:
        sys.stderr.write(
            f"Error: another package called {names} is in the way. Tunesmith is an application and wants an "
            "environment of its own: install it with `pipx install tunesmith` or `uv tool install tunesmith`, and "
            "run it from a folder without packages of these names.\n"
        )
        return 2
    from backend.commands.cli import main as command_line  # noqa: PLC0415 - only once it is sure to be ours

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
