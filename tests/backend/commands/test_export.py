"""``tunesmith export``: backend/commands/export.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.export import comparison
from backend.run.folder import RunDir
from tests.backend.export.results import finished


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return finished(tmp_path_factory.mktemp("made"))


def export(run: RunDir, *words: str) -> int:
    return main(["export", str(run.path), *words])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_it_says_what_was_written_and_how_it_compares(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(run, "--to", "gguf", "--quantization", "F32", "--rows", "2", "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert f"{out} (" in shown
    assert "Certificate: green" in shown


def test_json_is_one_object(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert export(run, "--to", "lora-gguf", "--rows", "2", "--out", str(out), "--json") == 0
    record = printed(capsys)
    assert (record["folder"], record["target"], record["certificate"]) == (str(out), "lora-gguf", "green")
    assert record["files"]["tiny-LoRA-F32.gguf"] > 0
    assert record["figures"]["tokens_compared"] > 0


def test_red_is_a_failure(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = comparison.Tolerance(-1.0, 0.0, "nothing would do")
    monkeypatch.setitem(comparison.TOLERANCES, "F32", impossible)
    out = tmp_path / "out"
    code = export(run, "--to", "gguf", "--quantization", "F32", "--rows", "2", "--out", str(out), "--json")
    assert (code, printed(capsys)["certificate"]) == (1, "red")
    assert (out / "certificate.json").exists()
    assert export(run, "--to", "hub", "--repo", "me/x", "--out", str(out), "--dry-run", "--json") == 2
    assert printed(capsys)["error"]["code"] == "red-certificate"


def test_a_dry_run_says_what_would_go_up(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--to", "hub", "--repo", "me/food", "--rows", "0", "--out", str(out), "--dry-run"]
    assert export(run, *words, "--json") == 0
    record = printed(capsys)
    assert (record["repo"], record["private"], record["url"]) == ("me/food", True, "")
    assert "adapter_model.safetensors" in record["files"]
    assert export(run, *words) == 0  # what is there already is not made again
    assert "Would upload" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--to", "hub"], ["--to", "gguf", "--repo", "me/food"]])
def test_a_repository_and_the_hub_go_together(
    words: list[str], run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, *words, "--json") == 2
    assert printed(capsys)["error"]["code"] == "bad-flag"


def test_without_a_token_nothing_is_exported_first(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    words = ["--to", "hub", "--repo", "me/food", "--out", str(tmp_path / "out"), "--json"]
    assert export(run, *words) == 2
    assert printed(capsys)["error"]["code"] == "no-token"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, "--to", "adapter", "--out", str(tmp_path), "--json") == 2
    assert printed(capsys)["error"]["code"] == "exists"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--to", "adapter"], "--to merged or --to gguf"),
        (["--to", "lora-gguf"], "--to merged or --to gguf"),
        (["--to", "hub", "--repo", "me/x", "--dry-run"], "--form merged or --form gguf"),
    ],
    ids=str,
)
def test_an_adapter_that_others_cannot_read_is_refused_with_the_flag_to_change(
    words: list[str], remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dora = finished(tmp_path / "made", lora={"use_dora": True})
    assert export(dora, *words, "--out", str(tmp_path / "out")) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "trained with use_dora. Export the merged model" in told
    assert remedy in told
    assert not (tmp_path / "out").exists()
