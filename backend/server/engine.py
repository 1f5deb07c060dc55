"""The one thread that computes: it loads models, lets requests in, and gives every row its next token in turn.

Requests over the same weights are decoded side by side; those over other weights take turns, token by token, since
going over to another adapter is a matter of pointers. Nobody overtakes: who waits for room is let in first.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from backend.core.answer_text import AnswerText
from backend.core.device import plan_compute
from backend.core.generation import Decoding, NewToken, Prefill, Sampling
from backend.core.sampling import Chooser
from backend.core.shared_base import KEEP
from backend.errors import InferenceError, TunesmithError
from backend.model_source import ModelSource
from backend.server.jobs import Failure, Job, Piece, Variant
from backend.server.metrics import Metrics
from backend.voice import LoadedBase, Voice

READ_AT_ONCE = 256
"""Prompt tokens read between two steps, so that no row waits long for another's prompt."""
_log = logging.getLogger("tunesmith.server")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """How much is done at once. ``waiting`` requests may queue; ``bases`` base models stay loaded."""

    rows: int = 16
    waiting: int = 256
    bases: int = 2


class _Host(LoadedBase):
    """A loaded base, and the rows that are being continued, by what answers."""

    def __init__(self, source: ModelSource) -> None:
        super().__init__(source)
        self.groups: dict[Variant, list[Decoding]] = {}


