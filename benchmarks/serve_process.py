"""A real server over a real run, for the measurements beside this file."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
QUESTION = "Which store section does this food belong to? Bratwurst, pork"


@dataclass(frozen=True)
class Served:
    """Where the server answers, its process, and the run it serves."""

    port: int
    process: psutil.Process
    run: str

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """Status and text of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def tiny_run(folder: Path, context: int = 512) -> Path:
    """A run of the tests' tiny model, really trained; ``context`` is the most tokens it can look at."""
    sys.path.insert(0, str(ROOT))
    from backend.trainer_main import run
    from tests.runs import LEARN, make_run, write_rows
    from tests.tiny import tiny_model_folder

    model = tiny_model_folder(folder / "model", initializer_range=0.5, max_position_embeddings=context)
    made = make_run(folder / "runs", model, write_rows(folder / "rows.jsonl"), LEARN)
    run(made)
    return made.path


@contextmanager
def served(run: str, *options: str, context: int = 512) -> Iterator[Served]:
    """A server process over ``run`` (a folder), or over a tiny run of that ``context`` where it is empty."""
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        path = Path(run).absolute() if run else tiny_run(Path(folder), context)
        command = [
            sys.executable,
            "-m",
            "backend.commands.cli",
            "serve",
            str(path),
            "--root",
            str(path.parent),
        ]
        command += ["--port", "0", "--json", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            try:
                text = "".join(iter(child.stdout.readline, "}\n")) + "}" if child.stdout else ""
                yield Served(json.loads(text)["port"], psutil.Process(child.pid), path.name)
            finally:
                child.terminate()
                child.wait(timeout=30)
