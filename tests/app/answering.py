"""An inference server with made-up answers, on a real socket, in the protocol of docs/serving.md."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from backend.utils.file_utils import write_json_durably
from backend.utils.lock_utils import hold_lock
from backend.utils.process_utils import identify

INSTANCE = "made-up"
TOKENS = [
    {"id": 1, "text": "<b>Meat", "special": False, "logprob": -0.1, "probability": 0.9, "top": []},
    {
        "id": 2,
        "text": "!",
        "special": False,
        "logprob": -2.3,
        "probability": 0.1,
        "top": [{"id": 3, "text": "?", "logprob": -0.2, "probability": 0.8}],
    },
]
PROMPT = {"text": "<|im_start|>user\n…", "tokens": [{"id": 1, "text": "<|im_start|>", "special": True}]}


class Answering:
    """Answers ``<b>Meat</b>`` to everything; ``asked`` are the bodies it was sent. Close it."""

    def __init__(self, token: str = "") -> None:
        self.asked: list[dict[str, Any]] = []
        self.token = token
        self.pieces = ["<b>", "Meat", "</b>"]
        self.models: list[dict[str, Any]] = [
            {"id": "base", "checkpoints": []},
            {"id": "run-1", "name": "foods", "base_model": "tiny", "checkpoints": [10, 20]},
        ]
        self.gone = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Silent."""

            def do_GET(self) -> None:
                outer.get(self)

            def do_POST(self) -> None:
                outer.post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def get(self, request: BaseHTTPRequestHandler) -> None:
        self.reply(request, {"data": self.models} if request.path == "/v1/models" else {"instance": INSTANCE})

    def post(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.asked.append(body)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.reply(
                request, {"error": {"message": "A token is required.", "code": "unauthorized"}}, 401
            )
        if body["messages"][-1]["content"] == "refuse":
            return self.reply(request, {"error": {"message": "Too long.", "code": "too-long"}}, 400)
        if request.path.endswith("token-view"):
            return self.reply(request, {"prompt": PROMPT, "answer": {"text": "Meat!", "tokens": TOKENS}})
        if request.path.endswith("compare"):
            side = {"model": "run-1", "text": "<b>Meat!", "finish_reason": "stop", "tokens": TOKENS}
            found = {"prompt": PROMPT, "tuned": side, "base": side | {"model": "base"}}
            return self.reply(request, found | {"first_difference": 1, "divergence": [], "mean_kl": 0.5})
        if body.get("stream"):
            return self.stream(request)
        message = {"role": "assistant", "content": "".join(self.pieces)}
        return self.reply(request, {"choices": [{"message": message}]})

    def reply(self, request: BaseHTTPRequestHandler, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def stream(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            for piece in self.pieces:
                event = json.dumps({"choices": [{"delta": {"content": piece}}]})
                request.wfile.write(f": comment\n\ndata: {event}\n\n".encode())
                request.wfile.flush()
            request.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.gone.set()

    @contextmanager
    def standing_in(self, root: Path) -> Iterator[None]:
        """Be the server that a studio over ``root`` finds; nobody may ask it to end, for it is this process."""
        folder = root / ".server"
        folder.mkdir(parents=True)
        process = asdict(identify(os.getpid()))
        record = {"process": process, "port": self._server.server_port, "instance": INSTANCE}
        write_json_durably(folder / "server.json", record)
        with hold_lock(folder / "alive.lock"):
            yield

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