class Engine:
    """Runs until ``close``. Every method may be called from any thread."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._reading: tuple[Job, Prefill] | None = None
        self._hosts: dict[Path, _Host] = {}
        self._rows: dict[tuple[int, int], tuple[Job, int]] = {}
        self._queued = 0
        self._guard = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """End after the step at work; whoever still waits is told that the server is ending."""
        self._closing = True
        self._inbox.put(None)
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Let a request wait for its turn. Raises InferenceError ``queue-full`` or ``closed``."""
        with self._guard:
            if self._closing:
                raise _CLOSED
            if self._queued >= self.limits.waiting:
                raise _full(self._queued)
            self._queued += 1
        self._metrics.waiting.inc()
        self._inbox.put(lambda: self._waiting.append(job))

    def voice(self, source: ModelSource) -> Future[Voice]:
        """How ``source`` is spoken to; its base is loaded when it is not. The future raises TunesmithError."""
        return self._ask(lambda: self._host(source).voice(source))

    def compute(self, variant: Variant, work: Callable[[PreTrainedModel], Result]) -> Future[Result]:
        """What ``work`` makes of the model, between two steps."""
        return self._ask(lambda: work(self._host(variant[0]).use(*variant)))

    def _ask(self, work: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self._closing:
                    raise _CLOSED
                with torch.inference_mode():
                    future.set_result(work())
            except Exception as error:  # noqa: BLE001 - it is the asker's
                future.set_exception(error)

        if self._closing:
            future.set_exception(_CLOSED)
        elif self._inbox.qsize() >= self.limits.waiting:
            future.set_exception(_full(self._inbox.qsize()))
        else:
            self._inbox.put(answer)
        return future

    # --- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.set_num_threads(plan_compute("float32").lanes)
        while not self._closing:
            self._read_inbox()
            try:
                self._let_in()
                self._step()
            except Exception:  # noqa: BLE001 - the thread's door: whoever waits is told, and the next may come
                _log.exception("a step failed")
                self._fail_all(None)
            self._metrics.rows.set(len(self._rows))
        self._read_inbox()
        self._fail_all(_CLOSED)
        for host in self._hosts.values():
            host.close()
        self._hosts.clear()

    def _read_inbox(self) -> None:
        """Do what was asked; sleep while there is nothing else to do."""
        idle = not (self._rows or self._waiting or self._reading or self._closing)
        while idle or not self._inbox.empty():
            asked = self._inbox.get()
            if asked is not None:
                asked()
            idle = False

    def _let_in(self) -> None:
        """Read the prompts of those who wait, as far as there is room and time."""
        self._forget_the_gone()
        budget = READ_AT_ONCE
        while budget > 0:
            reading = self._reading or self._begin_next()
            if reading is None:
                return
            job, prefill = self._reading = reading
            try:
                self._hosts[job.variant[0].base].use(*job.variant)
                before = prefill.left
                prefill.advance(budget)
                budget -= before - prefill.left + 1
                if prefill.left == 0:
                    self._reading = None
                    self._join(job, prefill)
            except TunesmithError as error:
                self._reading = None
                job.listener.deliver([Failure(error)])

    def _begin_next(self) -> tuple[Job, Prefill] | None:
        """Take the next request out of the queue, unless there is none or no room for it."""
        while self._waiting and self._fits(self._waiting[0]):
            job = self._waiting.popleft()
            self._left_the_queue()
            try:
                host = self._host(job.variant[0])
                prefill = Prefill(host.use(*job.variant), job.prompt)
            except TunesmithError as error:
                job.listener.deliver([Failure(error)])
                continue
            self._metrics.prompt_tokens.inc(len(job.prompt))
            return job, prefill
        return None

    def _fits(self, job: Job) -> bool:
        if self._rows and len(self._rows) + len(job.samplings) > self.limits.rows:
            return False
        host = self._hosts.get(job.variant[0].base)
        if host is None:
            return len(self._hosts) < self.limits.bases or any(
                not each.groups for each in self._hosts.values()
            )
        return job.variant in host.groups or len(host.groups) < KEEP

    def _host(self, source: ModelSource) -> _Host:
        """The base of ``source``, loaded now if need be; an idle one makes room. Raises InferenceError ``busy``."""
        folder = source.base
        if folder not in self._hosts:
            idle = [
                name
                for name, host in self._hosts.items()
                if not host.groups and not (self._reading and self._reading[0].variant[0].base == name)
            ]
            if len(self._hosts) >= self.limits.bases:
                if not idle:
                    raise InferenceError(
                        "All loaded models are at work.", remedy="Try again soon.", code="busy"
                    )
                self._hosts.pop(idle[0]).close()
            started = time.monotonic()
            self._hosts[folder] = _Host(source)
            self._metrics.loads.inc()
            _log.info("loaded a base model in %.1f s", time.monotonic() - started)
        self._hosts[folder] = self._hosts.pop(folder)  # the newest is last
        return self._hosts[folder]

    def _join(self, job: Job, prefill: Prefill) -> None:
        host = self._hosts[job.variant[0].base]
        voice = host.voice(job.variant[0])
        group = host.groups.setdefault(job.variant, [])
        decoding = next((each for each in group if each.takes_rows), None)
        if decoding is None:
            decoding = Decoding(host.shared.model, [], Sampling(), voice.stop_ids)
            group.append(decoding)
        choosers = [
            Chooser(sampling, job.prompt, matcher, voice.known)
            for sampling, matcher in zip(job.samplings, job.matchers, strict=True)
        ]
        for choice, row in enumerate(decoding.join(prefill, choosers), job.first):
            job.texts[choice] = AnswerText(voice.tokenizer, job.stop)
            self._rows[id(decoding), row] = job, choice

    def _step(self) -> None:
        """One token for every row."""
        news: dict[Job, list[Piece | Failure]] = {}
        for host in self._hosts.values():
            for variant, group in list(host.groups.items()):
                try:
                    host.use(*variant)
                except TunesmithError as error:  # its adapter is gone; the others go on
                    self._fail(group, error)
                for decoding in group:
                    for token in decoding.step():
                        job, choice = self._rows[id(decoding), token.row]
                        news.setdefault(job, []).append(self._piece(decoding, token, job, choice))
                self._tidy(host, variant)
        for job, pieces in news.items():
            self._metrics.tokens.inc(len(pieces))  # first, so that who has the answer finds it counted
            job.listener.deliver(pieces)

    def _fail(self, group: list[Decoding], error: TunesmithError) -> None:
        """End every row of ``group``."""
        for decoding in group:
            for row in list(decoding.rows):
                job, _ = self._rows.pop((id(decoding), row))
                decoding.drop(row)
                if not job.cancelled:
                    job.cancelled = True
                    job.listener.deliver([Failure(error)])

    def _piece(self, decoding: Decoding, token: NewToken, job: Job, choice: int) -> Piece | Failure:
        if token.error is not None:
            del self._rows[id(decoding), token.row]
            job.cancelled = True
            return Failure(token.error if isinstance(token.error, TunesmithError) else None)
        text = job.texts[choice]
        shown = text.push(token)
        if text.finish:
            del self._rows[id(decoding), token.row]
            if not token.finish:
                decoding.drop(token.row)
        return Piece(choice, shown, token, text.finish)

    def _tidy(self, host: _Host, variant: Variant) -> None:
        group = [each for each in host.groups[variant] if each.rows]
        host.groups[variant] = group
        if not group:
            del host.groups[variant]

    def _forget_the_gone(self) -> None:
        """End what was cancelled or took too long."""
        now = time.monotonic()
        for job in [job for job in self._waiting if job.is_over(now)]:
            self._waiting.remove(job)
            self._left_the_queue()
        if self._reading and self._reading[0].is_over(now):
            self._reading = None
        gone = {key: held for key, held in self._rows.items() if held[0].is_over(now)}
        for host in self._hosts.values():
            for variant, group in list(host.groups.items()):
                for decoding in group:
                    for row in [row for row in decoding.rows if (id(decoding), row) in gone]:
                        decoding.drop(row)
                self._tidy(host, variant)
        for key in gone:
            del self._rows[key]

    def _left_the_queue(self) -> None:
        with self._guard:
            self._queued -= 1
        self._metrics.waiting.dec()

    def _fail_all(self, error: TunesmithError | None) -> None:
        jobs = {job for job, _ in self._rows.values()} | set(self._waiting)
        jobs |= {self._reading[0]} if self._reading else set()
        for _ in self._waiting:
            self._left_the_queue()
        self._waiting.clear()
        self._rows.clear()
        self._reading = None
        for host in self._hosts.values():
            host.groups.clear()
        for job in jobs:
            job.listener.deliver([Failure(error)])


def _full(waiting: int) -> InferenceError:
    return InferenceError(
        f"{waiting} requests are waiting already.", remedy="Try again soon.", code="queue-full"
    )


_CLOSED = InferenceError("The server is ending.", remedy="Start it again.", code="closed")
