"""What finished runs took: backend/manager/planning/past_runs.py, over a real run."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backend.manager.planning.past_runs import past_run, read_past
from backend.run.folder import RunDir
from backend.trainer_main import run as train_run
from tests.runs import make_run, write_rows


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("past")
    run = make_run(folder / "runs", tiny_folder, write_rows(folder / "rows.jsonl"))
    train_run(run)
    return run


@pytest.fixture
def copy(finished: RunDir, tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(finished.path, tmp_path / finished.id))


def test_what_a_finished_run_took(finished: RunDir) -> None:
    found = past_run(finished)
    assert found is not None
    assert (found.id, found.method, found.device, found.dtype) == (finished.id, "lora", "cpu", "float32")
    assert found.parameters > 10_000
    assert found.work.steps == 4
    assert 0 < found.seconds < 120
    assert found.memory_bytes > 10**8
    assert found.disk_bytes > 10_000
    assert found.speed > 0


def test_the_formula_of_the_disk_is_near(finished: RunDir) -> None:
    found = past_run(finished)
    assert found is not None
    without_tokenizer = found.work.disk_bytes - 4_000_000
    assert without_tokenizer == pytest.approx(found.disk_bytes, rel=0.9)


def test_the_newest_come_first_and_no_more_than_asked(finished: RunDir, tmp_path: Path) -> None:
    for name in ("20260101-000000-a-0000", "20260102-000000-b-0000", "20260103-000000-c-0000"):
        shutil.copytree(finished.path, tmp_path / name)
    assert [one.id[16] for one in read_past(tmp_path, newest=2)] == ["c", "b"]
    assert read_past(tmp_path / "nowhere") == []


def test_attempts_are_added_up(copy: RunDir) -> None:
    attempt = json.loads((copy.attempts / "1.json").read_text())
    attempt["end"]["ended"] = (datetime.fromisoformat(attempt["began"]) + timedelta(minutes=5)).isoformat()
    (copy.attempts / "1.json").write_text(json.dumps(attempt))
    alone = past_run(copy)
    shutil.copy(copy.attempts / "1.json", copy.attempts / "2.json")
    for path, key, value in [
        (copy.attempts / "2.json", "number", 2),
        (copy.outcome_file, "attempt", 2),
        (copy.environment, "attempt", 2),
    ]:
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    both = past_run(copy)
    assert alone is not None
    assert both is not None
    assert both.seconds == pytest.approx(2 * alone.seconds)


def test_only_what_the_trainer_did_counts(copy: RunDir) -> None:
    """Whether the clock of the attempt began before the imports, when it was sent away, or after them."""
    alone = past_run(copy)
    attempt = json.loads((copy.attempts / "1.json").read_text())
    began = datetime.fromisoformat(attempt["began"]) - timedelta(seconds=25)
    (copy.attempts / "1.json").write_text(json.dumps(attempt | {"began": began.isoformat()}))
    sent = past_run(copy)
    assert alone is not None
    assert sent is not None
    assert (sent.seconds, sent.start_seconds) == (pytest.approx(alone.seconds), alone.start_seconds)
    assert (alone.rows, alone.start_seconds > 0) == (18, True)


def test_a_run_of_before_says_no_start(copy: RunDir) -> None:
    environment = json.loads(copy.environment.read_text())
    del environment["start_seconds"]
    copy.environment.write_text(json.dumps(environment))
    found = past_run(copy)
    assert found is not None
    assert (found.start_seconds, found.seconds > 0) == (0.0, True)


@pytest.mark.parametrize("spoiled", ["config.yaml", "environment.json", "attempts/1.json", "outcome.json"])
@pytest.mark.parametrize("content", ["", "{}", "null"])
def test_a_run_that_lacks_something_says_nothing(copy: RunDir, spoiled: str, content: str) -> None:
    (copy.path / spoiled).write_text(content)
    assert past_run(copy) is None


def test_a_model_that_is_gone_says_nothing(copy: RunDir) -> None:
    text = copy.config.read_text()
    copy.config.write_text(text.replace("chatml-llama", "elsewhere"))
    assert past_run(copy) is None


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("environment.json", ("data", "tokens"), None),
        ("environment.json", ("data", "tokens"), 0),
        ("environment.json", ("data", "tokens"), -7),
        ("environment.json", ("data", "tokens"), 10**400),
        ("environment.json", ("data", "train_rows"), -3),
        ("environment.json", ("data", "train_rows"), "many"),
        ("environment.json", ("plan", "lanes"), "two"),
        ("environment.json", ("start_seconds",), -1e9),
        ("environment.json", ("ready",), "yesterday"),
        ("attempts/1.json", ("end", "ended"), "2020-01-01T00:00:00.000+00:00"),
        ("attempts/1.json", ("end", "ended"), "2020-01-01T00:00:00"),
        ("attempts/1.json", ("began",), "then"),
    ],
)
def test_a1_an_odd_run_is_passed_over_and_no_other(
    copy: RunDir, finished: RunDir, file: str, keys: tuple[str, ...], value: object
) -> None:
    sound = copy.path.with_name("20200101-000000-sound-0000")
    shutil.copytree(finished.path, sound)
    record = json.loads((copy.path / file).read_text())
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (copy.path / file).write_text(json.dumps(record, indent=2) + "\n")
    found = read_past(copy.path.parent)
    assert sound.name in [one.id for one in found]
    assert all(one.speed > 0 and one.seconds > 0 for one in found)
