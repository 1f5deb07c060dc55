"""Bounds of the looks inside: backend/server/inspection.py. What they show is tried in test_app."""

from __future__ import annotations

from typing import Any

import pytest

from backend.run.folder import RunDir
from backend.server.inspection import MAX_ANSWER_TOKENS
from tests.backend.server.conftest import Server

VIEW, COMPARE = "/tunesmith/v1/token-view", "/tunesmith/v1/compare"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (VIEW, {"prompt": "a", "answer": "word " * MAX_ANSWER_TOKENS}, "answer"),
        (VIEW, {"prompt": "word " * 600}, "prompt"),
        (VIEW, {"messages": [{"role": "user", "content": "word " * 600}]}, "messages"),
        (VIEW, {"prompt": "a", "max_tokens": MAX_ANSWER_TOKENS + 1}, "max_tokens"),
        (VIEW, {"prompt": "a", "top": 21}, "top"),
        (VIEW, {"prompt": "a", "against": "base"}, "against"),
        (COMPARE, {"prompt": "a", "answer": "b"}, "answer"),
        (COMPARE, {"prompt": "a", "against": "nothing"}, "model"),
        (COMPARE, {"prompt": "a", "stream": True}, "stream"),
    ],
)
def test_what_cannot_be_looked_at(server: Server, path: str, fields: dict[str, Any], param: str) -> None:
    refused = server.ask("POST", path, {"model": server.run, **fields})

    assert refused.status in {400, 404}
    assert refused.error["param"] == param


def test_seed_and_strength_count(server: Server) -> None:
    asked = {"model": server.run, "prompt": "test input", "temperature": 2.0, "max_tokens": 8}
    said = [server.ask("POST", VIEW, {**asked, "seed": seed}).json["answer"]["text"] for seed in (1, 1, 2, 3)]
    weak = server.ask("POST", COMPARE, {**asked, "temperature": 0, "adapter_strength": 0}).json

    assert said[0] == said[1]
    assert len(set(said)) > 1
    assert (weak["first_difference"], weak["mean_kl"]) == (None, 0)


def test_no_alternatives(server: Server, trained: RunDir) -> None:
    asked = {"model": f"{trained.id}@10", "prompt": "test input", "top": 0, "max_tokens": 2}

    assert [t["top"] for t in server.ask("POST", VIEW, asked).json["answer"]["tokens"]] == [[], []]
