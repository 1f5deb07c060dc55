"""Plant each fault of tests/mutants/faults.py in a copy of the code and see that its tests notice it.

    python benchmarks/mutants.py [NAME-PART ...]

prints a line a fault and the share that was noticed; exits 1 when it is below 90 %.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.mutants.faults import FAULTS, Fault  # noqa: E402

WANTED_SHARE = 0.9
COPIED = ("backend", "app", "tests", "examples", "docs", "pyproject.toml", "README.md")
PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-x",
    "-n",
    "0",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
)


def passes(tests: tuple[str, ...], copy: Path) -> bool:
    """Whether these test files pass on the copy as it is. Exits when they cannot be run at all."""
    code = subprocess.run([*PYTEST, *tests], cwd=copy, capture_output=True, check=False).returncode
    if code not in {0, 1, 2}:
        raise SystemExit(f"pytest ended with {code} on {', '.join(tests)}")
    return code == 0


def is_noticed(fault: Fault, copy: Path) -> bool:
    """Whether a test fails once the fault is in; the copy is whole again afterwards."""
    file = copy / fault.file
    whole = file.read_text(encoding="utf-8")
    if whole.count(fault.was) != 1:
        raise SystemExit(
            f"{fault.name}: its piece of {fault.file} stands there {whole.count(fault.was)} times"
        )
    file.write_text(whole.replace(fault.was, fault.becomes), encoding="utf-8")
    try:
        return not passes(fault.tests, copy)
    finally:
        file.write_text(whole, encoding="utf-8")


def main(parts: list[str]) -> int:
    """Plant the faults whose names hold one of ``parts`` (all of them by default)."""
    chosen = [fault for fault in FAULTS if not parts or any(part in fault.name for part in parts)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in filter(lambda name: (ROOT / name).exists(), COPIED):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / name)
        whole = tuple(sorted({test for fault in chosen for test in fault.tests}))
        if not passes(whole, copy):
            raise SystemExit("these tests fail before any fault is planted")
        noticed = 0
        for fault in chosen:
            seen = is_noticed(fault, copy)
            noticed += seen
            print(f"{'noticed ' if seen else 'MISSED  '} {fault.name}", flush=True)
    share = noticed / max(1, len(chosen))
    print(f"{noticed} of {len(chosen)} faults noticed: {share:.0%}")
    return 0 if share >= WANTED_SHARE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
