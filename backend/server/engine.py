"""The engine: one thread that loads models, reads prompts and decodes the answers of all requests side by side.

One thread, since the models over a base share its weights and only one can use them at a time; torch itself uses all
cores. Jobs with the same weights are decoded in one batch. Those with other weights over the same base take turns,
token by token, which is cheap: switching to another adapter only moves pointers (see ``shared_base``). The queue is
first in, first out. Tasks, which is whatever else needs a model (embeddings, log-probabilities), run one between two
steps.

A failure ends only the jobs it concerns: one job, or those whose rows are decoded in one batch. Every job is in
``_jobs`` from ``submit`` until its last event was delivered, so that none can be lost.
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
from backend.server.bases import BaseCache, ServedBase
from backend.server.faults import caught
from backend.server.jobs import Failure, Job, TokenDelta, Variant
from backend.server.metrics import Metrics

PREFILL_TOKENS = 256
"""Prompt tokens read between two steps: a long prompt must not hold up the answers that are being written."""
DELIVER_TRIES = 3
_log = logging.getLogger("tunesmith.server")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """The most answers decoded at once, jobs that may wait, and base models that stay loaded."""

    rows: int = 16
    waiting: int = 256
    bases: int = 2


@dataclass(frozen=True)
class _Task:
    """Work on a model besides decoding, and the future of its result."""

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
    """The queue and its thread, from ``start`` to ``close``. Public methods may be called from any thread.

    Other threads only add to the inbox, ``_jobs`` and ``_queued`` and set the two flags, under ``_lock``; everything
    else belongs to the engine's own thread. A thread that died is replaced at the next submit or task, or by
    ``revive``.
    """

    def __init__(self, limits: Limits, metrics: Metrics, precision: str = "exact") -> None:
        self.limits = limits
        self.precision = precision
        self._metrics = metrics
        self._lock = threading.RLock()  # reentrant: submit holds it and calls revive
        self._closing = self._dead = False
        self._reset()
        self._thread = self._new_thread()

    def _reset(self) -> None:
        """Begin with no job and no model."""
        # None in the inbox only wakes the thread
        self._inbox: queue.SimpleQueue[Job | _Task | None] = queue.SimpleQueue()
        self._jobs: dict[Job, None] = {}
        self._queued = 0
        self._waiting: deque[Job] = deque()
        self._tasks: deque[_Task] = deque()
        self._reading: tuple[Job, Prefill] | None = None
        self._bases = BaseCache(self.limits.bases, self._metrics, self.precision)
        self._rows: dict[tuple[Decoding, int], tuple[Job, int]] = {}

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End after the current step; jobs that are not finished fail with ``closed``."""
        with self._lock:
            self._closing = True
            self._inbox.put(None)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """False once the thread has died of an error."""
        return not self._dead

    def revive(self) -> None:
        """Start a new thread if the old one died; it loads its models anew when they are asked for."""
        with self._lock:
            if self._dead and not self._closing:
                self._dead = False
                self._thread = self._new_thread()
                self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises InferenceError ``queue-full`` or ``closed``."""
        with self._lock:
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
        """Return a future of the prompt renderer, loading the base if needed. The future raises TunesmithError."""
        # one look-up, safe from any thread; only where it finds nothing does the request wait for the engine
        base = self._bases.loaded(source)
        found = base.cached_renderer(source) if base is not None else None
        if found is None:
            return self._queue_task(lambda: self._base(source).renderer(source))
        future: Future[PromptRenderer] = Future()
        future.set_result(found)
        return future

    def compute(self, variant: Variant, work: Callable[[PreTrainedModel], Result]) -> Future[Result]:
        """Return a future of the result of ``work``, which gets the model between two steps."""
        return self._queue_task(lambda: work(self._whole(*variant)))

    def _whole(self, source: ModelSource, strength: float) -> PreTrainedModel:
        base = self._base(source)
        base.use(source, strength)
        return base.shared.whole()

    def _queue_task(self, work: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        with self._lock:
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
        with caught(self._fail_all):
            self._end_cancelled_and_late()
            self._prefill()
            self._decode()
            if self._tasks:
                self._tasks.popleft().run()
        self._metrics.rows.set(len(self._rows))

    def _fail_all(self, error: BaseException) -> None:
        """Fail every job after an error that belongs to no single one; the engine goes on with the next."""
        self._rows.clear()
        for base in self._bases.values():
            base.groups.clear()
        self._fail(list(self._jobs), error)

    def _end(self) -> None:
        """Fail every job and task, and unload the models."""
        # what is submitted from now on belongs to a new thread, so the old one takes its own things along
        with self._lock:
            self._dead = not self._closing
            inbox, tasks, jobs, bases = self._inbox, self._tasks, self._jobs, self._bases
            self._metrics.waiting.dec(self._queued)
            self._reset()
        error = _CLOSED if self._closing else _DIED
        while not inbox.empty():
            if isinstance(left := inbox.get(), _Task):
                tasks.append(left)
        for task in tasks:
            task.refuse(error)
        for job in jobs:
            _report_failure(job, error)
        bases.close()

    def _read_inbox(self) -> None:
        """Take jobs and tasks out of the inbox; sleep while there is nothing else to do."""
        idle = not (self._rows or self._waiting or self._reading or self._tasks or self._closing)
        while idle or not self._inbox.empty():
            asked = self._inbox.get()
            if isinstance(asked, _Task):
                self._tasks.append(asked)
            elif asked in self._jobs:
                self._waiting.append(asked)
            idle = False

    def _prefill(self) -> None:
        """Read the prompts of waiting jobs, as far as there are free rows and ``PREFILL_TOKENS`` last."""
        budget = PREFILL_TOKENS
        while budget > 0:
            reading = self._reading or self._next_prefill()
            if reading is None:
                return
            job, prefill = self._reading = reading
            with self._charging(job):
                base = self._bases[job.variant[0].base_key]
                base.use(*job.variant)
                before = prefill.left
                prefill.advance(budget)
                budget -= before - prefill.left + 1  # at least 1, so that this loop ends
                if prefill.left == 0:
                    self._join(base, job, prefill)
                    self._reading = None

    def _next_prefill(self) -> tuple[Job, Prefill] | None:
        """Take the next job out of the queue, unless there is none or no room for it.

        Only the first in the queue is looked at: were those behind it let past, a job with many answers could wait
        for ever.
        """
        while self._waiting and self._has_room(self._waiting[0]):
            job = self._waiting.popleft()
            self._leave_queue(job)
            with self._charging(job):
                prefill = Prefill(self._base(job.variant[0]).use(*job.variant), job.prompt)
                self._metrics.prompt_tokens.inc(len(job.prompt))
                return job, prefill
        return None

    def _has_room(self, job: Job) -> bool:
        # with no row at all any job may start, or one with more answers than ``limits.rows`` never could
        if self._rows and len(self._rows) + len(job.samplings) > self.limits.rows:
            return False
        return self._bases.has_room(job.variant)

    def _base(self, source: ModelSource) -> ServedBase:
        """Return the base of ``source``, loading it if needed. Raises InferenceError ``busy``."""
        return self._bases.load(
            source, reading=self._reading[0].variant[0].base_key if self._reading else None
        )

    def _join(self, base: ServedBase, job: Job, prefill: Prefill) -> None:
        renderer = base.renderer(job.variant[0])
        samplers = [
            Sampler(sampling, job.prompt, matcher, renderer.known)
            for sampling, matcher in zip(job.samplings, job.matchers, strict=True)
        ]
        texts = [AnswerText(renderer.tokenizer, job.stop) for _ in samplers]
        group = base.groups.get(job.variant, [])
        decoding = next((each for each in group if each.accepts_rows), None)
        if decoding is None:
            decoding = Decoding(base.shared.model, [], Sampling(), renderer.stop_ids)
            base.groups[job.variant] = [*group, decoding]
        for choice, row in enumerate(decoding.join(prefill, samplers), job.first):
            job.texts[choice] = texts[choice - job.first]
            self._rows[decoding, row] = job, choice

    def _decode(self) -> None:
        """Generate one token for every row, and deliver to each job what it got."""
        deltas: dict[Job, list[TokenDelta]] = {}
        for base in self._bases.values():
            for variant, group in base.groups.items():
                for decoding in group:
                    with self._charging(*self._jobs_in(decoding), broken=decoding):
                        base.use(*variant)
                        for token in decoding.step():
                            self._collect(decoding, token, deltas)
            base.drop_finished()
        for job, added in deltas.items():
            if job in self._jobs:  # it may have failed at a later token of this very step
                self._deliver(job, added)

    def _collect(self, decoding: Decoding, token: NewToken, deltas: dict[Job, list[TokenDelta]]) -> None:
        """Add to ``deltas`` what ``token`` adds to its answer."""
        job, choice = self._rows.get((decoding, token.row), (None, 0))
        if job is None:
            return
        with self._charging(job):
            if token.error is not None:
                raise token.error
            text = job.texts[choice]
            shown = text.push(token)
            if text.finish:
                self._drop(decoding, token.row)
            deltas.setdefault(job, []).append(TokenDelta(choice, shown, token, text.finish))

    def _deliver(self, job: Job, deltas: list[TokenDelta]) -> None:
        # counted first, so that a client that has its answer finds it in the metrics
        self._metrics.tokens.inc(len(deltas))
        with self._charging(job):
            job.listener.deliver(deltas)
            if not any(each is job for each, _ in self._rows.values()):
                del self._jobs[job]

    # --- failures and cancellation ------------------------------------------------------------------------

    @contextmanager
    def _charging(self, *jobs: Job, broken: Decoding | None = None) -> Iterator[None]:
        """Fail ``jobs`` with whatever fails in the block, and no other.

        A decoding that failed half way through a step is ``broken``: rows and cache may no longer fit together, so
        it is abandoned with all of its rows.
        """

        def charge(error: BaseException) -> None:
            if broken is not None:
                self._rows = {key: held for key, held in self._rows.items() if key[0] is not broken}
                broken.abandon()
            self._fail(jobs, error)

        with caught(charge):
            yield

    def _fail(self, jobs: Collection[Job], error: BaseException) -> None:
        """Deliver the failure to ``jobs``, except to those that have ended already."""
        shown = error if isinstance(error, TunesmithError) else None
        if shown is None:
            _log.error("a request failed", exc_info=error)
        for job in jobs:
            if job in self._jobs:
                self._forget(job)
                _report_failure(job, shown)

    def _forget(self, job: Job) -> None:
        """Remove ``job`` from the queue, the prefill and the rows."""
        del self._jobs[job]
        self._leave_queue(job)
        if job in self._waiting:
            self._waiting.remove(job)
        if self._reading and self._reading[0] is job:
            self._reading = None
        for decoding, row in [key for key, held in self._rows.items() if held[0] is job]:
            self._drop(decoding, row)

    def _drop(self, decoding: Decoding, row: int) -> None:
        """Remove ``row`` from its batch; where that fails, the rows beside it fail too."""
        self._rows.pop((decoding, row), None)
        with self._charging(*self._jobs_in(decoding), broken=decoding):
            decoding.drop(row)

    def _jobs_in(self, decoding: Decoding) -> list[Job]:
        return list(dict.fromkeys(job for (each, _), (job, _) in self._rows.items() if each is decoding))

    def _end_cancelled_and_late(self) -> None:
        """End the jobs that were cancelled or took too long; only here, so between two steps."""
        now = time.monotonic()
        for job in list(self._jobs):
            if job.cancelled:
                self._forget(job)
            elif now > job.deadline:
                self._fail([job], _LATE)
        for base in self._bases.values():
            base.drop_finished()

    def _leave_queue(self, job: Job) -> None:
        if job.begun:
            return
        job.begun = True
        with self._lock:
            self._queued -= 1
        self._metrics.waiting.dec()


def _report_failure(job: Job, error: TunesmithError | None) -> None:
    """Deliver the failure to ``job``, unless it was cancelled and nobody waits for it."""
    for _ in range(0 if job.cancelled else DELIVER_TRIES):
        with caught(
            lambda fault: _log.error("the failure of a request could not be delivered", exc_info=fault)
        ):
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
