"""Long tables of cases, of which some runs of the tests take a part."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import pytest


def partly(
    cases: Mapping[str, Any] | Iterable[str], often: Container[str], mark: pytest.MarkDecorator
) -> list[Any]:
    """Parameters for ``parametrize``: those named in ``often`` are always tried, the others carry ``mark``.

    A case of a mapping is its value, or its values where that is a tuple; a case of names alone is its name.
    """
    table = cases if isinstance(cases, Mapping) else {name: name for name in cases}
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), id=name, marks=() if name in often else (mark,)
        )
        for name, case in table.items()
    ]
