"""Turns, room, cancelling and faults: backend/server/engine.py, with a real model and no HTTP."""

from __future__ import annotations

import queue
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from backend.core import shared_base
from backend.core.generation import Sampling
from backend.errors import InferenceError, ModelError
from backend.inferencer import Inferencer
from backend.model_source import ModelSource, find_model
from backend.run_dir import RunDir
from backend.server.engine import Engine, Limits
from backend.server.jobs import Failure, Job, Piece
from backend.server.metrics import Metrics
from tests.eventually import eventually

LONG = 300


@dataclass
class Heard:
    """Everything that came, and the end of each answer."""

    news: queue.SimpleQueue[Piece | Failure] = field(default_factory=queue.SimpleQueue)
    texts: dict[int, str] = field(default_factory=dict)

    def deliver(self, news: Sequence[Piece | Failure]) -> None:
        for each in news:
            self.news.put(each)

    def to_the_end(self, answers: int = 1) -> list[str]:
        ended = 0
        while ended < answers:
            piece = self.news.get(timeout=60)
            assert isinstance(piece, Piece), piece
            self.texts[piece.choice] = self.texts.get(piece.choice, "") + piece.text
            ended += bool(piece.finish)
        return [self.texts[choice] for choice in range(answers)]

    def failure(self) -> Any:
        while isinstance(found := self.news.get(timeout=60), Piece):
            pass
        return found.error


@pytest.fixture
def make() -> Iterator[Callable[..., Engine]]:
    """Starts engines, and ends them."""
    started: list[Engine] = []

    def start(**limits: int) -> Engine:
        engine = Engine(Limits(**limits), Metrics())
        engine.start()
        started.append(engine)
        return engine

    yield start
    for engine in started:
        engine.close()


def _job(
    engine: Engine, source: ModelSource, text: str = "test input", *, strength: float = 1.0, **sampling: Any
) -> tuple[Job, Heard]:
    heard = Heard()
    prompt = engine.voice(source).result(60).render(text)
    samplings = [Sampling(**sampling)]
    job = Job((source, strength), prompt, samplings, [None], (), heard)
    return job, heard


def _endless(engine: Engine, source: ModelSource) -> tuple[Job, Heard]:
    """A job that goes on for as long as a test may take."""
    return _job(engine, source, temperature=100.0, max_new_tokens=LONG)


