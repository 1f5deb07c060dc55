"""A real server in a thread of the tests' own process, over one trained run."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from backend.run.folder import RunDir
from backend.server.catalogue import Catalogue
from backend.server.engine import Engine, Limits
from backend.server.metrics import Metrics
from backend.server.process import ServerOptions, opened
from backend.server.service import Service

QUESTION = [{"role": "user", "content": "test input"}]


@dataclass(frozen=True)
class Reply:
    """The response to one request."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        """The error, in OpenAI's shape and nothing else."""
        assert set(self.json) == {"error"}
        found: dict[str, Any] = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert found["message"].endswith(".")
        return found


@dataclass(frozen=True)
class Server:
    """Where it answers, and what it serves."""

    port: int
    run: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request; ``body`` is sent as it is when it is bytes, else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, sent, {**kind, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, text)
        finally:
            connection.close()

    def chat(self, **fields: Any) -> Reply:
        """A chat completion; greedy, of the run, unless ``fields`` say otherwise."""
        asked = {"model": self.run, "messages": QUESTION, "temperature": 0, **fields}
        return self.ask("POST", "/v1/chat/completions", asked)

    def say(self, **fields: Any) -> str:
        """The text of a chat completion that must succeed."""
        reply = self.chat(**fields)
        assert reply.status == 200, reply.text
        return str(reply.json["choices"][0]["message"]["content"])

    def metric(self, name: str) -> float:
        """One number of ``/metrics``, labels summed."""
        lines = self.ask("GET", "/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


@pytest.fixture(scope="session")
def server(trained: RunDir) -> Iterator[Server]:
    """Serves the runs beside the trained one; read only."""
    with opened(ServerOptions(root=trained.path.parent, port=0)) as (uvicorn, listener):
        thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        running = Server(listener.getsockname()[1], trained.id)
        running.say()  # loads the model and starts the threads, which are not a test's own
        yield running
        uvicorn.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture
def service() -> Iterator[Service]:
    """A service without models, its engine at work."""
    metrics = Metrics()
    engine = Engine(Limits(), metrics)
    engine.start()
    made = Service(engine, Catalogue(None), metrics, 5.0, "me", "1")
    yield made
    made.close()
