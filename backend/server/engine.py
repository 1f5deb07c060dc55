"""The one thread that computes: it loads models, lets requests in, and gives every row its next token in turn.

Requests over the same weights are decoded side by side; those over other weights take turns, token by token, since
going over to another adapter is a matter of pointers. Nobody overtakes: who waits for room is let in first. Whatever
else is asked of a model (a vector, a look inside) is done piece by piece, one between two steps.

What fails is charged to whoever asked for it: a request, or the rows that are decoded in one batch. Every request is
in ``_jobs`` from the moment it is taken until it is answered or told, so that none can be lost.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from backend.core.device import plan_compute
from backend.errors import InferenceError, TunesmithError
from backend.inference.answer_text import AnswerText
from backend.inference.decoding import Decoding, NewToken, Prefill, Sampling
from backend.inference.model_source import ModelSource
from backend.inference.prompting import PromptRenderer
from backend.inference.sampling import Sampler
from backend.server.faults import caught
from backend.server.hosts import Host, Hosts
from backend.server.jobs import Failure, Job, Piece, Variant
from backend.server.metrics import Metrics

READ_AT_ONCE = 256
"""Prompt tokens read between two steps, so that no row waits long for another's prompt."""
TELL_TRIES = 3
_log = logging.getLogger("tunesmith.server")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """How much is done at once. ``waiting`` requests may queue; ``bases`` base models stay loaded."""

    rows: int = 16
    waiting: int = 256
    bases: int = 2