def test_an_answer_is_that_of_the_inferencer(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, heard = _job(engine, find_model(trained))
    engine.submit(job)

    assert heard.to_the_end() == ["expected output"]


def test_answers_are_numbered_from_where_the_job_says(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, heard = _job(engine, find_model(trained), max_new_tokens=1)
    job.first = 5
    engine.submit(job)

    assert heard.news.get(timeout=60) == Piece(5, "e", ANY, "length")


def test_whatever_stands_beside_it(make: Callable[..., Engine], trained: RunDir) -> None:
    """Base, result, checkpoint and strengths in turn, many at a time, come and go as they like."""
    engine = make(rows=5)
    texts = ["test input", "food pork", "x", "Which store section does this food belong to?"]
    variants = [({}, 1.0), ({"base": True}, 1.0), ({"checkpoint": 10}, 1.0), ({}, 0.5), ({}, 2.0)]
    jobs = []
    for index in range(20):
        options, strength = variants[index % 5]
        text = texts[index % 4]
        sampling = {"temperature": float(index % 3), "seed": index, "max_new_tokens": 9}
        job, heard = _job(engine, find_model(trained, **options), text, strength=strength, **sampling)
        engine.submit(job)
        jobs.append((text, sampling, heard))

    said = [heard.to_the_end()[0] for *_, heard in jobs]

    with Inferencer(trained) as model:
        for first, (options, strength) in enumerate(variants):
            model.use(trained, strength=strength, **options)
            asked = [(text, sampling) for text, sampling, _ in jobs[first::5]]
            assert said[first::5] == [model.infer(text, **sampling) for text, sampling in asked]


def test_no_more_rows_than_there_is_room_for(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make(rows=2)
    source = find_model(trained)
    jobs = [_endless(engine, source) for _ in range(4)]
    for job, _ in jobs:
        engine.submit(job)
    eventually(lambda: len(engine._rows) == 2)
    waiting = [heard for _, heard in jobs[2:]]
    assert all(heard.news.empty() for heard in waiting)

    for job, _ in jobs:
        job.cancelled = True
    eventually(lambda: not engine._rows and not engine._waiting)


def test_a_full_queue_is_said(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make(rows=1, waiting=2)
    source = find_model(trained)
    first, _ = _endless(engine, source)
    engine.submit(first)
    eventually(lambda: len(engine._rows) == 1)
    others = [_endless(engine, source)[0] for _ in range(3)]
    for job in others[:2]:
        engine.submit(job)

    with pytest.raises(InferenceError) as caught:
        engine.submit(others[2])

    assert caught.value.code == "queue-full"
    for job in [first, *others]:
        job.cancelled = True
    eventually(lambda: engine._queued == 0)
    engine.submit(_job(engine, source)[0])


def test_so_is_more_work_than_may_wait(trained: RunDir) -> None:
    engine = Engine(Limits(waiting=0), Metrics())
    with pytest.raises(InferenceError) as caught:
        engine.voice(find_model(trained)).result(5)
    assert caught.value.code == "queue-full"


def test_who_was_cancelled_gets_no_further_token(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, heard = _endless(engine, find_model(trained, base=True))
    engine.submit(job)
    assert isinstance(heard.news.get(timeout=60), Piece)

    job.cancelled = True
    eventually(lambda: not engine._rows)
    count = heard.news.qsize()

    assert count < LONG - 5
    assert heard.news.qsize() == count


def test_what_takes_too_long_ends(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, heard = _endless(engine, find_model(trained, base=True))
    job.deadline = time.monotonic() + 0.05
    engine.submit(job)

    assert heard.failure().code == "time-limit"
    eventually(lambda: not engine._rows)


def test_a_fault_of_a_step_fails_who_waits_and_the_next_is_answered(
    make: Callable[..., Engine], trained: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    source = find_model(trained)
    job, heard = _job(engine, source)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_piece", lambda *_: 1 / 0)
        engine.submit(job)
        assert heard.failure() is None

    again, said = _job(engine, source)
    engine.submit(again)
    assert said.to_the_end() == ["expected output"]


class _Broken:
    """A form that cannot be followed."""

    def allowed(self, _: int) -> Any:
        raise InferenceError("Too much.", remedy="", code="bad-constraint")

    def accept(self, _: int) -> None:
        pass


def test_a_form_that_cannot_be_followed_fails_its_own_request_alone(
    make: Callable[..., Engine], trained: RunDir
) -> None:
    engine = make()
    (broken, failed), (good, heard) = (_job(engine, find_model(trained)) for _ in range(2))
    broken.matchers = [_Broken()]
    engine.submit(broken)
    engine.submit(good)

    assert failed.failure().code == "bad-constraint"
    assert heard.to_the_end() == ["expected output"]
    assert not engine._rows


def test_an_adapter_that_is_gone_fails_its_own_requests_alone(
    make: Callable[..., Engine], trained: RunDir, tmp_path: Path
) -> None:
    engine = make()
    copied = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    lost, failed = _endless(engine, find_model(copied))
    engine.submit(lost)
    eventually(lambda: engine._rows)
    shutil.rmtree(copied.path)
    engine.compute((find_model(trained, base=True), 1.0), lambda _: None).result(60)
    engine.compute((find_model(trained, base=True), 1.0), lambda _: _forget(engine)).result(60)

    good, heard = _job(engine, find_model(trained))
    engine.submit(good)
    assert isinstance(failed.failure(), ModelError)
    assert heard.to_the_end() == ["expected output"]


def _forget(engine: Engine) -> None:
    """Drop every kept set of weights, as more adapters than are kept would."""
    for host in engine._hosts.values():
        host.shared._sets.clear()


def test_another_base_takes_the_place_of_an_idle_one(
    make: Callable[..., Engine], trained: RunDir, tiny_folder: Path, learner: Path
) -> None:
    engine = make(bases=1)
    first, heard = _job(engine, find_model(trained))
    engine.submit(first)
    heard.to_the_end()

    other, said = _job(engine, find_model(tiny_folder), max_new_tokens=3)
    engine.submit(other)
    said.to_the_end()

    assert list(engine._hosts) == [tiny_folder]


def test_a_base_at_work_is_not_put_out(
    make: Callable[..., Engine], trained: RunDir, tiny_folder: Path
) -> None:
    engine = make(bases=1)
    job, _ = _endless(engine, find_model(trained, base=True))
    engine.submit(job)
    eventually(lambda: engine._rows)

    with pytest.raises(InferenceError) as caught:
        engine.voice(find_model(tiny_folder)).result(60)

    assert caught.value.code == "busy"
    job.cancelled = True


def test_more_adapters_than_are_kept_wait_for_each_other(
    make: Callable[..., Engine], trained: RunDir
) -> None:
    engine = make()
    source, strengths = find_model(trained), [1 + step / 10 for step in range(2 * shared_base.KEEP)]
    jobs = [_job(engine, source, strength=strength, max_new_tokens=3) for strength in strengths]
    for job, _ in jobs:
        engine.submit(job)

    assert [len(heard.to_the_end()) for _, heard in jobs] == [1] * len(jobs)


def test_a_model_that_cannot_be_loaded_is_the_askers_error(
    make: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make()

    with pytest.raises(ModelError):
        engine.voice(ModelSource(tmp_path, None, tmp_path)).result(60)


def test_the_end_is_told_to_whoever_waits(trained: RunDir) -> None:
    engine = Engine(Limits(rows=1), Metrics())
    engine.start()
    source = find_model(trained)
    jobs = [_endless(engine, source) for _ in range(3)]
    for job, _ in jobs:
        engine.submit(job)
    engine.close()

    assert {heard.failure().code for _, heard in jobs} == {"closed"}
    with pytest.raises(InferenceError):
        engine.submit(jobs[0][0])
    with pytest.raises(InferenceError):
        engine.voice(source).result(5)


def test_f39_what_is_loaded_is_held_until_it_makes_room_or_the_engine_ends(
    make: Callable[..., Engine], trained: RunDir, tiny_folder: Path, tmp_path: Path
) -> None:
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    served = find_model(run), 1.0
    engine = make(bases=1)
    seen = [engine.compute(served, lambda _: run.is_in_use()).result(60)]
    engine.voice(find_model(tiny_folder)).result(60)
    seen.append(run.is_in_use())
    seen.append(engine.compute(served, lambda _: run.is_in_use()).result(60))
    engine.close()
    assert (seen, run.is_in_use()) == ([True, False, True], False)
