"""Turns, room, cancelling and faults: backend/server/engine.py, with a real model and no HTTP."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest

from backend.errors import InferenceError, ModelError
from backend.inference import shared_base
from backend.inference.answer_text import AnswerText
from backend.inference.decoding import Decoding, Prefill, Sampling
from backend.inference.model_source import ModelSource, find_model
from backend.inference.sampling import Sampler
from backend.inference.shared_base import SharedBase
from backend.inferencer import Inferencer
from backend.run.folder import RunDir
from backend.server import bases
from backend.server.engine import Engine, Limits
from backend.server.jobs import Failure, Job, TokenDelta
from backend.server.metrics import Metrics
from backend.utils.lock_utils import is_folder_held
from tests.eventually import eventually
from tests.locks import Meeting, both, waits_for
from tests.tiny import tiny_model_folder

LONG = 300


@dataclass
class Recorder:
    """A listener that keeps all events."""

    events: queue.SimpleQueue[TokenDelta | Failure] = field(default_factory=queue.SimpleQueue)
    _texts: dict[int, str] = field(default_factory=dict)

    def deliver(self, events: Sequence[TokenDelta | Failure]) -> None:
        for each in events:
            self.events.put(each)

    def answers(self, count: int = 1) -> list[str]:
        ended = 0
        while ended < count:
            delta = self.events.get(timeout=60)
            assert isinstance(delta, TokenDelta), delta
            self._texts[delta.choice] = self._texts.get(delta.choice, "") + delta.text
            ended += bool(delta.finish)
        return [self._texts[choice] for choice in range(count)]

    def failure(self) -> Any:
        while isinstance(found := self.events.get(timeout=60), TokenDelta):
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
) -> tuple[Job, Recorder]:
    listener = Recorder()
    prompt = engine.renderer(source).result(60).render(text)
    samplings = [Sampling(**sampling)]
    job = Job((source, strength), prompt, samplings, [None], (), listener)
    return job, listener


def _endless(engine: Engine, source: ModelSource) -> tuple[Job, Recorder]:
    """A job that goes on for as long as a test may take."""
    return _job(engine, source, temperature=100.0, max_new_tokens=LONG)


def test_an_answer_is_that_of_the_inferencer(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, listener = _job(engine, find_model(trained))
    engine.submit(job)

    assert listener.answers() == ["expected output"]


def test_answers_are_numbered_from_where_the_job_says(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, listener = _job(engine, find_model(trained), max_new_tokens=1)
    job.first = 5
    engine.submit(job)

    assert listener.events.get(timeout=60) == TokenDelta(5, "e", ANY, "length")


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
        job, listener = _job(engine, find_model(trained, **options), text, strength=strength, **sampling)
        engine.submit(job)
        jobs.append((text, sampling, listener))

    said = [listener.answers()[0] for *_, listener in jobs]

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
    waiting = [listener for _, listener in jobs[2:]]
    assert all(listener.events.empty() for listener in waiting)

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


def test_of_two_at_once_one_gets_the_last_place(trained: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is looked at and changed by one thread at a time: the other waits between the two."""
    engine, meeting = Engine(Limits(waiting=1), Metrics()), Meeting()
    monkeypatch.setattr(engine, "revive", meeting.wait)
    refused: list[str] = []

    def submit() -> None:
        try:
            engine.submit(Job((find_model(trained), 1.0), [1], [Sampling()], [None], (), Recorder()))
        except InferenceError as error:
            refused.append(error.code)

    both(submit, submit)
    assert (meeting.happened, refused, engine._queued) == (False, ["queue-full"], 1)


@pytest.mark.parametrize(
    "act",
    [
        lambda engine, _: engine.revive(),
        lambda engine, job: engine.submit(job),
        lambda engine, _: engine.compute((None, 1.0), lambda _: None),
        lambda engine, job: engine._leave_queue(job),
        lambda engine, _: engine._end(),
    ],
    ids=["revive", "submit", "compute", "leave", "end"],
)
def test_what_belongs_to_all_threads_is_touched_under_the_lock(
    trained: RunDir, act: Callable[[Engine, Job], object]
) -> None:
    engine = Engine(Limits(), Metrics())
    job = Job((find_model(trained), 1.0), [1], [Sampling()], [None], (), Recorder())
    assert waits_for(engine._lock, lambda: act(engine, job))


