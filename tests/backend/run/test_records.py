"""The small records of a run folder: backend/run/records.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from backend.errors import RunError
from backend.run.environment import Environment
from backend.run.records import (
    CONFIG_END,
    read_attempt,
    read_config_text,
    read_environment,
    read_outcome,
    read_rare_record,
    read_record,
    read_ticket,
    step_of,
    utc_now,
)
from backend.run.reports import RunStatus

OUTCOME = {"status": "stopped", "code": "paused", "message": "Paused."}
TICKET = {"queued": "now", "after_attempt": 0, "position": 1}
ATTEMPT = {"number": 1, "began": "now", "command": ["a"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


def test_now_is_utc_and_reads_back() -> None:
    assert datetime.fromisoformat(utc_now()).utcoffset() is not None
    assert utc_now() <= utc_now()


def test_a_record_is_read_missing_or_damaged(path: Path) -> None:
    assert read_record(path, dict) is None
    path.write_text('{"a": 1}')
    assert read_record(path, dict) == read_record(str(path), dict) == {"a": 1}
    path.write_text("{")
    with pytest.raises(RunError, match=r"^a\.json: it is not complete JSON") as caught:
        read_record(path, dict)
    assert caught.value.code == "damaged-run"


def test_a_record_that_few_have_is_read_alike(path: Path) -> None:
    assert read_rare_record(path, dict) is None
    assert read_rare_record(path / "below", dict) is None
    path.write_text('{"a": 1}')
    assert read_rare_record(path, dict) == {"a": 1}
    assert read_record(path / "below", dict) is None
    path.write_text("{")
    with pytest.raises(RunError, match="not complete JSON"):
        read_rare_record(path, dict)


def test_a_folder_in_place_of_a_record_is_damage(path: Path) -> None:
    path.mkdir()
    with pytest.raises(RunError, match=r"a\.json"):
        read_record(path, dict)


def test_each_record_is_read_as_what_it_is(path: Path) -> None:
    path.write_text(json.dumps(OUTCOME))
    outcome = read_outcome(path)
    path.write_text(json.dumps(TICKET))
    ticket = read_ticket(path)
    path.write_text(json.dumps(ATTEMPT))
    assert outcome is not None
    assert outcome.status is RunStatus.STOPPED
    assert ticket is not None
    assert ticket.position == 1.0
    assert read_attempt(path).command == ("a",)
    path.write_text(json.dumps({"attempt": 3, "plan": None, "from_the_future": 1}))
    assert read_environment(path) == Environment(attempt=3)


@pytest.mark.parametrize(
    ("read", "value", "problem"),
    [
        (read_outcome, OUTCOME | {"status": "queued"}, "queued is no way to end"),
        (read_outcome, {"status": "stopped", "code": "x"}, "message is missing"),
        (read_ticket, {"queued": "now", "after_attempt": 0}, "position is missing"),
        (read_attempt, ATTEMPT | {"number": "1"}, "number must be int"),
        (read_environment, [], "no JSON object"),
    ],
)
def test_a_record_that_is_none_is_damage(
    path: Path, read: Callable[[Path], object], value: object, problem: str
) -> None:
    path.write_text(json.dumps(value))
    with pytest.raises(RunError, match=problem) as caught:
        read(path)
    assert caught.value.code == "damaged-run"


def test_what_may_be_missing_and_what_may_not(path: Path) -> None:
    assert (read_outcome(path), read_ticket(path), read_environment(path)) == (None, None, Environment())
    for read in (read_attempt, read_config_text):
        with pytest.raises(RunError, match=r"a\.json"):
            read(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"seed: 1\n", "cut short"), (b"", "cut short"), (b"\xff\n" + CONFIG_END.encode(), "cannot be read")],
)
def test_a_configuration_is_whole_or_refused(path: Path, content: bytes, problem: str) -> None:
    path.write_text(f"seed: 1\n{CONFIG_END}\n")
    assert read_config_text(path).startswith("seed: 1")
    path.write_bytes(content)
    with pytest.raises(RunError, match=problem):
        read_config_text(path)


@pytest.mark.parametrize(("record", "step"), [({"step": 3}, 3), ({}, math.inf), ({"step": "3"}, math.inf)])
def test_the_step_of_a_line(record: dict[str, object], step: float) -> None:
    assert step_of(record) == step
