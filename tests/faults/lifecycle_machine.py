"""A machine of hypothesis that does everything to a run at any time, and checks what must always hold.

The folder, the lock and every file are real; the trainer is a set of moves that this machine makes itself, each as
a supervisor or a trainer would. ``RunLife`` is used by tests and, at length, by benchmarks/rel_machine.py.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backend.errors import RunError
from backend.manager.queue_manager import QueueManager
from backend.manager.run_manager import RunManager
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.lifecycle import LIVE, TRANSITIONS, Event
from backend.run.reports import Attempt, Outcome, RunStatus
from tests.faults.crash_states import MEMORY

ENDINGS = {
    RunStatus.FINISHED: "completed",
    RunStatus.STOPPED: "stop-requested",
    RunStatus.FAILED: "non-finite-loss",
}
RECORDS = ("attempts", "outcome.json", "queued", "environment.json", "labels.json")
DEATHS = st.sampled_from([("killed", 9), ("crashed", 11), ("out-of-memory", 9), ("terminated", 15)])


def refusal(ask: Callable[..., object], *args: object, **options: object) -> str:
    """The code of the error that the asking met, "" when it was granted."""
    try:
        ask(*args, **options)
    except RunError as error:
        return error.code
    return ""


class RunLife(RuleBasedStateMachine):
    """One run under one root, and everything that can befall it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="run-life-", dir=MEMORY))
        self.manager = RunManager(self.root)
        self.queue = QueueManager(self.root, starter=lambda _: None)
        self.run: RunDir | None = None
        self.holder: AbstractContextManager[int] | None = None
        self.attempt: Attempt | None = None
        self.checkpoints: set[int] = set()
        self.step = 0
        self.damaged = False

    def teardown(self) -> None:
        self._let_go()
        shutil.rmtree(self.root)

    def _let_go(self) -> None:
        if self.holder is not None:
            self.holder.__exit__(None, None, None)
        self.holder, self.attempt = None, None

    @initialize()
    def create(self) -> None:
        self.run = RunDir.create(self.root, "life", "seed: 1")

    # --- what doors do ------------------------------------------------------------------------------------

    @precondition(lambda self: self.run and not self.holder)
    @rule()
    def start(self) -> None:
        assert self.run
        holder = self.run.lock()
        holder.__enter__()
        self.run.set_damage_aside()
        self.damaged = False
        status = self.run.state_at_rest().status
        if (status, Event.START) not in TRANSITIONS:
            holder.__exit__(None, None, None)
            return
        self.holder = holder
        self.attempt = self.run.begin_attempt(("trainer",))
        self.step = self.run.newest_checkpoint_step()
        self.run.rewind_metrics(self.step)
        assert self.run.stop_requested() is None

    @precondition(lambda self: self.run and self.holder)
    @rule()
    def start_again(self) -> None:
        assert self.run
        number = self.run.latest_attempt_number()
        assert refusal(self.run.lock().__enter__) == "already-running"
        assert self.run.latest_attempt_number() == number

    @precondition(lambda self: self.run)
    @rule(reason=st.sampled_from(["stop-requested", "paused", "disk-low"]))
    def stop(self, reason: str) -> None:
        assert self.run
        self.run.request_stop(reason)

    @precondition(lambda self: self.run)
    @rule(hold=st.booleans())
    def enqueue(self, hold: bool) -> None:
        assert self.run
        expected = "" if (self.run.status(), Event.QUEUE) in TRANSITIONS else "illegal-transition"
        assert refusal(self.queue.enqueue, self.run, hold=hold) == expected
        self.damaged = self.damaged and bool(self.run.damage())  # a new ticket takes a torn one's place

    @precondition(lambda self: self.run)
    @rule()
    def leave_queue(self) -> None:
        assert self.run
        expected = "" if self.run.status() is RunStatus.QUEUED else "illegal-transition"
        assert refusal(self.queue.leave, self.run) == expected

    @precondition(lambda self: self.run)
    @rule(name=st.text(max_size=5), archived=st.booleans())
    def label(self, name: str, archived: bool) -> None:
        assert self.run
        assert refusal(self.manager.rename, self.run.id, name) in {"", "bad-name"}
        self.manager.archive(self.run.id, archived=archived)

    @precondition(lambda self: self.run)
    @rule(name=st.sampled_from(["", "..", "../x", ".", "life"]))
    def delete_something_else(self, name: str) -> None:
        assert self.run
        assert refusal(self.manager.delete, name) == "no-such-run"

    @precondition(lambda self: self.run)
    @rule()
    def delete(self) -> None:
        assert self.run
        assert refusal(self.manager.delete, self.run.id) == ("illegal-transition" if self.holder else "")
        if not self.holder:
            self.run = None
            self.checkpoints.clear()

    @precondition(lambda self: not self.run)
    @rule()
    def create_again(self) -> None:
        self.create()
        self.damaged = False

    # --- what trainer and supervisor do -------------------------------------------------------------------

    @precondition(lambda self: self.holder)
    @rule()
    def report(self) -> None:
        assert self.run
        self.run.write_environment(Environment())
        self.damaged = self.damaged and bool(self.run.damage())

    @precondition(lambda self: self.holder)
    @rule(steps=st.integers(1, 3))
    def train(self, steps: int) -> None:
        assert self.run
        with self.run.metrics_writer() as writer:
            for _ in range(steps):
                self.step += 1
                writer.append({"kind": "train", "step": self.step, "train/loss": 1.0})

    @precondition(lambda self: self.holder and self.step)
    @rule()
    def checkpoint(self) -> None:
        assert self.run
        self.run.checkpoint(self.step).mkdir(parents=True, exist_ok=True)
        self.checkpoints.add(self.step)

    @precondition(lambda self: self.holder)
    @rule(status=st.sampled_from(sorted(ENDINGS)), recorded=st.booleans())
    def end_with_a_word(self, status: RunStatus, recorded: bool) -> None:
        assert self.run
        assert self.attempt
        self.run.write_outcome(Outcome(status, ENDINGS[status], "It ended.", step=self.step))
        if recorded:
            self.run.end_attempt(self.attempt, "exited", exit_code=0)
        self._let_go()
        if not self.run.damage():
            assert self.run.status() is status

    @precondition(lambda self: self.holder)
    @rule(death=DEATHS, supervised=st.booleans())
    def die(self, death: tuple[str, int], supervised: bool) -> None:
        assert self.run
        assert self.attempt
        if supervised:
            self.run.end_attempt(self.attempt, death[0], signal_number=death[1])
        self._let_go()
        if not self.run.damage():
            assert self.run.status() in {RunStatus.INTERRUPTED, RunStatus.FAILED}

    @precondition(lambda self: self.holder)
    @rule()
    def leave_without_a_word(self) -> None:
        assert self.run
        assert self.attempt
        self.run.end_attempt(self.attempt, "no-outcome", exit_code=0)
        self._let_go()
        if not self.run.damage():
            assert self.run.state().reason == "no-outcome"

    # --- what befalls the disk ----------------------------------------------------------------------------

    @precondition(lambda self: self.run and not self.holder)
    @rule(name=st.sampled_from(RECORDS), share=st.floats(0, 0.9))
    def cut_short(self, name: str, share: float) -> None:
        assert self.run
        path = self.run.path / name
        if path.is_dir():
            path = self.run.attempt_file(self.run.latest_attempt_number())
        if path.is_file():
            path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
            self.damaged = self.damaged or name != "labels.json"
            self.another_door_opens()  # a listing watches how we write, and this is not how

    @rule()
    def another_door_opens(self) -> None:
        self.manager = RunManager(self.root)

    # --- what must always hold ----------------------------------------------------------------------------

    @invariant()
    def the_state_is_legal_with_a_reason_and_a_next_action(self) -> None:
        if self.run:
            state = self.run.state()
            assert state.reason
            assert state.message
            assert state.remedy or state.next_step

    @invariant()
    def live_exactly_while_held(self) -> None:
        if self.run:
            assert (self.run.status() in LIVE) is (self.holder is not None)

    @invariant()
    def damage_never_reads_idle(self) -> None:
        if self.run and self.damaged and not self.holder:
            assert self.run.state().reason == "damaged"

    @invariant()
    def no_checkpoint_vanishes(self) -> None:
        if self.run:
            assert all(self.run.checkpoint(step).is_dir() for step in self.checkpoints)

    @invariant()
    def attempts_only_grow(self) -> None:
        if self.run and self.run.attempts.is_dir():
            numbers = sorted(int(path.stem) for path in self.run.attempts.glob("*.json"))
            assert numbers == sorted(set(numbers))

    @invariant()
    def steps_rise_without_a_gap_or_a_repeat(self) -> None:
        if self.run and self.holder:
            steps = [record["step"] for record in self.run.metrics().records]
            assert steps == list(range(1, len(steps) + 1))

    @invariant()
    def the_listing_says_the_same(self) -> None:
        listed = {item.id: item.status for item in self.manager.list(archived=True)}
        assert listed == ({self.run.id: self.run.status()} if self.run else {})

    @invariant()
    def nothing_is_left_about(self) -> None:
        extra = [path.name for path in self.root.iterdir() if path.name.endswith(".tmp")]
        assert extra == []
