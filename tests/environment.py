"""The environment that the tests run in: built here, not inherited from the shell of whoever runs them.

A person's shell says how wide and colourful a terminal is, which proxy leads out, where our own server's token lies,
which process of many this is. None of that may decide a test. What a test is about it sets itself.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Mapping

_KEPT = frozenset(
    {
        "PATH", "TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "SHELL", "SYSTEMROOT", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHASHSEED", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS",
        "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY",
    }
)  # fmt: skip
"""Where programs and libraries are, and what of the processor may be used: facts of the machine."""
_KEPT_BEGINNINGS = ("PYTEST_", "COV_", "COVERAGE_", "ONEDNN_", "HYPOTHESIS_", "TUNESMITH_TESTS_")
_SET = {
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "LANG": "C.UTF-8",
    "TERM": "xterm",
    "TZ": "UTC",
    "TUNESMITH_PROOFS": "0",  # a test that breaks something must see it proved anew
}


def built(inherited: Mapping[str, str], home: str) -> dict[str, str]:
    """Return the environment of the tests: what ``inherited`` says of the machine, and fixed values for all else.

    ``home`` is an empty folder; idle OpenMP threads sleep unless ``inherited`` says otherwise.
    """
    kept = {
        name: value for name, value in inherited.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)
    }
    return {"OMP_WAIT_POLICY": "passive"} | kept | _SET | {"HOME": home}


def enter() -> None:
    """Put this process, and with it every child, into the environment of the tests."""
    environment = built(os.environ, _home())
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.umask(0o022)


def _home() -> str:
    """Return an empty folder for the whole run; workers share that of the process that started them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return os.environ["HOME"]
    folder = tempfile.mkdtemp(prefix="tunesmith-tests-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
