"""What a supervisor hands to its trainer: backend/run/handover.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.run.handover import Handover

WHOLE = Handover(attempt=2, lock=7, token="a mark", meeting=Path("/runs/a run/meeting"))


@pytest.mark.parametrize("handed", [WHOLE, Handover(), Handover(attempt=1), Handover(token="t")])
def test_what_is_handed_over_arrives(handed: Handover) -> None:
    assert Handover.of(handed.environ()) == handed


def test_nothing_of_what_the_parent_was_handed_is_left() -> None:
    assert Handover.of({**WHOLE.environ(), **Handover(attempt=1).environ()}) == Handover(attempt=1)


@pytest.mark.parametrize("environ", [{}, dict.fromkeys(WHOLE.environ(), ""), {"PATH": "/bin"}])
def test_nobody_hands_over_nothing(environ: dict[str, str]) -> None:
    assert Handover.of(environ) == Handover()


@pytest.mark.parametrize("given", ["abc", "-1", "1.5", " 1"])
def test_what_is_no_number_is_not_given(given: str) -> None:
    handed = Handover.of(dict.fromkeys(WHOLE.environ(), given))
    assert (handed.attempt, handed.lock) == (None, None)


def test_an_environment_takes_it() -> None:
    assert {type(value) for value in {**os.environ, **WHOLE.environ()}.values()} == {str}
