"""Answer a file of rows, killed again and again; the answers must be those of the undisturbed run, byte for byte.

    make rel-batch
    python benchmarks/rel_batch.py --rows 2000 --kills 5 --run runs/RUN

Exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serve_process import ROOT, tiny_run

from backend.inference.batch import WINDOW_ROWS

WORDS = ["test input", "food pork", "food pear", "Bratwurst, pork", "Milk, whole", "Spices, pepper, black"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--run", default="", help="a finished run; a tiny one is trained if left out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)  # noqa: S311 - dice, no secret
    with tempfile.TemporaryDirectory(prefix="rel-batch-") as name:
        folder = Path(name)
        run = Path(options.run).absolute() if options.run else tiny_run(folder)
        source, whole, out = (
            _rows(folder / "rows.jsonl", options.rows),
            folder / "whole.jsonl",
            folder / "out.jsonl",
        )
        command = [sys.executable, "-m", "backend.commands.cli", "infer", str(run), "--file", str(source)]
        command += ["--max-new-tokens", str(options.tokens), "--temperature", "0.7", "--out"]
        began = time.perf_counter()
        subprocess.run([*command, str(whole)], cwd=ROOT, check=True)
        print(f"undisturbed: {time.perf_counter() - began:.0f} s")
        places = sorted(dice.sample(range(1, options.rows - 2 * WINDOW_ROWS), options.kills))
        for kill, place in enumerate(places, start=1):
            with subprocess.Popen([*command, str(out)], cwd=ROOT) as child:
                while child.poll() is None and _lines(out) < place:
                    time.sleep(0.005)
                time.sleep(dice.random() * 0.05)
                child.send_signal(signal.SIGKILL)
            print(f"kill {kill}: {_lines(out)} lines of {options.rows}", flush=True)
        subprocess.run([*command, str(out)], cwd=ROOT, check=True)
        same = out.read_bytes() == whole.read_bytes()
    print(f"rows {options.rows}, kills {options.kills}: {'same bytes' if same else 'DIFFERENT'}")
    return int(not same)


def _rows(path: Path, count: int) -> Path:
    """Rows of many lengths; some cannot be answered and some cannot even be read."""
    lines = [
        json.dumps({"prompt": f"{WORDS[index % len(WORDS)]}{' and more' * (index % 9)}"})
        for index in range(count)
    ]
    for index in range(50, count, 333):
        lines[index] = '{"prompt": '
    for index in range(70, count, 333):
        lines[index] = json.dumps({"prompt": "word " * 20_000})
    path.write_text("\n".join(lines) + "\n")
    return path


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