@dataclass(frozen=True)
class _Task:
    """Something asked of a model besides answers, and where its result is awaited."""

    work: Callable[[], Any]
    future: Future[Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        with caught(self.future.set_exception), torch.inference_mode():
            self.future.set_result(self.work())

    def refuse(self, error: TunesmithError) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Engine:
    """Runs until ``close``. Every method may be called from any thread.

    A thread that died is replaced when something is asked for, or by ``revive``.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._guard = threading.RLock()
        self._closing = self._dead = False
        self._reset()
        self._thread = self._new_thread()

    def _reset(self) -> None:
        """Begin with nothing: no request, no model."""
        self._inbox: queue.SimpleQueue[Job | _Task | None] = queue.SimpleQueue()
        self._jobs: dict[Job, None] = {}
        self._queued = 0
        self._waiting: deque[Job] = deque()
        self._tasks: deque[_Task] = deque()
        self._reading: tuple[Job, Prefill] | None = None
        self._hosts = Hosts(self.limits.bases, self._metrics)
        self._rows: dict[tuple[Decoding, int], tuple[Job, int]] = {}

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """End after the step at work; whoever still waits is told that the server is ending."""
        with self._guard:
            self._closing = True
            self._inbox.put(None)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether somebody computes."""
        return not self._dead

    def revive(self) -> None:
        """Put a new thread in the place of one that died; its models are loaded anew when they are asked for."""
        with self._guard:
            if self._dead and not self._closing:
                self._dead = False
                self._thread = self._new_thread()
                self._thread.start()

    def submit(self, job: Job) -> None:
        """Let a request wait for its turn. Raises InferenceError ``queue-full`` or ``closed``."""
        with self._guard:
            if self._closing:
                raise _CLOSED
            if self._queued >= self.limits.waiting:
                raise _full(self._queued)
            self.revive()
            self._queued += 1
            self._jobs[job] = None
            self._metrics.waiting.inc()
            self._inbox.put(job)

    def renderer(self, source: ModelSource) -> Future[PromptRenderer]:
        """How ``source`` is spoken to; its base is loaded when it is not. The future raises TunesmithError."""
        host = self._hosts.at_hand(source)
        found = host.cached_renderer(source) if host is not None else None
        if found is None:
            return self._ask(lambda: self._host(source).renderer(source))
        future: Future[PromptRenderer] = Future()
        future.set_result(found)
        return future

    def compute(self, variant: Variant, work: Callable[[PreTrainedModel], Result]) -> Future[Result]:
        """What ``work`` makes of the model, between two steps."""
        return self._ask(lambda: work(self._host(variant[0]).use(*variant)))

    def _ask(self, work: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        with self._guard:
            waiting = len(self._tasks) + self._inbox.qsize()
            if self._closing:
                future.set_exception(_CLOSED)
            elif waiting >= self.limits.waiting:
                future.set_exception(_full(waiting))
            else:
                self.revive()
                self._inbox.put(_Task(work, future))
        return future

    # --- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            torch.set_num_threads(plan_compute("float32").lanes)
            while not self._closing:
                self._read_inbox()
                self._turn()
        except BaseException:  # noqa: BLE001 - the end of the thread, which ``revive`` replaces
            _log.critical("the engine died", exc_info=True)
        finally:
            self._end()

    def _turn(self) -> None:
        with caught(self._begin_anew):
            self._forget_the_gone()
            self._let_in()
            self._step()
            if self._tasks:
                self._tasks.popleft().run()
        self._metrics.rows.set(len(self._rows))

    def _begin_anew(self, error: BaseException) -> None:
        """Tell all of a fault that could not be charged to anybody; the next may come."""
        self._rows.clear()
        for host in self._hosts.values():
            host.groups.clear()
        self._fail(list(self._jobs), error)

    def _end(self) -> None:
        """Tell everybody who waits, and leave nothing behind."""
        with self._guard:  # who asks from now on finds nothing but a new thread
            self._dead = not self._closing
            inbox, tasks, jobs, hosts = self._inbox, self._tasks, self._jobs, self._hosts
            self._metrics.waiting.dec(self._queued)
            self._reset()
        error = _CLOSED if self._closing else _DIED
        while not inbox.empty():
            if isinstance(left := inbox.get(), _Task):
                tasks.append(left)
        for task in tasks:
            task.refuse(error)
        for job in jobs:
            _tell(job, error)
        hosts.close()

    def _read_inbox(self) -> None:
        """Take what was asked for; sleep while there is nothing else to do."""
        idle = not (self._rows or self._waiting or self._reading or self._tasks or self._closing)
        while idle or not self._inbox.empty():
            asked = self._inbox.get()
            if isinstance(asked, _Task):
                self._tasks.append(asked)
            elif asked in self._jobs:
                self._waiting.append(asked)
            idle = False

    def _let_in(self) -> None:
        """Read the prompts of those who wait, as far as there is room and time."""
        budget = READ_AT_ONCE
        while budget > 0:
            reading = self._reading or self._begin_next()
            if reading is None:
                return
            job, prefill = self._reading = reading
            with self._charged_to(job):
                host = self._hosts[job.variant[0].base]
                host.use(*job.variant)
                before = prefill.left
                prefill.advance(budget)
                budget -= before - prefill.left + 1
                if prefill.left == 0:
                    self._join(host, job, prefill)
                    self._reading = None

    def _begin_next(self) -> tuple[Job, Prefill] | None:
        """Take the next request out of the queue, unless there is none or no room for it."""
        while self._waiting and self._fits(self._waiting[0]):
            job = self._waiting.popleft()
            self._left_the_queue(job)
            with self._charged_to(job):
                prefill = Prefill(self._host(job.variant[0]).use(*job.variant), job.prompt)
                self._metrics.prompt_tokens.inc(len(job.prompt))
                return job, prefill
        return None

    def _fits(self, job: Job) -> bool:
        if self._rows and len(self._rows) + len(job.samplings) > self.limits.rows:
            return False
        return self._hosts.have_room(job.variant)

    def _host(self, source: ModelSource) -> Host:
        """The base of ``source``, loaded now if need be. Raises InferenceError ``busy``."""
        return self._hosts.of(source, reading=self._reading[0].variant[0].base if self._reading else None)

    def _join(self, host: Host, job: Job, prefill: Prefill) -> None:
        renderer = host.renderer(job.variant[0])
        samplers = [
            Sampler(sampling, job.prompt, matcher, renderer.known)
            for sampling, matcher in zip(job.samplings, job.matchers, strict=True)
        ]
        texts = [AnswerText(renderer.tokenizer, job.stop) for _ in samplers]
        group = host.groups.get(job.variant, [])
        decoding = next((each for each in group if each.accepts_rows), None)
        if decoding is None:
            decoding = Decoding(host.shared.model, [], Sampling(), renderer.stop_ids)
            host.groups[job.variant] = [*group, decoding]
        for choice, row in enumerate(decoding.join(prefill, samplers), job.first):
            job.texts[choice] = texts[choice - job.first]
            self._rows[decoding, row] = job, choice

    def _step(self) -> None:
        """One token for every row."""
        news: dict[Job, list[Piece]] = {}
        for host in self._hosts.values():
            for variant, group in host.groups.items():
                for decoding in group:
                    with self._charged_to(*self._jobs_in(decoding), broken=decoding):
                        host.use(*variant)
                        for token in decoding.step():
                            self._note(decoding, token, news)
            host.tidy()
        for job, pieces in news.items():
            if job in self._jobs:
                self._deliver(job, pieces)

    def _note(self, decoding: Decoding, token: NewToken, news: dict[Job, list[Piece]]) -> None:
        """What ``token`` adds to its answer, among the ``news``."""
        job, choice = self._rows.get((decoding, token.row), (None, 0))
        if job is None:
            return
        with self._charged_to(job):
            if token.error is not None:
                raise token.error
            text = job.texts[choice]
            shown = text.push(token)
            if text.finish:
                self._drop(decoding, token.row)
            news.setdefault(job, []).append(Piece(choice, shown, token, text.finish))

    def _deliver(self, job: Job, pieces: list[Piece]) -> None:
        self._metrics.tokens.inc(len(pieces))  # first, so that who has the answer finds it counted
        with self._charged_to(job):
            job.listener.deliver(pieces)
            if not any(each is job for each, _ in self._rows.values()):
                del self._jobs[job]

    # --- faults and ends ----------------------------------------------------------------------------------

    @contextmanager
    def _charged_to(self, *jobs: Job, broken: Decoding | None = None) -> Iterator[None]:
        """Tell ``jobs`` of whatever fails in here, and harm nobody else. A batch that failed is ``broken``."""

        def charge(error: BaseException) -> None:
            if broken is not None:
                self._rows = {key: held for key, held in self._rows.items() if key[0] is not broken}
                broken.abandon()
            self._fail(jobs, error)

        with caught(charge):
            yield

    def _fail(self, jobs: Collection[Job], error: BaseException) -> None:
        """Tell ``jobs`` that they failed; those that are over already are not told again."""
        told = error if isinstance(error, TunesmithError) else None
        if told is None:
            _log.error("a request failed", exc_info=error)
        for job in jobs:
            if job in self._jobs:
                self._forget(job)
                _tell(job, told)

    def _forget(self, job: Job) -> None:
        """Let go of all that ``job`` holds."""
        del self._jobs[job]
        self._left_the_queue(job)
        if job in self._waiting:
            self._waiting.remove(job)
        if self._reading and self._reading[0] is job:
            self._reading = None
        for decoding, row in [key for key, held in self._rows.items() if held[0] is job]:
            self._drop(decoding, row)

    def _drop(self, decoding: Decoding, row: int) -> None:
        """Go on without ``row``; where that fails, the rows beside it cannot go on either."""
        self._rows.pop((decoding, row), None)
        with self._charged_to(*self._jobs_in(decoding), broken=decoding):
            decoding.drop(row)

    def _jobs_in(self, decoding: Decoding) -> list[Job]:
        return list(dict.fromkeys(job for (each, _), (job, _) in self._rows.items() if each is decoding))

    def _forget_the_gone(self) -> None:
        """End what was cancelled or took too long."""
        now = time.monotonic()
        for job in list(self._jobs):
            if job.cancelled:
                self._forget(job)
            elif now > job.deadline:
                self._fail([job], _LATE)
        for host in self._hosts.values():
            host.tidy()

    def _left_the_queue(self, job: Job) -> None:
        if job.begun:
            return
        job.begun = True
        with self._guard:
            self._queued -= 1
        self._metrics.waiting.dec()


def _tell(job: Job, error: TunesmithError | None) -> None:
    """Tell ``job`` that it failed, unless nobody waits for it."""
    for _ in range(0 if job.cancelled else TELL_TRIES):
        with caught(lambda fault: _log.error("a request could not be told that it failed", exc_info=fault)):
            job.listener.deliver([Failure(error)])
            break
    job.cancelled = True


def _full(waiting: int) -> InferenceError:
    return InferenceError(
        f"{waiting} requests are waiting already.", remedy="Try again soon.", code="queue-full"
    )


_LATE = InferenceError("This answer took too long.", remedy="Ask for less.", code="time-limit")
_CLOSED = InferenceError("The server is ending.", remedy="Start it again.", code="closed")
_DIED = InferenceError("The server had to begin anew.", remedy="Ask again.", code="closed")
