"""The document against the routes: backend/server/openapi.py. test_responses holds the responses to it."""

from __future__ import annotations

import re

from backend.server.openapi import REQUESTS, RESPONSES, openapi
from tests.backend.server.conftest import Server

DOCUMENT = openapi("1")


def test_it_is_served_and_every_path_in_it_answers(server: Server) -> None:
    document = server.ask("GET", "/openapi.json").json

    assert list(document["paths"]) == list(DOCUMENT["paths"])
    for path, methods in document["paths"].items():
        assert all(
            server.ask(name.upper(), path).status not in {404, 405} for name in methods if "{" not in path
        )


def test_every_reference_leads_somewhere() -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(DOCUMENT)))

    assert names <= set(DOCUMENT["components"]["schemas"])
    assert {model.__name__ for model in REQUESTS} <= names


def test_every_response_is_named_by_an_operation() -> None:
    paths = str(DOCUMENT["paths"])

    assert [model.__name__ for model in RESPONSES if not re.search(rf"\b{model.__name__}\b", paths)] == []


def test_a_server_that_restarts_its_engine_is_documented() -> None:
    health = DOCUMENT["paths"]["/health"]["get"]["responses"]

    assert health["503"]["content"] == health["200"]["content"]
