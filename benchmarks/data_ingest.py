"""How long it takes, and how much memory, to read a large table into a mapped row file.

Makes a TSV of 886,000 rows and about 76 MB, reads it with ``load_rows`` in a process of its own
and prints seconds and peak memory. Exits 1 when it takes 40 s or more, or 200 MB or more.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 886_000
MAX_SECONDS = 40.0
MAX_MEGABYTES = 200.0


def make_table(path: Path) -> None:
    chance = random.Random(0)  # noqa: S311  # made-up text, no secret
    words = ["".join(chance.choices("aeiounrstlmdkgü", k=chance.randint(2, 8))) for _ in range(4_000)]
    with path.open("w", encoding="utf-8") as stream:
        stream.write("prompt\tcompletion\n")
        for number in range(ROWS):
            prompt = " ".join(chance.choices(words, k=8))
            stream.write(f"{prompt} {number}\t{' '.join(chance.choices(words, k=4))}.\n")


def measure(folder: Path) -> None:
    from backend.data.load import load_rows

    began = time.perf_counter()
    loaded = load_rows(folder / "rows.tsv")
    seconds = time.perf_counter() - began
    count, last = len(loaded.rows), loaded.rows[-1].place
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = (folder / "rows.tsv").stat().st_size / 1e6
    busy = time.process_time()
    print(
        f"ingest of {size:.0f} MB, {count:,} rows (last {last}): {seconds:.1f} s "
        f"({busy:.1f} s of processor time), peak {megabytes:.0f} MB"
    )
    sys.exit(int(count != ROWS or seconds >= MAX_SECONDS or megabytes >= MAX_MEGABYTES))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        make_table(Path(folder) / "rows.tsv")
        return subprocess.run([sys.executable, __file__, folder], check=False).returncode


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    sys.exit(main())
