"""The small records of a run folder: backend/run_records.py."""

from __future__ import annotations

import math
import os
from datetime import datetime
from pathlib import Path

import pytest

from backend.errors import RunError
from backend.reports import Attempt, RunStatus
from backend.run_records import (
    AttemptFiles,
    highest_number,
    match_name,
    parse_outcome,
    parse_ticket,
    read_record,
    slugify,
    stat_or_none,
    step_of,
    utc_now,
)


def test_now_is_utc_and_reads_back() -> None:
    assert datetime.fromisoformat(utc_now()).utcoffset() is not None
    assert utc_now() <= utc_now()


def test_a_record_is_read_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_record(path, dict) is None
    path.write_text('{"a": 1}')
    assert read_record(path, dict) == {"a": 1}
    with pytest.raises(RunError, match=r"a\.json: status is missing") as caught:
        read_record(path, parse_outcome)
    assert caught.value.code == "damaged-run"


def test_a_folder_in_place_of_a_record_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(RunError, match=r"a\.json"):
        read_record(tmp_path / "a.json", dict)


def test_only_an_end_is_an_outcome() -> None:
    whole: dict[str, object] = {"status": "stopped", "code": "paused", "message": "Paused."}
    assert parse_outcome(whole).status is RunStatus.STOPPED
    with pytest.raises(ValueError, match="no way to end"):
        parse_outcome({**whole, "status": "queued"})


def test_a_ticket_needs_its_place() -> None:
    assert parse_ticket({"queued": "now", "after_attempt": 0, "position": 1}).position == 1.0
    with pytest.raises(ValueError, match="position is missing"):
        parse_ticket({"queued": "now", "after_attempt": 0})


def test_the_highest_number_among_names(tmp_path: Path) -> None:
    assert highest_number(tmp_path / "missing", r"(\d+)") == 0
    for name in ("9.json", "10.json", "11.json.damaged-ab", "x.json"):
        (tmp_path / name).touch()
    assert highest_number(tmp_path, r"(\d+)\.json") == 10
    assert highest_number(tmp_path / "9.json", r"(\d+)") == 0


@pytest.mark.parametrize(("record", "step"), [({"step": 3}, 3), ({}, math.inf), ({"step": "3"}, math.inf)])
def test_the_step_of_a_line(record: dict[str, object], step: float) -> None:
    assert step_of(record) == step


@pytest.mark.parametrize(
    ("text", "slug"),
    [("SmolLM2 135M/food", "smollm2-135m-food"), ("../..", "run"), ("", "run"), ("a" * 99, "a" * 40)],
)
def test_slugs(text: str, slug: str) -> None:
    assert slugify(text) == slug


def test_matching_names() -> None:
    names = ["20260101-food-aaaa", "20260101-food-bbbb"]
    assert match_name("20260101-food-a", names) == names[0]
    for wanted, code in [("2026", "ambiguous-run"), ("", "no-such-run"), ("zzz", "no-such-run")]:
        with pytest.raises(RunError) as caught:
            match_name(wanted, names)
        assert caught.value.code == code


def test_stat_or_none(tmp_path: Path) -> None:
    assert stat_or_none(str(tmp_path)) is not None
    assert stat_or_none(str(tmp_path / "missing")) is None


def test_attempts_are_numbered_as_they_begin(tmp_path: Path) -> None:
    files = AttemptFiles(tmp_path / "attempts")
    attempt = files.begin(Attempt(0, "now", ("a",)))
    assert attempt.number == 1
    with_process = files.set_process(attempt, os.getpid())
    ended = files.end(with_process, "crashed", None, 11)
    assert files.read(1) == ended
    assert ended.process == with_process.process
    assert files.begin(Attempt(0, "now", ("a",))).number == 2
