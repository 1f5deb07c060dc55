"""Real trainer processes at the price of a fork: one process imports the trainer, a child is forked for each run.

``python -m tests.trainers`` is that process; ``Trainers`` starts it and talks to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from backend.run.folder import RunDir
from backend.utils.process_utils import collect_rarely
from tests.eventually import eventually
from tests.runs import child_environment, lines

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class End:
    """How a trainer ended: its exit code (negative for a signal), and what it printed."""

    code: int
    out: str
    err: str


@dataclass
class Trainer:
    """A trainer process at work on ``run``."""

    run: RunDir
    pid: int
    trainers: Trainers = field(repr=False)

    def signal(self, *numbers: int) -> None:
        """Send signals, in this order, seen together where the process was stopped between them."""
        assert self.pid > 1  # 0 and below would be a whole group of processes
        for number in numbers:
            os.kill(self.pid, number)

    def wait(self) -> End:
        """How it ended, once it has."""
        code = self.trainers.ask({"wait": self.pid})
        texts = [self._printed(name) for name in ("out", "err")]
        return End(code, *texts)

    def has_written(self, count: int) -> bool:
        """Whether it trained ``count`` steps; True as well once it is gone."""
        steps = [line for line in lines(self.run.metrics_file) if line["kind"] == "train"]
        return len(steps) >= count or Path(f"/proc/{self.pid}/stat").read_text().split()[2] == "Z"

    def kill_after(self, count: int) -> None:
        """SIGKILL as soon as ``count`` steps stand in its metrics."""
        eventually(lambda: self.has_written(count), timeout_seconds=PATIENCE_SECONDS)
        self.signal(signal.SIGKILL)
        assert self.wait().code == -signal.SIGKILL

    def _printed(self, name: str) -> str:
        return _screen(self.run, self.pid, name).read_text()


class Trainers:
    """Starts trainers; close it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trainers"],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, run: RunDir, *, code: str = "", **environment: str) -> Trainer:
        """A trainer on ``run``; ``code`` runs in it first, with ``trainer`` the module."""
        asked = {"run": str(run.path), "code": code, "environment": environment}
        return Trainer(run, self.ask(asked), self)

    def ask(self, what: dict[str, Any]) -> int:
        """Send a request and return the answer, a number."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _screen(run: RunDir, pid: int, name: str) -> Path:
    return run.path.with_name(f"{run.id}.{pid}.{name}")


def _work(asked: dict[str, Any], trainer: Any) -> int:
    """The whole life of one trainer; returns its exit code."""
    run = RunDir(Path(asked["run"]))
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(_screen(run, os.getpid(), name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(asked["environment"])
    exec(asked["code"], {"trainer": trainer})  # noqa: S102 - the test's own words
    code: int = trainer.main([asked["run"]])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _live(asked: dict[str, Any], trainer: Any) -> NoReturn:
    """``_work``, and never back into the loop below."""
    code = 1
    try:
        code = _work(asked, trainer)
    except BaseException:  # noqa: BLE001 - what Python itself does at the end
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _serve() -> None:
    collect_rarely()
    import torch.utils.tensorboard
    from transformers.models.llama import modeling_llama

    from backend import trainer_main

    assert torch.utils.tensorboard, modeling_llama
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _live(asked, trainer_main)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
