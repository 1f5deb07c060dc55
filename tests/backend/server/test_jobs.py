"""The identity of a job: backend/server/jobs.py. What the engine makes of it is tested with the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backend.inference.model_source import ModelSource
from backend.server.jobs import Failure, Job, TokenDelta


class Ignoring:
    """A listener that takes no notice."""

    def deliver(self, events: Sequence[TokenDelta | Failure]) -> None:
        pass


def test_two_equal_jobs_are_two() -> None:
    source = ModelSource(Path("base"), None, Path("base"), ())
    jobs = [Job((source, 1.0), [1], [], [], (), Ignoring()) for _ in range(2)]

    assert len(set(jobs)) == 2
    assert [job.deadline for job in jobs] == [float("inf")] * 2
