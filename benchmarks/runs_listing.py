"""How long listing ten thousand runs takes: ``python benchmarks/runs_listing.py``. First, second, and once more.

    make bench-runs

*First*: a new process, and nothing remembered on the disk. *Second*: a new process beside what the first one left.
*Again*: the same process a moment later. Nine runs of ten have finished; the tenth failed, was interrupted, stopped,
waits in the queue, was never started or is damaged. Prints the medians in seconds of the processor, since nothing is
waited for and another process's share is not the listing's, and exits 1 when one misses its goal.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backend.manager.listing_cache import FILE  # noqa: E402
from backend.run.environment import ComputePlan, Environment, Facts, RowsRead  # noqa: E402
from backend.run.folder import RunDir  # noqa: E402
from backend.utils.file_utils import write_json_durably  # noqa: E402
from backend.utils.process_utils import identify  # noqa: E402
from backend.utils.record_utils import record_to_json  # noqa: E402
from tests.app.states import Runs  # noqa: E402

RUNS = 10_000
ROUNDS = 5
STEPS = 200
OTHERS = ("failed", "interrupted", "stopped", "queued", "created", "damaged")
GOALS = {"first": 1.0, "second": 0.2, "again": 0.2}
"""Seconds of the processor."""
BIG = ("jsonl", "log", "safetensors")
"""Files of which every run has the same one, by another name."""
ENVIRONMENT = Environment(
    python="3.13.5",
    platform="Linux-6.12.0-amd64-x86_64-with-glibc2.41",
    versions=dict.fromkeys(("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy"), "5.23.0"),
    plan=ComputePlan("cpu", "bfloat16", lanes=2, threads=1, matmul_precision="highest"),
    facts=Facts({"/data/foods.jsonl": "3f" * 32}, "a7" * 32),
    data=RowsRead(train_rows=1440, tokens=220_000, dropped_rows=tuple(f"foods.jsonl:{n}" for n in range(20))),
)
LIST = """
import sys, time
from pathlib import Path
from backend.manager.run_manager import RunManager
from backend.utils.process_utils import collect_rarely
collect_rarely()  # as every door does
manager = RunManager(Path(sys.argv[1]))
for _ in range(2):
    began = time.process_time()
    found = manager.list()
    print(time.process_time() - began, len(found))
"""


def build(root: Path) -> None:
    """Ten thousand runs under ``root``, copied from one of each kind, and an hour old."""
    patterns = Runs(root.with_name("patterns"))
    finished = patterns.finished(steps=STEPS)
    kinds = [getattr(patterns, kind)() for kind in OTHERS]
    for run in (finished, *kinds):
        make_real(run)
    files = {run: sorted(run.path.rglob("*")) for run in (finished, *kinds)}
    for number in range(RUNS):
        run = kinds[number // 10 % len(kinds)] if number % 10 == 0 else finished
        copy(run, files[run], root / f"20260101-{number:06d}-food-{number:04x}")


def make_real(run: RunDir) -> None:
    """Records as long as a trainer and a supervisor write them."""
    if run.environment.exists():
        run.write_environment(ENVIRONMENT)
        attempt = run.read_attempt(1)
        me = identify(os.getpid())
        attempt = replace(attempt, token="7" * 32, supervisor=me, process=me)
        write_json_durably(run.attempt_file(1), record_to_json(attempt))


def copy(run: RunDir, files: list[Path], folder: Path) -> None:
    """A run of its own with these files."""
    folder.mkdir(parents=True)
    hour_ago = time.time() - 3600
    for path in files:
        target = folder / path.relative_to(run.path)
        if path.is_dir():
            target.mkdir()
        elif path.name.endswith(BIG):
            os.link(path, target)
        else:
            target.write_bytes(path.read_bytes())
            os.utime(target, (hour_ago, hour_ago))
    os.utime(folder, (hour_ago, hour_ago))


def listed(root: Path) -> tuple[float, float]:
    """Seconds of the first and the next listing of a new process."""
    child = subprocess.run(
        [sys.executable, "-c", LIST, str(root)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (first, count), (again, _) = (line.split() for line in child.stdout.splitlines())
    if int(count) != RUNS:
        raise SystemExit(f"{count} runs were listed, not {RUNS}")
    return float(first), float(again)


def main() -> int:
    """Measure, print, judge."""
    seconds: dict[str, list[float]] = {name: [] for name in GOALS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        build(root)
        for _ in range(ROUNDS):
            (root / FILE).unlink(missing_ok=True)
            seconds["first"].append(listed(root)[0])
            second, again = listed(root)
            seconds["second"].append(second)
            seconds["again"].append(again)
    missed = False
    for name, goal in GOALS.items():
        median = statistics.median(seconds[name])
        missed |= median > goal
        print(f"{name:7} {median:.3f} s  (goal {goal} s)  {'MISSED' if median > goal else 'held'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
