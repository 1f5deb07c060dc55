"""The process of a person's function: backend/inference/evals/python_child.py."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.house import ROOT, parsed

CHILD = ROOT / "backend/inference/evals/python_child.py"


def asked(place: Path, code: str, *lines: str) -> list[dict[str, object]]:
    (place / "check.py").write_text(code)
    command = [sys.executable, str(CHILD), str(place / "check.py"), "f"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_in_is_a_line_out(tmp_path: Path) -> None:
    call = json.dumps({"text": "a", "context": {}})
    assert asked(
        tmp_path, "def f(output, context):\n    print('x')\n    return output + 'b'", call, call
    ) == [
        {"value": "ready"},
        {"value": "ab"},
        {"value": "ab"},
    ]


def test_files_beside_it_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text("WORD = 'w'")
    code = "from words import WORD\ndef f(output, context): return {WORD}"
    assert asked(tmp_path, code, '{"text": "", "context": {}}')[1] == {"value": "{'w'}"}


def test_it_ends_when_there_is_no_function(tmp_path: Path) -> None:
    assert asked(tmp_path, "f = None; del f") == [{"error": "it has no function f"}]


def test_it_imports_nothing_of_ours() -> None:
    names = [node.module or "" for node in ast.walk(parsed(CHILD)) if isinstance(node, ast.ImportFrom)]
    assert not any(name.startswith("backend") for name in names)
    assert "__future__" in names
