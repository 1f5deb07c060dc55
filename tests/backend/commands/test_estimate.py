"""``tunesmith estimate``: backend/commands/estimate.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from backend.commands import estimate as estimate_module
from backend.commands.cli import main
from backend.commands.estimate import this_machine
from tests.runs import write_rows


@pytest.fixture
def words(tiny_folder: Path, tmp_path: Path) -> list[str]:
    rows = write_rows(tmp_path / "rows.jsonl")
    model = ["--model.model_name_or_path", str(tiny_folder)]
    model += ["--accept", "duplicates"]
    return ["estimate", "--data.train", str(rows), *model, "--runs", str(tmp_path / "runs")]


def test_it_says_what_a_run_will_cost(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()[:3]] == ["Time", "Memory", "Disk"]
    assert "4 steps" in told or "2 steps" in told
    assert "guess from the model's shape" in told


def test_as_json_with_everything_the_formulas_need(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json", "--training.max_steps", "7"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["estimate"]["steps"] == 7
    assert told["estimate"]["seconds"]["low"] < told["estimate"]["seconds"]["high"]
    assert told["data"]["rows"] + told["data"]["validation_rows"] == 18
    assert told["shape"]["width"] == 32
    assert told["read_as"]
    assert told["sha256"] == {words[2]: hashlib.sha256(Path(words[2]).read_bytes()).hexdigest()}
    assert told["warnings"] == []


def test_what_will_not_fit_is_said(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.commands.estimate.free_bytes", lambda _: 10)
    assert main(words) == 0
    assert "Will not fit: training.save_total_limit" in capsys.readouterr().out


def test_what_is_not_read_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"role": "assistant", "content": "a", "weigth": "none"}
    write_rows(
        Path(words[2]), [{"messages": [{"role": "user", "content": f"q{n}"}, answer]} for n in range(4)]
    )
    assert main([*words, "--accept", "one-answer"]) == 0
    assert "Warning: Messages have a key that is not read: 'weigth'" in capsys.readouterr().out


def test_bad_input_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--training.max_steps", "many"]) == 2
    assert "training.max_steps" in capsys.readouterr().err


def test_what_the_data_check_stops_is_said_with_the_cost(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in words if word not in {"--accept", "duplicates"}]
    assert main(words) == 1
    told = capsys.readouterr().out
    assert told.startswith("Time")
    assert "STOP" in told
    assert "drop-duplicates leaves" in told
    assert main([*words, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert [each["field"] for each in record["stops"]] == ["duplicates"]
    assert record["estimate"]["steps"] > 0


def test_the_machine_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "not" / "yet")
    assert machine.cores >= 1
    assert machine.memory_bytes > 10**8
    assert machine.disk_free_bytes > 0


class Card:
    """What torch tells of a GPU."""

    total_memory = 24 * 2**30


def test_a_gpu_is_what_counts_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "GPU_DRIVERS", (tmp_path,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card())
    found = this_machine(tmp_path)
    assert (found.device, found.memory_bytes) == ("cuda", 24 * 2**30)


def test_torch_is_not_asked_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "GPU_DRIVERS", (tmp_path / "none",))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", pytest.fail)
    assert this_machine(tmp_path).device == "cpu"
