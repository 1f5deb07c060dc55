"""Every stable code that an error carries is expected by a test: clients and the studio go by it.

The table holds those that no other test names.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import re
import socket
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from starlette.requests import Request

from backend.commands import answers, config, logprobs, studio, tensorboard
from backend.data import tfds
from backend.data.files import regular_file
from backend.data.load import load_rows
from backend.data.locate import take_part
from backend.data.refusals import unknown_parts
from backend.data.sources import ReadOptions, read
from backend.errors import TunesmithError
from backend.inferencer import Inferencer
from backend.manager.queue_manager import QueueManager
from backend.run.folder import RunDir
from backend.server.errors import INTERNAL, ApiError
from backend.server.guard import Guard, read_body
from backend.server.parsing import parse
from backend.server.schemas import ChatRequest
from backend.server.service import variant_of
from backend.training.forward import choose_forward
from tests.house import ROOMS, ROOT, TESTS, parsed
from tests.tiny import tiny_model

ROW = '{"prompt": "a", "completion": "b"}\n'


def file_of(place: Path, name: str, content: str | bytes) -> Path:
    (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return place / name


def zipped(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def thrice_packed(place: Path) -> object:
    inner = zipped("b.zip", zipped("c.zip", zipped("rows.jsonl", ROW.encode())))
    return list(read(file_of(place, "a.zip", inner)))


def unknown_sheet(place: Path) -> object:
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.append(["prompt", "completion"])
    book.save(place / "rows.xlsx")
    return list(read(place / "rows.xlsx", ReadOptions(sheet="No such sheet")))


def not_queued(place: Path) -> object:
    run, other = (RunDir.create(place, name, "seed: 1") for name in "ab")
    queue = QueueManager(place)
    queue.enqueue(run)
    return queue.change(run, before=other)


def port_in_use(_: Path) -> object:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return studio._checked(taken.getsockname()[1])


def body(place: Path, *, kind: str = "application/json", seconds: float = 20) -> object:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0 if seconds else 60)
        return {"type": "http.request", "body": b"12345", "more_body": False}

    request = Request(
        {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}, receive
    )
    return asyncio.run(read_body(request, limit=4, seconds=seconds))


def refused(_: Path, **headers: str) -> object:
    """What the guard of the server answers to these headers."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": "/v1/models", "method": "GET", "headers": raw}
    asyncio.run(Guard(Mock(), loopback=True, token="secret")(scope, Mock(), send))  # type: ignore[arg-type]
    raise ApiError(sent[0]["status"], "", code=json.loads(sent[1]["body"])["error"]["code"])


def raised(error: Exception) -> object:
    raise error


CODES: dict[str, Callable[[Path], object]] = {
    "archive-too-deep": thrice_packed,
    "bad-encoding": lambda place: list(read(file_of(place, "a.csv", b"abc"), ReadOptions("utf-16"))),
    "bad-k": lambda place: logprobs.logprobs(ROW, teacher="latest", out=place / "x", temperature=0.01),
    "bad-pattern": lambda _: answers._pattern("("),
    "bad-port": lambda _: studio._checked(0),
    "bad-slice": lambda _: take_part(5, "[a:b]"),
    "bad-slots": lambda place: QueueManager(place).set_slots("default", -1),
    "bad-tools": lambda _: Inferencer.answer_batch(Mock(Inferencer), ["a"], tools=[]),
    "bad_json": lambda _: parse(ChatRequest, b"{"),
    "bad_strength": lambda _: variant_of(Mock(adapter_strength=0.5), Mock(adapter=None)),
    "bad_token": lambda place: refused(place, host="localhost"),
    "body_timeout": lambda place: body(place, seconds=0),
    "body_too_large": body,
    "broken-json": lambda place: list(read(file_of(place, "a.json", '[{"a": 1'))),
    "damaged-file": lambda place: list(read(file_of(place, "a.parquet", b"PAR1 and no more PAR1"))),
    "file-exists": lambda place: config.init(file_of(place, "run.yaml", "")),
    "host_not_allowed": lambda place: refused(place, host="example.org"),
    "internal_error": lambda _: raised(INTERNAL),
    "layers-not-written-out": lambda _: choose_forward(tiny_model("gpt2"), layers="tunesmith"),
    "missing-extra": lambda _: tfds.fetch("squad", None),
    "no-curves": tensorboard.curves,
    "not-a-file": regular_file,
    "not-queued": not_queued,
    "not_json": lambda place: body(place, kind="text/plain"),
    "one-object": lambda place: load_rows(
        file_of(place, "a.json", '{"prompt": ["a", "b"], "completion": ["c", "d"]}')
    ),
    "origin_not_allowed": lambda place: refused(place, host="localhost", origin="https://example.org"),
    "port-taken": port_in_use,
    "unknown-columns": lambda _: raised(unknown_parts({"x"})),
    "unknown-format": lambda place: list(read(file_of(place, "a.bin", b"\x00\x01\x02\x03" * 50))),
    "unknown-sheet": unknown_sheet,
}
IN_OTHER_WORDS = {
    *(
        "another_base",
        "answer_too_long",
        "bad_request",
        "calls_not_known",
        "model_not_found",
        "text_too_long",
    ),
    *("tools_not_shown", "no-gguf", "no-plain-adapter", "quantized-base", "rank-too-high"),
}
"""Codes whose refusals are tried by their status and sentence alone."""


@pytest.mark.parametrize("code", CODES)
def test_an_error_has_its_code(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises((TunesmithError, ApiError)) as caught:
        CODES[code](tmp_path)
    assert caught.value.code == code


def raised_codes() -> Iterator[str]:
    for path in ROOMS:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                yield str(node.value.value)


def test_every_code_is_expected_by_a_test() -> None:
    others = (path.read_text(encoding="utf-8") for path in TESTS if path.name != Path(__file__).name)
    named = {word for text in others for word in re.findall(r"[\"']([\w-]+)[\"']", text)}
    assert {*raised_codes()} - named - CODES.keys() == IN_OTHER_WORDS
    assert len({*raised_codes()}) > 180


def test_the_table_holds_codes_that_there_are() -> None:
    assert CODES.keys() - {*raised_codes()} == set()
    assert (ROOT / "backend/server/errors.py").is_file()
