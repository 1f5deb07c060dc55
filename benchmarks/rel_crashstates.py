"""Every state a power cut can leave while a record, run or checkpoint is written or deleted; none may be bad.

    make rel-crashstates

Prints a line a protocol and exits 1 when any state is bad. Beside them stands saving in place, to show that the
method finds bad states where there are some.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults.protocols import NAIVE, PROTOCOLS, Verdict, examine


def main() -> int:
    began = time.perf_counter()
    verdicts = {}
    for protocol in (*PROTOCOLS, NAIVE):
        with tempfile.TemporaryDirectory(prefix="rel-crashstates-") as folder:
            verdicts[protocol.name] = examine(protocol, Path(folder))
        show(protocol.name, verdicts[protocol.name])
    bad = sum(len(verdicts[protocol.name].bad) for protocol in PROTOCOLS)
    states = sum(verdicts[protocol.name].states for protocol in PROTOCOLS)
    print(f"crash states: {bad} bad of {states} in {time.perf_counter() - began:.1f} s")
    return 1 if bad or not verdicts[NAIVE.name].bad else 0


def show(name: str, verdict: Verdict) -> None:
    print(f"{name:>14}: {len(verdict.bad)} bad of {verdict.states}")
    for problem in sorted(set(verdict.bad))[:3]:
        print(f"{'':>16}{problem}")


if __name__ == "__main__":
    sys.exit(main())
