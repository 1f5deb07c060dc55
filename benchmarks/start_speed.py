"""How long a person waits for whole commands, and how much memory they need: ``python benchmarks/start_speed.py``.

    make bench-start

Every command is a new process from its start to its exit, three times by default. *First* has an empty cache of
Tunesmith (the bundled model is converted, all rows are tokenised), *again* has what the first left; the files of the
libraries are in the memory of the system in both. Prints the median of the seconds, those of the processor beside
them, the largest resident memory of the process and its children together, and for the training where the time went.
Another program on the machine makes the seconds longer, and those of the processor by less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backend.run.folder import RunDir  # noqa: E402
from backend.run.model_names import CACHE_VARIABLE  # noqa: E402

EXAMPLE = "examples/food-category.yaml"
EVERY_SECONDS = 0.05
MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """One command: seconds until it printed something and until it was gone, of the processor, and the most MiB."""

    first_word: float
    seconds: float
    processor_seconds: float
    peak_mib: float


def measure(argv: Sequence[str], cache: Path) -> Measured:
    """Run ``tunesmith`` with ``argv`` and return what it took. Raises CalledProcessError if it fails."""
    began, words, before = time.perf_counter(), 0.0, os.times()
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *argv],
        cwd=ROOT,
        env=os.environ | {CACHE_VARIABLE: str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    for output in filter(None, [process.stdout]):
        words = time.perf_counter() - began if output.read(1) else 0.0
        output.read()
    code = process.wait()
    ended, after = time.perf_counter(), os.times()
    watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, list(argv))
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(words, ended - began, spent, peak[0] / MIB)


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    """Keep in ``peak`` the largest sum of resident bytes of a process and its children."""
    with suppress(psutil.Error):
        root = psutil.Process(process.pid)
        while process.poll() is None:
            resident = 0
            for each in (root, *root.children(recursive=True)):
                with suppress(psutil.Error):
                    resident += each.memory_info().rss
            peak[0] = max(peak[0], resident)
            time.sleep(EVERY_SECONDS)


def show(name: str, rounds: Sequence[Measured]) -> None:
    """Print the medians of a command."""
    first, whole, processor = (
        statistics.median(getattr(each, field) for each in rounds)
        for field in ("first_word", "seconds", "processor_seconds")
    )
    most = max(each.peak_mib for each in rounds)
    print(
        f"{name:34} first word {first:6.2f} s, whole {whole:6.2f} s, "
        f"processor {processor:6.2f} s, {most:6.0f} MiB"
    )


def show_timeline(run: RunDir, whole: float) -> None:
    """Print where the time of a training went, as its folder tells it."""
    records = [record for record in run.metrics().records if "seconds" in record]
    steps, evaluations = (
        sum(float(record["seconds"]) for record in records if record["kind"] == kind)
        for kind in ("train", "eval")
    )
    loading = run.read_environment().start_seconds
    rest = whole - loading - steps - evaluations
    print(
        f"    imports, checks, saving and leaving {rest:.2f} s, data and model {loading:.2f} s, "
        f"evaluations {evaluations:.2f} s, steps {steps:.2f} s"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=3, help="how often each command runs")
    parser.add_argument("--steps", type=int, default=6, help="steps of the training")
    parser.add_argument("--held-out", action="store_true", help="with the three evaluations of the example")
    parser.add_argument(
        "--evaluate", action="store_true", help="score base and tuned too, as `make demo` does"
    )
    asked = parser.parse_args()
    without = () if asked.held_out or asked.evaluate else ("--data.validation", "0")
    with tempfile.TemporaryDirectory() as folder:
        runs, warm = Path(folder, "runs"), Path(folder, "warm")
        train = ("train", EXAMPLE, "--training.max_steps", str(asked.steps), *without, "--runs", str(runs))
        show("tunesmith --help", [measure(["--help"], warm) for _ in range(asked.n)])
        show("train, first", [measure(train, Path(folder, f"cold{n}")) for n in range(asked.n)])
        measure(train, warm)
        again = [measure(train, warm) for _ in range(asked.n)]
        show("train, again", again)
        run = max(RunDir.all_under(runs), key=lambda each: each.id)
        show_timeline(run, again[-1].seconds)
        question = ("--prompt", "oat milk")
        for name, argv in {
            "infer, one token": ("infer", str(run.path), *question, "--max-new-tokens", "1"),
            "infer --base, one token": ("infer", str(run.path), *question, "--base", "--max-new-tokens", "1"),
        }.items():
            show(name, [measure(argv, warm) for _ in range(asked.n)])
        if asked.evaluate:
            show("evaluate", [measure(("evaluate", str(run.path)), warm)])


if __name__ == "__main__":
    main()
