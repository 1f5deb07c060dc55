"""Have an export read by another library, in a child process that imports nothing of Tunesmith.

The job names the export, the base of an adapter ("" for none) and the panel; the answers come back in a file. The
readers are the programs ``read_with_transformers.py``, ``read_with_llama_cpp.py`` and ``read_with_onnxruntime.py``
beside this module.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from backend.export.panel import FORCED_TOKENS, ODD_TEXTS, Answer, Panel
from backend.utils.file_utils import read_json
from backend.utils.machine_utils import available_cores

Reader = Literal["transformers", "llama_cpp", "onnxruntime"]

TOP = 24
"""The number of likeliest tokens whose probabilities a reader reports at each position."""
TIMEOUT_SECONDS = 3600.0
ANSWERS_LIMIT_BYTES = 2**30
_PACKAGES = {"transformers": "transformers", "llama_cpp": "xllamacpp", "onnxruntime": "onnxruntime"}


class UnreadableError(Exception):
    """``reader`` is installed but could not read the export; the message is its own error."""

    def __init__(self, reader: str, message: str) -> None:
        super().__init__(message)
        self.reader = reader


class NoReaderError(Exception):
    """The export could not be checked: no reader is installed, or it was killed or too slow."""


@dataclass(frozen=True)
class Reading:
    """The report of a foreign reader on an export.

    ``rows``: for each row of the panel its prompt ids, the likeliest tokens at each forced position, and its greedy
    answer. ``shapes`` and ``texts``: the ids of the panel's conversations and of ``ODD_TEXTS``. ``long``: the
    likeliest tokens at each position after the panel's long row.
    """

    reader: str
    rows: list[dict[str, Any]]
    shapes: list[list[int]]
    texts: list[list[int]]
    long: list[list[list[float]]] = field(default_factory=list)


def read_back(
    reader: Reader,
    export: Path,
    panel: Panel,
    answers: Sequence[Answer],
    *,
    base: Path | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    python: str = sys.executable,
) -> Reading:
    """Return the report of ``reader`` on ``export``. Raises NoReaderError and UnreadableError.

    ``python`` may be the interpreter of an environment with another version of the reader.
    """
    package = _PACKAGES[reader]
    if importlib.util.find_spec(package) is None:
        raise NoReaderError(f"{package} is not installed, and nothing else here reads this form")
    script = Path(__file__).with_name(f"read_with_{reader}.py")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "answers.json")
        job = {**_job(panel, answers), "export": str(export), "base": str(base or ""), "answers": str(target)}
        try:
            child = subprocess.run(
                [python, "-I", "-B", str(script)],
                input=json.dumps(job),
                capture_output=True,
                text=True,
                env=_environment(),
                check=False,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise NoReaderError(f"{package} did not finish in {timeout_seconds:.0f} seconds") from error
        if child.returncode == 0 and target.is_file():
            return Reading(**read_json(target, limit_bytes=ANSWERS_LIMIT_BYTES))  # type: ignore[arg-type]
    if child.returncode == -9:
        raise NoReaderError(f"{package} was killed, most likely because memory ran out")
    raise UnreadableError(
        package, _error_line(child.stderr) or f"{package} ended with code {child.returncode}"
    )


def _job(panel: Panel, answers: Sequence[Answer]) -> dict[str, Any]:
    rows = [
        {**asdict(row), "forced": answer.ids[:FORCED_TOKENS]}
        for row, answer in zip(panel.rows, answers, strict=True)
    ]
    return {
        "rows": rows,
        "shapes": [messages for messages, _ in panel.shapes],
        "texts": list(ODD_TEXTS),
        "long": {"prompt_ids": panel.long.prompt_ids, "forced": panel.long.forced} if panel.long else None,
        "max_new_tokens": panel.max_new_tokens,
        "top": TOP,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or available_cores(),
    }


def _environment() -> dict[str, str]:
    """Return this process's environment, offline and without access tokens."""
    kept = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def _error_line(text: str) -> str:
    """Return the last line of a reader's output that mentions an error, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return next(iter((errors or lines)[-1:]), "")
