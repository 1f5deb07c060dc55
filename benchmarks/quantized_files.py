"""A run's GGUF files in few bits, with and without an importance matrix: size, exact match, divergence.

    python benchmarks/quantized_files.py --run RUN [--rows 160] [Q4_0 Q4_K_M …]

Each file is exported and read by llama.cpp as ``tunesmith export`` does. The
trained model's own exact match stands in the first line.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.export.gguf_mix import WEIGHED
from backend.export.job import export
from backend.run.folder import RunDir

PRECISIONS = ("Q8_0", "Q4_K_M", "Q4_0")


def measured(run: RunDir, precision: str, *, imatrix: bool, rows: int) -> tuple[str, dict[str, Any]]:
    """Return the line of one file, and the figures of its certificate."""
    with tempfile.TemporaryDirectory() as folder:
        done = export(
            run, "gguf", out=Path(folder, "out"), quantization=precision, imatrix=imatrix, rows=rows
        )
    size = max(done.files.values()) / 1e6
    figures = done.certificate.figures
    match = figures.get("exact_match") or {}
    cells = [
        precision + " with imatrix" * imatrix,
        f"{size:.1f}",
        f"{match['export']:.1%}" if match else "–",
        f"{figures['mean_divergence_nats']:.4f}",
        f"{figures['equal_answers']} of {rows}",
        str(done.certificate.light),
    ]
    return f"| {' | '.join(cells)} |", match


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the folder of a finished run")
    parser.add_argument("--rows", type=int, default=160, help="held-out rows to ask")
    parser.add_argument("precisions", nargs="*", default=list(PRECISIONS))
    options = parser.parse_args()
    run = RunDir.open(options.run)
    print(
        "| file | MB | exact match | divergence, nats | equal answers | certificate |\n|---|---|---|---|---|---|"
    )
    trained: dict[str, Any] = {}
    for precision in options.precisions:
        for imatrix in (False, True)[: 1 + (precision in WEIGHED)]:
            line, trained = measured(run, precision, imatrix=imatrix, rows=options.rows)
            print(line, flush=True)
    if trained:
        print(f"The trained model itself: {trained['trained']:.1%}")


if __name__ == "__main__":
    main()
