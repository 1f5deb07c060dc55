"""Foreign readers: backend/export/readers.py, with the real ones and with programs that fail."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from backend.export import readers
from backend.export.forms import write_form
from backend.export.panel import Panel
from backend.export.readers import NoReaderError, UnreadableError, read_back
from tests.backend.export.conftest import Asked


@pytest.fixture(scope="module")
def gguf(llama: Asked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_form(llama.fresh(), "gguf", "F32", tmp_path_factory.mktemp("gguf"), max_shard_size="5GB")[0]


def test_llama_cpp_renders_weighs_and_answers(llama: Asked, gguf: Path) -> None:
    reading = read_back("llama_cpp", gguf, llama.panel, llama.answers)
    assert reading.reader.startswith("llama.cpp (xllamacpp ")
    assert [row["prompt_ids"] for row in reading.rows] == [row.prompt_ids for row in llama.panel.rows]
    assert reading.shapes == [ids for _, ids in llama.panel.shapes]
    first = [[place[0][0] for place in row["tops"]] for row in reading.rows]
    assert first == [each.ids[: len(tops)] for each, tops in zip(llama.answers, first, strict=True)]


@pytest.mark.parametrize(("threads", "asked"), [("", 2), ("7", 7)])
def test_a_reader_computes_on_the_cores_it_may_use(
    monkeypatch: pytest.MonkeyPatch, threads: str, asked: int
) -> None:
    monkeypatch.setattr(readers, "available_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", threads or "0")
    assert readers._job(Panel([], [], 8), [])["threads"] == asked


@pytest.mark.parametrize("module", ["read_with_transformers", "read_with_llama_cpp", "read_with_onnxruntime"])
def test_readers_know_nothing_of_us(module: str) -> None:
    script = Path(readers.__file__).with_name(f"{module}.py")
    assert "backend" not in script.read_text("utf-8")
    look = f"import runpy, sys; runpy.run_path({str(script)!r}); print([n for n in sys.modules if 'backend' in n])"
    child = subprocess.run([sys.executable, "-I", "-c", look], capture_output=True, text=True, check=True)
    assert child.stdout == "[]\n"


def test_what_it_cannot_read_it_says(llama: Asked, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UnreadableError) as caught:
        read_back("llama_cpp", tmp_path / "x.gguf", llama.panel, llama.answers)
    assert caught.value.reader == "xllamacpp"
    assert len(str(caught.value)) > 5


def test_without_the_package_there_is_no_reader(
    llama: Asked, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoReaderError, match="xllamacpp is not installed"):
        read_back("llama_cpp", gguf, llama.panel, llama.answers)


@pytest.mark.parametrize(
    ("happens", "error", "said"),
    [
        (subprocess.CompletedProcess([], -9, "", ""), NoReaderError, "memory"),
        (subprocess.TimeoutExpired("x", 5), NoReaderError, "did not finish in 5 seconds"),
        (
            subprocess.CompletedProcess([], 1, "", "so\nValueError: odd\n  bye\n"),
            UnreadableError,
            "ValueError: odd",
        ),
        (subprocess.CompletedProcess([], 1, "", "no luck\n"), UnreadableError, "no luck"),
        (subprocess.CompletedProcess([], 0, "", ""), UnreadableError, "code 0"),
    ],
    ids=["killed", "too long", "error", "words", "silent"],
)
def test_every_end_of_a_reader_is_told(
    happens: Any, error: type[Exception], said: str, llama: Asked, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = create_autospec(subprocess.run, side_effect=[happens])
    monkeypatch.setattr(readers.subprocess, "run", child)
    with pytest.raises(error, match=said):
        read_back("llama_cpp", gguf, llama.panel, llama.answers, timeout_seconds=5)


def test_a_reader_is_offline_and_sees_no_token(
    llama: Asked, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    child = create_autospec(subprocess.run, return_value=subprocess.CompletedProcess([], 1, "", "x"))
    monkeypatch.setattr(readers.subprocess, "run", child)
    with pytest.raises(UnreadableError):
        read_back("llama_cpp", gguf, llama.panel, llama.answers)
    environment = child.call_args.kwargs["env"]
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "secret" not in environment.values()
    assert child.call_args.args[0][1] == "-I"
