"""The tests under other people's machines: processors, cores, shells, time zones, users, paths.

Each setting runs pytest in a process of its own and says how many passed. ``--quick`` runs the slice that such a
setting can change; without it, all tests that need no browser run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BACKEND = "tests/backend"
TERMINAL = [
    *(
        f"{_BACKEND}/commands/test_output.py",
        f"{_BACKEND}/commands/test_cli.py",
        "tests/app/test_kept_choice.py",
    ),
    *(f"{_BACKEND}/manager/test_loopback.py", f"{_BACKEND}/utils/test_text_utils.py"),
    f"{_BACKEND}/run/test_config.py",
]
"""What a shell can change: colours, widths, proxies, variables of ours, clocks, encodings."""
NUMBERS = [
    *("tests/golden", f"{_BACKEND}/core/test_device.py", f"{_BACKEND}/core/test_lanes.py"),
    *(f"{_BACKEND}/core/test_packed_attention.py", f"{_BACKEND}/training/test_gradients.py"),
    f"{_BACKEND}/training/test_loss.py",
]
"""What a processor can change."""
PLACES = [
    *(f"{_BACKEND}/utils", f"{_BACKEND}/run", f"{_BACKEND}/commands/test_studio.py"),
    *(f"{_BACKEND}/export/test_readers.py", f"{_BACKEND}/manager/test_bundle.py"),
]
"""What a user, a path and the rights of files can change."""
WHOLE = ["tests", "--ignore", "tests/app/browser"]
_PROXY = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Setting:
    """One machine to stand in for: its environment, what the command is started with, and where the checkout lies."""

    name: str
    quick: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    elsewhere: bool = False


SETTINGS = (
    Setting("a person's shell", TERMINAL, {
        "FORCE_COLOR": "1", "http_proxy": _PROXY, "https_proxy": _PROXY, "HTTP_PROXY": _PROXY, "ALL_PROXY": _PROXY,
        "HF_TOKEN": "hf_none", "TUNESMITH_SERVER_TOKEN": "token", "TUNESMITH_ALERT_WEBHOOK": "https://example.org/x",
        "TUNESMITH__SEED": "7", "CI": "1", "COLUMNS": "40", "PYTHONUNBUFFERED": "1", "STREAMLIT_SERVER_PORT": "1",
    }),
    Setting("no colours, a dumb terminal", TERMINAL, {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "40"}),
    Setting("time zone +14", TERMINAL, {"TZ": "Pacific/Kiritimati"}),
    Setting("locale C", TERMINAL, {"LC_ALL": "C", "LANG": "C"}),
    Setting("RANK=0 WORLD_SIZE=2 by mistake", TERMINAL, {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}),
    Setting("another hash seed, umask 077", PLACES, {"PYTHONHASHSEED": "12345"},
        ("sh", "-c", 'umask 077; exec "$@"', "sh")),
    Setting("processor without AVX-512", NUMBERS, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    Setting("processor without AVX2", NUMBERS, {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}),
    Setting("one core", NUMBERS, {"OMP_NUM_THREADS": "1"}, ("taskset", "-c", "0")),
    Setting("another user, in a path with blanks and umlauts", PLACES,
        before=("unshare", "--user", "--map-user=1000", "--map-group=1000"), elsewhere=True),
)  # fmt: skip


QUICK_TOGETHER = (
    {"no colours, a dumb terminal", "time zone +14", "locale C", "RANK=0 WORLD_SIZE=2 by mistake"},
    {"processor without AVX2", "one core"},
)
"""Settings that contradict nothing of each other: the quick slice has each group in one run."""


def _grouped(settings: Sequence[Setting]) -> list[Setting]:
    """Return fewer settings, those of a group as one."""
    alone = [setting for setting in settings if not any(setting.name in group for group in QUICK_TOGETHER)]
    groups = [[setting for setting in settings if setting.name in group] for group in QUICK_TOGETHER]
    return alone + [_together(group) for group in groups if group]


def _together(settings: Sequence[Setting]) -> Setting:
    """Return one machine with the habits of all of these; of two values of a variable the last one stands."""
    return Setting(
        " + ".join(setting.name for setting in settings),
        sorted({test for setting in settings for test in setting.quick}),
        {name: value for setting in settings for name, value in setting.environ.items()},
        [word for setting in settings for word in setting.before],
        any(setting.elsewhere for setting in settings),
    )


def _where(setting: Setting, copy: Path) -> Path:
    return copy if setting.elsewhere else ROOT


def _copied(folder: Path) -> Path:
    """Return a copy of what is tracked, in a path that scripts trip over."""
    copy = folder / "häuser mit leerzeichen"
    copy.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0")[:-1]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


def _refusal(before: Sequence[str]) -> str:
    """Return why this machine cannot start a command in that way, as one without user namespaces; empty if it can."""
    done = subprocess.run([*before, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def _run(setting: Setting, tests: Sequence[str], marks: str, workers: int, copy: Path) -> tuple[int, str]:
    """Return pytest's exit code and its last line."""
    refused = _refusal(setting.before)
    if refused:
        return 0, f"not run: {refused}"
    command = [
        *setting.before,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        str(workers),
        "--dist",
        "loadfile",
        "-m",
        marks,
        *tests,
    ]
    command += ["-p", "no:cacheprovider"]
    where = _where(setting, copy)
    # an editable installation would bring in this checkout; the copy stands before it
    environ = {**os.environ, **setting.environ, "PYTHONPATH": str(where), "TMPDIR": str(copy.parent)}
    done = subprocess.run(command, cwd=where, env=environ, capture_output=True, text=True, check=False)
    failed = re.findall(r"^(?:FAILED|ERROR) .*$", done.stdout, re.MULTILINE)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing was said"]
    return done.returncode, "\n    ".join([lines[-1], *failed[:10]])


def main() -> int:
    """Run every setting and print a line for each; the exit code is 1 where one is red."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the slice that CI runs")
    parser.add_argument(
        "--only", default="", help="settings whose name has this pattern in it (a regular expression)"
    )
    parser.add_argument("--together", action="store_true", help="all of these settings at once, in one run")
    parser.add_argument("-n", type=int, default=2, help="workers")
    parser.add_argument("tests", nargs="*", help="tests to run instead")
    asked = parser.parse_args()
    red = 0
    with tempfile.TemporaryDirectory(prefix="tunesmith-matrix-") as folder:
        Path(folder).chmod(0o777)
        copy = _copied(Path(folder))
        chosen = [setting for setting in SETTINGS if re.search(asked.only, setting.name)]
        if asked.together:
            chosen = [_together(chosen)]
        elif asked.quick:
            chosen = _grouped(chosen)
        marks = "not long and not slow" if asked.quick else "not long"
        for setting in chosen:
            tests = asked.tests or (setting.quick if asked.quick else WHOLE)
            code, said = _run(setting, tests, marks, asked.n, copy)
            red += code != 0
            print(f"{'red  ' if code else 'green'}  {setting.name:50}  {said}", flush=True)
    return int(red > 0)


if __name__ == "__main__":
    sys.exit(main())
