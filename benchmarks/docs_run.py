"""Type every command of README and tutorial into a shell, in order, with the real model. ``make docs-run``.

Works in a temporary folder that sees this checkout's examples and environment. Prints each command with its exit code
and seconds, and fails where a command ends otherwise than its page says. What waits for a person is left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAITS = re.compile(r"make |(\S*tunesmith) (chat|studio|serve|runs resume)\b")
"""What needs a person or a set-up of its own; ``make demo`` has its own figures."""


def commands(page: Path) -> list[tuple[str, int]]:
    """Return each command of a page, and the exit code that what follows it shows."""
    found = []
    for body, said in re.findall(
        r"^```console\n(.*?)^```\n+(?:```text\n(\w+))?",
        page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    ):
        lines = [line for line in body.splitlines() if not WAITS.match(line)]
        found += [(line, 0) for line in lines[:-1]]
        found += [(lines[-1], 2 if said == "Error" else 0)] if lines else []
    return found


def prepared(place: Path) -> None:
    """Put what the pages take for granted into ``place``: examples, environment, and files that they show."""
    for name in ("examples", ".venv"):
        (place / name).symlink_to(ROOT / name)
    food = ROOT / "examples" / "food-category"
    leaked = (food / "eval.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:12]
    (place / "rows.jsonl").write_text((food / "train.jsonl").read_text(encoding="utf-8") + "".join(leaked))
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", tutorial, re.DOTALL | re.MULTILINE)
    (place / "run.yaml").write_text(settings, encoding="utf-8")


def main() -> int:
    """Run all; return 1 if one of them ended otherwise than expected."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepared(place)
        for page in (ROOT / "docs" / "tutorial.md", ROOT / "README.md"):
            for command, expected in commands(page):
                typed = re.sub(r"^(\.venv/bin/)?tunesmith", ".venv/bin/tunesmith", command)
                began = time.monotonic()
                code = subprocess.run(typed, shell=True, cwd=place, check=False).returncode  # noqa: S602
                print(f"{code} after {time.monotonic() - began:.0f} s: {command}", flush=True)
                wrong += code != expected
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