def test_so_is_the_wish_to_close(make: Callable[..., Engine]) -> None:
    engine = make()
    assert waits_for(engine._lock, engine.close)
    assert not engine._thread.is_alive()


def test_so_is_more_work_than_may_wait(trained: RunDir) -> None:
    engine = Engine(Limits(waiting=0), Metrics())
    with pytest.raises(InferenceError) as caught:
        engine.renderer(find_model(trained)).result(5)
    assert caught.value.code == "queue-full"


def test_who_was_cancelled_gets_no_further_token(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, listener = _endless(engine, find_model(trained, base=True))
    engine.submit(job)
    assert isinstance(listener.events.get(timeout=60), TokenDelta)

    job.cancelled = True
    eventually(lambda: not engine._rows)
    count = listener.events.qsize()

    assert count < LONG - 5
    assert listener.events.qsize() == count


def test_what_takes_too_long_ends(make: Callable[..., Engine], trained: RunDir) -> None:
    engine = make()
    job, listener = _endless(engine, find_model(trained, base=True))
    job.deadline = time.monotonic() + 0.05
    engine.submit(job)

    assert listener.failure().code == "time-limit"
    eventually(lambda: not engine._rows)


def test_a_fault_that_is_nobodys_fails_who_waits_and_the_next_is_answered(
    make: Callable[..., Engine], trained: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    source = find_model(trained)
    job, listener = _job(engine, source)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_decode", lambda *_: 1 / 0)
        engine.submit(job)
        assert listener.failure() is None

    again, second = _job(engine, source)
    engine.submit(again)
    assert second.answers() == ["expected output"]


class _PanicError(BaseException):
    """What a panic in Rust code is to Python."""


FAULTS = [MemoryError("no memory"), RuntimeError("can't allocate memory"), _PanicError("None")]


@contextmanager
def _held_up(engine: Engine, source: ModelSource) -> Iterator[None]:
    """Whatever is asked for in here is found by the engine at once, when this ends."""
    gate = threading.Event()
    engine.compute((source, 1.0), lambda _: gate.wait(60))
    yield
    gate.set()


def _fails(fault: BaseException, where: Callable[..., bool]) -> Callable[[Any], Any]:
    """Make a function raise ``fault`` where its arguments say so."""

    def made(work: Any) -> Any:
        def sometimes(*args: Any, **options: Any) -> Any:
            for _ in filter(None, [where(*args, **options)]):
                raise fault
            return work(*args, **options)

        return sometimes

    return made


VICTIM = "food pork"
STAGES: dict[str, tuple[Any, str, Callable[[Engine, Job], Callable[..., bool]]]] = {
    "adapter": (
        SharedBase,
        "_read_beside",
        lambda _, job: lambda _self, _engine, _adapter, strength: strength == job.variant[1],
    ),
    "begin": (Prefill, "__init__", lambda _, job: lambda _self, _model, prompt: prompt == job.prompt),
    "prefill": (Prefill, "advance", lambda _, job: lambda prefill, _: prefill.prompt == job.prompt),
    "join": (Decoding, "join", lambda _, job: lambda _self, prefill, _: prefill.prompt == job.prompt),
    "step": (Decoding, "step", lambda engine, job: lambda self: job in engine._jobs_in(self)),
    "sampler": (Sampler, "choose", lambda _, job: lambda sampler, _: sampler.sampling == job.samplings[0]),
    "text": (AnswerText, "push", lambda _, job: lambda text, _: text in job.texts.values()),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("stage", STAGES)
def test_a_request_that_fails_at_any_stage_is_told_and_harms_no_other(
    make: Callable[..., Engine],
    trained: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    fault: BaseException,
) -> None:
    engine, source = make(), find_model(trained)
    victim, failed = _job(engine, source, VICTIM, strength=0.5, seed=77)
    owner, name, where = STAGES[stage]
    monkeypatch.setattr(owner, name, _fails(fault, where(engine, victim))(getattr(owner, name)))
    beside = [_job(engine, source) for _ in range(2)]

    with _held_up(engine, source):
        for job, _ in (beside[0], (victim, failed), beside[1]):
            engine.submit(job)

    assert failed.failure() is None
    assert [listener.answers() for _, listener in beside] == [["expected output"]] * 2
    eventually(lambda: not engine._jobs)
    assert (engine._queued, engine._rows, engine.is_alive) == (0, {}, True)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("stage", ["begin", "prefill", "join", "sampler", "text"])
def test_nor_those_that_are_decoded_in_the_same_batch(
    make: Callable[..., Engine],
    trained: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    fault: BaseException,
) -> None:
    engine, source = make(), find_model(trained)
    victim, failed = _job(engine, source, VICTIM, seed=77)
    owner, name, where = STAGES[stage]
    monkeypatch.setattr(owner, name, _fails(fault, where(engine, victim))(getattr(owner, name)))
    beside = [_job(engine, source) for _ in range(2)]

    with _held_up(engine, source):
        for job, _ in (beside[0], (victim, failed), beside[1]):
            engine.submit(job)

    assert failed.failure() is None
    assert [listener.answers() for _, listener in beside] == [["expected output"]] * 2


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_base_that_cannot_be_loaded_is_told_and_harms_no_other(
    make: Callable[..., Engine],
    trained: RunDir,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
) -> None:
    engine, source = make(), find_model(trained)
    good, listener = _job(engine, source)
    victim, failed = (
        Job((find_model(tiny_folder), 1.0), [5, 6], [Sampling()], [None], (), Recorder()),
        Recorder(),
    )
    victim.listener = failed
    monkeypatch.setattr(
        bases.ServedBase, "__init__", _fails(fault, lambda *_: True)(bases.ServedBase.__init__)
    )

    engine.submit(victim)
    engine.submit(good)

    assert failed.failure() is None
    assert listener.answers() == ["expected output"]


@dataclass
class _FailingListener(Recorder):
    """A listener whose first deliveries fail."""

    faults: list[BaseException] = field(default_factory=list)

    def deliver(self, events: Sequence[TokenDelta | Failure]) -> None:
        for fault in [self.faults.pop() for _ in self.faults[:1]]:
            raise fault
        super().deliver(events)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_events_that_could_not_be_delivered_fail_their_own_request_alone(
    make: Callable[..., Engine], trained: RunDir, fault: BaseException
) -> None:
    engine, source = make(), find_model(trained)
    (failing, _), (good, listener) = (_job(engine, source) for _ in range(2))
    failed = _FailingListener(faults=[fault, fault])
    failing.listener = failed

    engine.submit(failing)
    engine.submit(good)

    assert failed.failure() is None
    assert listener.answers() == ["expected output"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_other_work_that_fails_is_its_askers(
    make: Callable[..., Engine], trained: RunDir, fault: BaseException
) -> None:
    engine, source = make(), find_model(trained)
    good, listener = _job(engine, source)
    engine.submit(good)

    failed = engine.compute((source, 1.0), _fails(fault, lambda _: True)(None))

    assert failed.exception(60) is fault
    assert listener.answers() == ["expected output"]


def test_a_dead_engine_tells_who_waits_and_is_replaced(
    make: Callable[..., Engine], trained: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, source = make(), find_model(trained)
    job, listener = _job(engine, source)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_decode", _fails(SystemExit(), lambda *_: True)(None))
        patch.setattr(Engine, "_fail_all", _fails(SystemExit(), lambda *_: True)(None))
        engine.submit(job)
        assert listener.failure().code == "closed"
        eventually(lambda: not engine.is_alive)

    again, second = _job(engine, source)
    engine.submit(again)

    assert second.answers() == ["expected output"]
    assert engine.is_alive


def test_other_work_takes_turns_with_the_answers(make: Callable[..., Engine], trained: RunDir) -> None:
    """However much of it waits: one delta between two steps, and who comes later is let in at once."""
    engine, source = make(), find_model(trained)
    job, listener = _job(engine, source)
    done: list[int] = []
    before: list[int] = []
    deliver = listener.deliver

    def note(events: Sequence[TokenDelta | Failure]) -> None:
        before.append(len(done))
        deliver(events)

    job.listener = SimpleNamespace(deliver=note)
    with _held_up(engine, source):
        pieces = [engine.compute((source, 1.0), lambda _: done.append(1)) for _ in range(40)]
        engine.submit(job)

    assert listener.answers() == ["expected output"]
    assert before[0] <= 2
    assert {later - earlier for earlier, later in pairwise(before)} <= {0, 1}
    assert [delta.result(60) for delta in pieces] == [None] * 40


def test_how_a_model_is_spoken_to_is_told_at_once_where_it_is_known(
    make: Callable[..., Engine], trained: RunDir
) -> None:
    engine, source = make(), find_model(trained)
    renderer = engine.renderer(source).result(60)

    with _held_up(engine, source):
        assert engine.renderer(source).result(0) is renderer


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
    (broken, failed), (good, listener) = (_job(engine, find_model(trained)) for _ in range(2))
    broken.matchers = [_Broken()]
    engine.submit(broken)
    engine.submit(good)

    assert failed.failure().code == "bad-constraint"
    assert listener.answers() == ["expected output"]
    assert not engine._rows


def test_an_adapter_that_is_gone_fails_its_own_requests_alone(
    make: Callable[..., Engine], trained: RunDir, tmp_path: Path
) -> None:
    engine = make()
    copied = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    lost, failed = _endless(engine, find_model(copied))
    engine.submit(lost)
    eventually(lambda: engine._rows)

    def lose(_: object) -> None:  # in one go, between two steps: the answer is soon at its end
        shutil.rmtree(copied.path)
        _forget(engine)

    engine.compute((find_model(trained, base=True), 1.0), lose).result(60)

    good, listener = _job(engine, find_model(trained))
    engine.submit(good)
    assert isinstance(failed.failure(), ModelError)
    assert listener.answers() == ["expected output"]


def _forget(engine: Engine) -> None:
    """Drop every kept set of weights, as more adapters than are kept would."""
    for base in engine._bases.values():
        base.shared._sets.clear()
        base.shared._beside.clear()


def test_another_base_takes_the_place_of_an_idle_one(
    make: Callable[..., Engine], trained: RunDir, tiny_folder: Path, learner: Path
) -> None:
    engine = make(bases=1)
    first, listener = _job(engine, find_model(trained))
    engine.submit(first)
    listener.answers()

    other, second = _job(engine, find_model(tiny_folder), max_new_tokens=3)
    engine.submit(other)
    second.answers()

    assert [folder for folder, _ in engine._bases] == [tiny_folder]


def test_other_weights_in_the_folder_of_a_loaded_base_are_another_base(
    make: Callable[..., Engine], tiny_folder: Path, tmp_path: Path
) -> None:
    engine = make()
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    first = engine.compute((find_model(folder), 1.0), id).result(60)
    tiny_model_folder(folder, seed=5)

    second = engine.compute((find_model(folder), 1.0), id).result(60)

    assert second != first
    assert [each for each, _ in engine._bases] == [folder]


def test_a_base_at_work_is_not_put_out(
    make: Callable[..., Engine], trained: RunDir, tiny_folder: Path
) -> None:
    engine = make(bases=1)
    job, _ = _endless(engine, find_model(trained, base=True))
    engine.submit(job)
    eventually(lambda: engine._rows)

    with pytest.raises(InferenceError) as caught:
        engine.renderer(find_model(tiny_folder)).result(60)

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

    assert [len(listener.answers()) for _, listener in jobs] == [1] * len(jobs)


def test_a_model_that_cannot_be_loaded_is_the_askers_error(
    make: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make()

    with pytest.raises(ModelError):
        engine.renderer(ModelSource(tmp_path, None, tmp_path, ())).result(60)


def test_the_end_is_told_to_whoever_waits(trained: RunDir) -> None:
    engine = Engine(Limits(rows=1), Metrics())
    engine.start()
    source = find_model(trained)
    jobs = [_endless(engine, source) for _ in range(3)]
    for job, _ in jobs:
        engine.submit(job)
    engine.close()

    assert {listener.failure().code for _, listener in jobs} == {"closed"}
    with pytest.raises(InferenceError):
        engine.submit(jobs[0][0])
    with pytest.raises(InferenceError):
        engine.renderer(source).result(5)


def test_f39_what_is_loaded_is_held_until_it_makes_room_or_the_engine_ends(
    make: Callable[..., Engine], trained: RunDir, tiny_folder: Path, tmp_path: Path
) -> None:
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    served = find_model(run), 1.0
    engine = make(bases=1)
    seen = [engine.compute(served, lambda _: is_folder_held(run.path)).result(60)]
    engine.renderer(find_model(tiny_folder)).result(60)
    seen.append(is_folder_held(run.path))
    seen.append(engine.compute(served, lambda _: is_folder_held(run.path)).result(60))
    engine.close()
    assert (seen, is_folder_held(run.path)) == ([True, False, True], False)
