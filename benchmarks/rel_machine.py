"""The life of a run under everything at any time: hypothesis on real folders, then random moves on real processes.

    make rel-machine EXAMPLES=500 STEPS=40

Prints how many steps were taken and exits 1 at the first broken promise, with the shortest story that breaks it.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from backend.errors import RunError
from backend.manager.attempts import Policy, members
from backend.manager.process_manager import kill, start, stop, wait
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.utils.process_utils import is_alive, send_signal
from tests.backend.manager.conftest import processes_of, stand_in
from tests.eventually import eventually
from tests.faults.lifecycle_machine import RunLife

POLICY = Policy(restarts=2, backoff_seconds=0.05, term_seconds=0.3, grace_seconds=1.0)
MOVES = ("start", "start", "stop", "kill", "kill trainer", "kill supervisor", "suspend", "wait")
BEHAVIOURS = ((), ("child",), ("deaf",), ("only-term",), ("checkpoint",))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--sequences", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    machine = settings(
        max_examples=options.examples,
        stateful_step_count=options.steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(RunLife, settings=machine)
    print(
        f"machine: {options.examples} stories of up to {options.steps} steps, {time.perf_counter() - began:.0f} s"
    )
    dice = random.Random(options.seed)  # noqa: S311  dice, no secret
    broken = sum(live_through(dice, number) for number in range(options.sequences))
    print(
        f"real processes: {options.sequences} sequences, {broken} broken, {time.perf_counter() - began:.0f} s"
    )
    return 1 if broken else 0


def live_through(dice: random.Random, number: int) -> bool:
    """One run, ten random moves; whether a promise was broken."""
    with tempfile.TemporaryDirectory(prefix="rel-machine-") as folder:
        run = RunDir.create(Path(folder), "life", "seed: 1")
        told: list[str] = []
        try:
            for _ in range(10):
                told.append(dice.choice(MOVES))
                move(run, told[-1], dice)
                check(run, folder)
            settle(run, folder)
        except (AssertionError, RunError) as error:
            print(f"sequence {number}: {', '.join(told)}: {error}")
            return True
        finally:
            for process in processes_of(Path(folder)):
                process.kill()
    return False


def move(run: RunDir, name: str, dice: random.Random) -> None:
    """Make one move; a refusal is an answer too, when it is one of those that are meant."""
    attempt = run.latest_attempt()
    try:
        if name == "start":
            start(run, policy=POLICY, command=stand_in(run, "steps=100000", *dice.choice(BEHAVIOURS)))
        elif name == "stop":
            stop(run, policy=POLICY)
        elif name == "kill":
            kill(run)
        elif name == "kill trainer" and attempt and attempt.process:
            send_signal(attempt.process, signal.SIGKILL)
        elif name == "kill supervisor" and attempt and attempt.supervisor:
            send_signal(attempt.supervisor, signal.SIGKILL)
        elif name == "suspend" and attempt and attempt.process:
            send_signal(attempt.process, signal.SIGSTOP)
        else:
            wait(run, timeout_seconds=0.2)
    except RunError as error:
        if error.code not in {"already-running", "not-running"}:
            raise


def promise(kept: object, broken: str) -> None:
    """Raise AssertionError with what is broken unless it was kept."""
    if not kept:
        raise AssertionError(broken)


def check(run: RunDir, folder: str) -> None:
    """One trainer at most, a legal state with a reason, and live only while somebody lives."""
    state = run.state()
    promise(state.reason, "a state without a reason")
    promise(state.remedy or state.next_step, "a state without a next action")
    trainers = [one for one in processes_of(Path(folder)) if "supervisor" not in " ".join(one.cmdline())]
    promise(len(trainers) <= 1, f"{len(trainers)} trainers at once")
    steps = [record["step"] for record in run.metrics().records]
    promise(steps == list(range(1, len(steps) + 1)), "the steps have a gap or a repeat")


def settle(run: RunDir, folder: str) -> None:
    """Bring the run to rest; nothing of it may be left."""
    if run.is_held():
        state = stop(run, policy=POLICY)
        rested = state.status in {RunStatus.STOPPED, RunStatus.INTERRUPTED}
        promise(rested, f"after a stop it is {state.status}")
    eventually(lambda: not processes_of(Path(folder)))
    attempts = [run.read_attempt(number) for number in range(1, run.latest_attempt_number() + 1)]
    promise(not any(members(attempt) for attempt in attempts), "a process of the run lives on")
    alive = [attempt.process for attempt in attempts if attempt.process and is_alive(attempt.process)]
    promise(not alive, "a trainer lives on")


if __name__ == "__main__":
    sys.exit(main())
