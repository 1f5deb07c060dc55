"""The typed content of environment.json: backend/run/environment.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.run.environment import ComputePlan, Environment, Facts, RejectedRow, RowsRead
from backend.utils.record_utils import record_from_json, record_to_json

WHOLE = Environment(
    attempt=2,
    python="3.11.7",
    platform="Linux",
    versions={"torch": "2.13.0"},
    plan=ComputePlan("cpu", "float32", lanes=2, threads=1, matmul_precision="medium"),
    facts=Facts({"rows.jsonl": "1" * 64}, "2" * 32),
    start_seconds=1.5,
    ready="2026-01-01T00:00:00.000+00:00",
    data=RowsRead(train_rows=3, rejected_rows=(RejectedRow("rows.jsonl:4", "empty"),), tokens=9),
)


def test_it_survives_being_written_down() -> None:
    written: dict[str, Any] = json.loads(json.dumps(record_to_json(WHOLE)))
    assert record_from_json(Environment, written) == WHOLE


def test_what_an_older_version_wrote_reads_as_empty() -> None:
    assert record_from_json(Environment, {"attempt": 1, "data": {"train_rows": 2}}) == Environment(
        attempt=1, data=RowsRead(train_rows=2)
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"facts": {"data": {"rows.jsonl": 1}, "model": "a"}}, "data.rows.jsonl must be str"),
        ({"facts": {"data": ["rows.jsonl"], "model": "a"}}, "data must be an object"),
        ({"facts": "none"}, "facts must be an object"),
        ({"plan": {"device": "cpu"}}, "dtype is missing"),
    ],
)
def test_what_is_no_record_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        record_from_json(Environment, change)


@pytest.mark.parametrize(("device", "kind"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:3", "cuda")])
def test_a_device_of_several_is_of_its_kind(device: str, kind: str) -> None:
    assert ComputePlan(device, "float32", 1, 1, "high").device_type == kind
