"""Time to the first token and tokens a second, under 1, 4 and 16 clients who ask one thing after the other.

make bench-serve
python benchmarks/serve_speed.py --run runs/RUN --requests 4
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from serve_process import QUESTION, Served, served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="", help="a finished run; a tiny one is trained if left out")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=4, help="requests of each client")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    options = parser.parse_args()
    with served(options.run) as server:
        _ask(server, 0, 4)
        print("clients  first token, median ms  worst ms  tokens a second, all together")
        for clients in options.clients:
            began = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                numbers = range(clients * options.requests)
                found = list(pool.map(lambda number: _ask(server, number, options.tokens), numbers))
            seconds = time.perf_counter() - began
            first = [each[0] * 1000 for each in found]
            speed = sum(each[1] for each in found) / seconds
            print(
                f"{clients:7}  {statistics.median(first):22.0f}  {max(first):8.0f}  {speed:29.1f}", flush=True
            )


def _ask(server: Served, number: int, tokens: int) -> tuple[float, int]:
    """(seconds to the first token, tokens) of one stream; sampled hot, so that no answer ends early by itself."""
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": f"{QUESTION}, number {number}"}],
        "temperature": 2,
        "seed": number,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    began, first, used = time.perf_counter(), 0.0, 0
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            said = chunk["choices"] and chunk["choices"][0]["delta"].get("content")
            first = first or (time.perf_counter() - began if said else 0.0)
            used = (chunk.get("usage") or {}).get("completion_tokens", used)
    finally:
        connection.close()
    return first or time.perf_counter() - began, used


if __name__ == "__main__":
    main()
