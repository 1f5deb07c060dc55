"""Faults at every stage of many requests, starvation, and memory: what the server promises when things go wrong.

    make server-faults
    python benchmarks/server_faults.py -n 500 --runs 20

A share of all calls at every stage (loading, merging, reading, joining, a step, choosing, text, delivering, other
work) raises an error, a lack of memory or a panic, while clients chat, stream, embed and look inside. Exits 1 when a
request was neither answered nor told, when the first token beside six clients that embed takes more than twice as
long as alone, or when memory grew over many different runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from serve_process import Served, tiny_run

from backend.inference.answer_text import AnswerText
from backend.inference.decoding import Decoding, Prefill
from backend.inference.sampling import Sampler
from backend.inference.shared_base import SharedBase
from backend.server import embeddings, generation
from backend.server.bases import ServedBase
from backend.server.process import ServerOptions, opened

STAGES: list[tuple[Any, str, float]] = [
    (ServedBase, "__init__", 0.2),
    (SharedBase, "_set", 0.02),
    (Prefill, "__init__", 0.02),
    (Prefill, "advance", 0.02),
    (Decoding, "join", 0.02),
    (Decoding, "step", 0.002),
    (Sampler, "choose", 0.002),
    (AnswerText, "push", 0.002),
    (generation.EventQueue, "deliver", 0.002),
    (embeddings, "embed_texts", 0.02),
]
"""Where faults are planted, and in which share of the calls."""
TOLD = {200, 400, 429, 500, 503, 504}
SECONDS = 60


class PanicError(BaseException):
    """What a panic in Rust code is to Python."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="requests under faults")
    parser.add_argument(
        "--runs", type=int, default=200, help="different runs that are asked one after the other"
    )
    options = parser.parse_args()
    logging.getLogger("tunesmith.server").setLevel(logging.CRITICAL + 1)
    with tempfile.TemporaryDirectory(prefix="server-faults-") as folder:
        run = tiny_run(Path(folder), 2048)
        found = [
            _under_faults(run, options.n),
            _beside_embeddings(run),
            _many_runs(run, options.runs),
        ]
    return int(not all(found))


@contextmanager
def _server(root: Path, run: str) -> Iterator[Served]:
    """A server in a thread of this process, where faults can be planted."""
    with opened(ServerOptions(root=root, port=0)) as (uvicorn, listener):
        thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Served(listener.getsockname()[1], psutil.Process(), run)
        finally:
            uvicorn.should_exit = True
            thread.join(SECONDS)


@contextmanager
def _faults(planted: Counter[str]) -> Iterator[None]:
    """Let some of the calls at every stage fail, and count them."""
    dice = random.Random(0)  # noqa: S311 - dice, no secret

    def sometimes(stage: str, share: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            if dice.random() < share:
                planted[stage] += 1
                raise dice.choice([MemoryError(), RuntimeError("planted"), PanicError("planted")])
            return work(*args, **given)

        return call

    with ExitStack() as stack:
        for owner, name, share in STAGES:
            stage = f"{owner.__name__.rpartition('.')[2]}.{name}"
            stack.enter_context(mock.patch.object(owner, name, sometimes(stage, share, getattr(owner, name))))
        yield


def _under_faults(run: Path, count: int) -> bool:
    planted: Counter[str] = Counter()
    with _server(run.parent, run.name) as server:
        expected = {
            text: _said(server.ask("POST", *_chat(server, text))) for text in ("food pork", "food pear")
        }
        with _faults(planted), ThreadPoolExecutor(8) as pool:
            statuses = Counter(pool.map(lambda number: _one(server, number), range(count)))
        after = {text: _said(server.ask("POST", *_chat(server, text))) for text in expected}
        health = server.ask("GET", "/health")[0]
    lost = sum(times for status, times in statuses.items() if status not in TOLD)
    print(
        f"faults planted: {sum(planted.values())} at {len(planted)} of {len(STAGES)} stages: {dict(planted)}"
    )
    print(
        f"requests {count}, by status {dict(statuses)}; lost {lost}; the same answers afterwards: {after == expected}"
    )
    return not lost and after == expected and health == 200


def _chat(server: Served, text: str, **fields: object) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": text}]
    body = {"model": server.run, "messages": messages, "temperature": 0, "max_tokens": 16, **fields}
    return "/v1/chat/completions", body


def _said(answer: tuple[int, str]) -> str:
    return str(json.loads(answer[1])["choices"][0]["message"]["content"])


def _one(server: Served, number: int) -> int:
    """One request, drawn by its number; the status that it was answered with, 0 for none."""
    dice = random.Random(number)  # noqa: S311 - dice, no secret
    kind = dice.choice(["chat", "chat", "stream", "base", "half", "form", "embed", "view", "compare"])
    text = dice.choice(["food pork", "food pear", "test input"])
    plain = {"model": server.run, "prompt": text, "max_tokens": 8}
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": _chat(server, text),
        "stream": _chat(server, text, stream=True, temperature=1, n=2),
        "base": _chat(server, text, model="base"),
        "half": _chat(server, text, adapter_strength=dice.choice([0.5, 1.5])),
        "form": _chat(server, text, structured_outputs={"choice": ["meat", "fruit"]}),
        "embed": ("/v1/embeddings", {"model": server.run, "input": [text] * 5}),
        "view": ("/tunesmith/v1/token-view", plain),
        "compare": ("/tunesmith/v1/compare", plain),
    }
    try:
        status, said = server.ask("POST", *asked[kind])
    except OSError:
        return 0
    return status if kind != "stream" or status != 200 or said.endswith("data: [DONE]\n\n") else 0


def _beside_embeddings(run: Path) -> bool:
    """The first token of a chat, alone and beside six clients that embed 64 texts at a time."""
    texts = ["the quick brown fox jumps over the lazy dog " * 12] * 64
    ended = threading.Event()
    with _server(run.parent, run.name) as server:
        server.ask("POST", *_chat(server, "food pork"))
        alone = statistics.median(_first_token(server) for _ in range(9))

        def embed() -> None:
            while not ended.is_set():
                server.ask("POST", "/v1/embeddings", {"model": server.run, "input": texts})

        with ThreadPoolExecutor(6) as pool:
            for _ in range(6):
                pool.submit(embed)
            time.sleep(1)
            beside = statistics.median(_first_token(server) for _ in range(9))
            ended.set()
    print(f"first token alone {alone * 1000:.0f} ms, beside six clients that embed {beside * 1000:.0f} ms")
    return beside <= 2 * alone


def _first_token(server: Served) -> float:
    began = time.perf_counter()
    server.ask("POST", *_chat(server, "food pork", max_tokens=1))
    return time.perf_counter() - began


def _many_runs(run: Path, count: int) -> bool:
    """Memory after a quarter of the runs and after all of them."""
    root = run.parent.parent / "many"
    names = [f"{run.name[:-4]}{number:04x}" for number in range(count)]
    for name in names:
        shutil.copytree(run, root / name)
    seen: list[int] = []
    with _server(root, names[0]) as server:
        for name in names:
            form = {"response_format": {"type": "json_object"}}
            server.ask("POST", *_chat(server, "food pork", model=name, max_tokens=2, **form))
            gc.collect()
            seen.append(server.process.memory_info().rss)
    before, after = seen[count // 4], seen[-1]
    growth = after / before - 1
    print(f"runs asked {count}: memory {before / 2**20:.1f} MiB -> {after / 2**20:.1f} MiB ({growth:+.2%})")
    return growth < 0.02


if __name__ == "__main__":
    sys.exit(main())
