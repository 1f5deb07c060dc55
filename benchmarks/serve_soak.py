"""Ten thousand requests of every kind: memory and descriptors of the server before and after.

    make soak
    python benchmarks/serve_soak.py -n 500

A tenth is warm-up. Exits 1 when memory grew by more than 2 %, a descriptor was left open, or an answer was wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from serve_process import Served, served

PROMPTS = ["test input", "food pork", "food pear", "hello", "x y z"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--run", default="", help="a finished run; a tiny one is trained if left out")
    options = parser.parse_args()
    with served(options.run) as server:
        expected = {text: _chat(server, text) for text in PROMPTS}
        warm = options.n // 10
        wrong = _round(server, expected, range(warm), options.clients)
        before, began = _figures(server), time.perf_counter()
        wrong += _round(server, expected, range(warm, options.n), options.clients)
        seconds, after = time.perf_counter() - began, _figures(server)
    growth = after["rss"] / before["rss"] - 1
    print(f"requests {options.n}, {(options.n - warm) / seconds:.0f} a second, wrong {wrong}")
    print(f"memory {before['rss'] / 2**20:.1f} MiB -> {after['rss'] / 2**20:.1f} MiB ({growth:+.2%})")
    print(f"descriptors {before['fds']} -> {after['fds']}, threads {before['threads']} -> {after['threads']}")
    failed = wrong or growth > 0.02 or after["fds"] > before["fds"] or after["threads"] > before["threads"]
    return int(bool(failed))


def _figures(server: Served) -> dict[str, int]:
    time.sleep(1)  # connections that were just closed
    process = server.process
    return {"rss": process.memory_info().rss, "fds": process.num_fds(), "threads": process.num_threads()}


def _round(server: Served, expected: dict[str, str], numbers: range, clients: int) -> int:
    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(lambda number: _one(server, expected, number), numbers))


def _one(server: Served, expected: dict[str, str], number: int) -> int:
    """One request, drawn by its number; 1 when what came back was wrong."""
    dice = random.Random(number)  # noqa: S311 - dice, no secret
    text = dice.choice(PROMPTS)
    chat, view = "/v1/chat/completions", "/tunesmith/v1/token-view"
    match dice.choice(["whole", "whole", "stream", "leave", "bad", "base", "models", "view"]):
        case "whole":
            return int(_chat(server, text) != expected[text])
        case "leave":
            _leave(server, text)
            return 0
        case "stream":
            status, said = server.ask("POST", chat, _body(server, text, stream=True))
            wanted = 200 if said.endswith("data: [DONE]\n\n") else 0
        case "bad":
            status, wanted = server.ask("POST", chat, _body(server, text, n=0))[0], 400
        case "base":
            status, wanted = server.ask("POST", chat, _body(server, text, model="base", max_tokens=4))[0], 200
        case "models":
            status, wanted = server.ask("GET", "/v1/models")[0], 200
        case _:
            body = {"model": server.run, "prompt": text, "max_tokens": 8}
            status, wanted = server.ask("POST", view, body)[0], 200
    return int(status != wanted)


def _body(server: Served, text: str, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {"model": server.run, "messages": messages, "temperature": 0, "max_tokens": 24, **fields}


def _chat(server: Served, text: str) -> str:
    status, said = server.ask("POST", "/v1/chat/completions", _body(server, text))
    return str(json.loads(said)["choices"][0]["message"]["content"]) if status == 200 else f"status {status}"


def _leave(server: Served, text: str) -> None:
    """Begin a stream and go."""
    body = json.dumps(_body(server, text, stream=True, temperature=2, max_tokens=200))
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        wire.recv(64)


if __name__ == "__main__":
    sys.exit(main())
