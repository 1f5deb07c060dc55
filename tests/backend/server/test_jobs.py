"""What a request is made of: backend/server/jobs.py. What the engine makes of it is tried with the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backend.inference.model_source import ModelSource
from backend.server.jobs import Failure, Job, Piece


class Deaf:
    """Hears nothing."""

    def deliver(self, news: Sequence[Piece | Failure]) -> None:
        pass


def test_two_that_ask_the_same_are_two() -> None:
    source = ModelSource(Path("base"), None, Path("base"), ())
    jobs = [Job((source, 1.0), [1], [], [], (), Deaf()) for _ in range(2)]

    assert len(set(jobs)) == 2
    assert [job.deadline for job in jobs] == [float("inf")] * 2
