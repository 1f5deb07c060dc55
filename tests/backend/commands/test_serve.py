"""The command that serves: backend/commands/serve.py. A served process is tried in the integration tests."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from backend.commands.cli import main
from backend.export.job import default_folder
from backend.run.adapter_settings import ADAPTER_CONFIG
from backend.run.checkpoints import MANIFEST, write_manifest
from backend.run.folder import RunDir
from backend.server import process
from tests.backend.export.results import finished_over


def test_options_reach_the_server(
    trained: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = create_autospec(process.serve, side_effect=lambda options, ready: ready(options.host, 1234))
    monkeypatch.setattr(process, "serve", served)

    words = ["serve", trained.id, "--root", str(trained.path.parent), "--port", "0", "--rows", "3"]
    assert main(words) == 0

    options = served.call_args.args[0]
    assert (options.root, options.models, options.port) == (trained.path.parent, (trained,), 0)
    assert (options.limits.rows, options.limits.waiting) == (3, 256)
    assert "http://127.0.0.1:1234/v1" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == "http://127.0.0.1:1234/v1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "TUNESMITH_SERVER_TOKEN"),  # noqa: S104 - refused
        (["--rows", "0"], "rows"),
        (["--queue", "-1"], "queue"),
        (["--port", "70000"], "port"),
        (["--port", "-1"], "port"),
        (["nothing-of-that-name"], "nothing-of-that-name"),
        (["--with", "vllm"], "exactly one"),
        (["--with", "nothing"], "--with"),
    ],
)
def test_what_cannot_be_served(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words, "--root", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_is_served_of_a_model_that_is_not_there(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = create_autospec(process.serve)
    monkeypatch.setattr(process, "serve", served)
    assert main(["serve", "foo/bar", *["--json"] * as_json]) == 2
    served.assert_not_called()
    printed, screen = capsys.readouterr()
    assert "foo/bar" in printed + screen
    assert "Serving" not in printed


def test_the_command_for_vllm(trained: RunDir, learner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(trained.path), "--with", "vllm", "--port", "9"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["vllm", "serve", str(learner)]
    assert words[-1] == f"{trained.id}={trained.adapter}"
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--port") + 1] == "9"


def with_settings(trained: RunDir, root: Path, **changes: Any) -> RunDir:
    """A copy of a run under ``root``, whose adapter has other settings."""
    run = RunDir(Path(shutil.copytree(trained.path, root / "studio" / "runs" / trained.id)))
    file = run.adapter / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (run.adapter / MANIFEST).unlink()
    write_manifest(run.adapter)
    return run


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"r": 513}, "has 513"),
        ({"use_dora": True}, "trained with use_dora"),
        ({"alpha_pattern": {"q_proj": 3}}, "one scale for all layers"),
    ],
    ids=str,
)
def test_an_adapter_that_vllm_would_refuse_or_apply_wrongly(
    changes: dict[str, Any],
    code: str,
    trained: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = with_settings(trained, tmp_path, **changes)
    assert main(["serve", str(run.path), "--with", "vllm"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert code in told
    assert "--to " in told


@pytest.mark.parametrize("studio", [False, True])
def test_vllm_is_given_the_newest_plain_adapter_of_a_run_with_patterns(
    studio: bool,
    trained: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = with_settings(trained, tmp_path, rank_pattern={"q_proj": 3})
    usual = default_folder(run, "adapter", "float32")
    made = run.path.parent.parent / usual if studio else usual
    for age, folder in enumerate([usual.with_name(f"{usual.name}-old"), made]):
        folder.mkdir(parents=True)
        (folder / ADAPTER_CONFIG).write_text(json.dumps({"r": 24}))
        os.utime(folder / ADAPTER_CONFIG, (age, age))
    assert main(["serve", str(run.path), "--with", "vllm"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[-1] == f"{run.id}={made}"
    assert words[words.index("--max-lora-rank") + 1] == "32"


def test_the_command_for_a_model_alone(learner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(learner), "--with", "vllm", "--json"]) == 0
    assert "--lora-modules" not in json.loads(capsys.readouterr().out)["command"]


def test_the_command_for_llama_cpp_wants_a_gguf_file(
    trained: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(trained.path), "--with", "llama.cpp"]) == 2
    assert "Export" in capsys.readouterr().err
    file = tmp_path / "model.gguf"
    file.touch()
    assert main(["serve", str(file), "--with", "llama.cpp"]) == 0
    assert shlex.split(capsys.readouterr().out)[:3] == ["llama-server", "--model", str(file)]


@pytest.mark.parametrize("studio", [False, True])
def test_llama_cpp_is_given_the_newest_export_of_the_run(
    studio: bool,
    trained: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / "studio" / "runs" / trained.id)))
    usual = default_folder(run, "gguf", "Q8_0")
    made = run.path.parent.parent / usual if studio else usual
    others = [default_folder(run, "lora-gguf", "F32"), usual.with_name(f"{run.id}x-gguf-F32")]
    for age, folder in enumerate([default_folder(run, "gguf", "F32"), made, *others]):
        folder.mkdir(parents=True)
        (folder / "tiny.gguf").touch()
        os.utime(folder / "tiny.gguf", (age, age))
    (made / "tiny-imatrix.gguf").touch()  # no model
    assert main(["serve", str(run.path), "--with", "llama.cpp"]) == 0
    assert shlex.split(capsys.readouterr().out)[2] == str(made / "tiny.gguf")


def test_vllm_would_load_another_base_than_one_in_4_bits(
    learner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_over(learner, tmp_path, changes={"model.load_in_4bit": True})
    assert main(["serve", str(run.path), "--with", "vllm"]) == 2
    assert "vLLM would load the published weights" in capsys.readouterr().err
