"""A trainer that trains nothing: it keeps the run folder as the real one does, without its start-up time.

``python stand_in.py RUN [steps=20] [pause=0.01] [behaviour ...]``. Behaviours: ``deaf`` (heeds neither request nor
SIGTERM), ``only-term`` (heeds SIGTERM only), ``child`` (starts a helper that outlives it), ``crash``, ``abort``,
``exit-0``, ``exit-7``, ``kill-self``, ``noise`` (10 MB of output), ``late`` (reports nothing until a file ``go``
appears), ``checkpoint`` (one each fifth step), ``die-each-5`` (SIGKILL after its seventh step),
``fail`` (a failed outcome).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus

asked: list[int] = []


def main(run: RunDir, behaviours: set[str], steps: int, pause: float) -> int:
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN if "deaf" in behaviours else lambda number, _: asked.append(number)
    )
    with run.lock():
        if "child" in behaviours:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
        while "late" in behaviours and not (run.path / "go").exists():
            time.sleep(0.01)
        run.write_environment(Environment())
        if "noise" in behaviours:
            for number in range(100_000):
                sys.stdout.write(f"{number:08d} {'x' * 90}\n")
        return train(run, behaviours, steps, pause)


def train(run: RunDir, behaviours: set[str], steps: int, pause: float) -> int:
    first = run.newest_checkpoint_step() + 1
    run.rewind_metrics(first - 1)
    with run.metrics_writer() as metrics, run.flight_writer() as flight:
        for step in range(first, steps + 1):
            time.sleep(pause)
            said = {"kind": "train", "step": step, "total_steps": steps, "seconds": pause}
            metrics.append(said | {"train/loss": 1 / step})
            flight.append(
                {"step": step, "loss": 1 / step, "grad_norm": 1.0, "learning_rate": 1e-3, "rows": ["row"]}
            )
            sys.stdout.write(f"step {step}\n")
            if "checkpoint" in behaviours and step % 5 == 0:
                run.checkpoint(step).mkdir(parents=True, exist_ok=True)
            misbehave(behaviours, step - first)
            reason = stop_reason(run, behaviours)
            if reason:
                run.write_outcome(
                    Outcome(RunStatus.STOPPED, reason, f"Stopped after step {step}.", step=step)
                )
                return 3
    if "fail" in behaviours:
        run.write_outcome(Outcome(RunStatus.FAILED, "non-finite-loss", "The loss became nan.", "Lower it."))
        return 1
    run.write_outcome(Outcome(RunStatus.FINISHED, "completed", f"Trained {steps} steps.", step=steps))
    return 0


def misbehave(behaviours: set[str], done: int) -> None:
    if "die-each-5" in behaviours and done == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    if done < 2:
        return
    if "crash" in behaviours:
        ctypes.string_at(0)
    if "abort" in behaviours:
        os.abort()
    if "exit-0" in behaviours:
        os._exit(0)
    if "exit-7" in behaviours:
        os._exit(7)
    if "kill-self" in behaviours:
        os.kill(os.getpid(), signal.SIGKILL)


def stop_reason(run: RunDir, behaviours: set[str]) -> str | None:
    if "deaf" in behaviours:
        return None
    if asked:
        return "sigterm"
    return None if "only-term" in behaviours else run.stop_requested()


if __name__ == "__main__":
    words = set(sys.argv[2:])
    numbers = dict(word.split("=") for word in words if "=" in word)
    sys.exit(
        main(
            RunDir(Path(sys.argv[1])), words, int(numbers.get("steps", 20)), float(numbers.get("pause", 0.01))
        )
    )
