"""When a request is over: backend/server/jobs.py. What the engine makes of it is tried with the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from backend.model_source import ModelSource
from backend.server.jobs import Failure, Job, Piece


class Heard:
    """Keeps what came."""

    def __init__(self) -> None:
        self.news: list[Piece | Failure] = []

    def deliver(self, news: Sequence[Piece | Failure]) -> None:
        self.news += news


def _job(**fields: object) -> tuple[Job, Heard]:
    heard = Heard()
    source = ModelSource(Path("base"), None, Path("base"))
    return Job((source, 1.0), [1], [], [], (), heard, **fields), heard


@pytest.mark.parametrize(("now", "over", "told"), [(9.9, False, []), (10.1, True, ["time-limit"])])
def test_one_that_is_late_is_over_and_told_so_once(now: float, over: bool, told: list[str]) -> None:
    job, heard = _job(deadline=10.0)

    assert [job.is_over(now), job.is_over(now)] == [over, over]
    assert [news.error.code for news in heard.news] == told


def test_one_that_was_cancelled_is_over_without_a_word() -> None:
    job, heard = _job(deadline=10.0, cancelled=True)

    assert job.is_over(99.0)
    assert heard.news == []


def test_without_a_deadline_it_may_go_on() -> None:
    assert not _job()[0].is_over(1e12)
