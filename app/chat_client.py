"""A client of our inference server: the OpenAI protocol over HTTP, with the standard library only.

Closing a stream closes its connection, which makes the server stop within one token.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.views.text import title_of
from backend.errors import InferenceError

TIMEOUT_SECONDS = 600.0
Message = Mapping[str, str]


@dataclass(frozen=True)
class ServedModel:
    """A model of the server: ``id`` is its name in requests, ``checkpoints`` are the steps it can be asked at."""

    id: str
    name: str = ""
    base_model: str = ""
    checkpoints: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """The name that the person gave, or the id without the date."""
        return title_of(
            self.id, "" if self.name == self.id else self.name
        )  # unnamed, a model's name is its id


class ChatClient:
    """Sends requests to the server at ``url`` (``http://127.0.0.1:PORT/v1``), with ``token`` if there is one."""

    def __init__(self, url: str, token: str = "", timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = timeout_seconds

    def models(self) -> list[ServedModel]:
        """Return the models of the server. Raises InferenceError."""
        found = self._ask("GET", "/v1/models").get("data", [])
        return [
            ServedModel(
                id=str(one["id"]),
                name=str(one.get("name") or ""),
                base_model=str(one.get("base_model") or ""),
                checkpoints=tuple(int(step) for step in one.get("checkpoints") or ()),
            )
            for one in found
        ]

    def answer(self, model: str, messages: Sequence[Message], **options: Any) -> str:
        """Return a whole answer. Raises InferenceError."""
        body = {"model": model, "messages": list(messages), **options}
        choices = self._ask("POST", "/v1/chat/completions", body).get("choices") or [{}]
        return str(choices[0].get("message", {}).get("content") or "")

    def stream(self, model: str, messages: Sequence[Message], **options: Any) -> Generator[str, None, None]:
        """Yield an answer in pieces as they come; close the generator to stop it. Raises InferenceError."""
        body = {"model": model, "messages": list(messages), "stream": True, **options}
        connection = self._connection(self._timeout)
        try:
            for event in self._events(self._send(connection, "POST", "/v1/chat/completions", body)):
                for choice in event.get("choices") or ():
                    piece = choice.get("delta", {}).get("content")
                    if piece:
                        yield str(piece)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error) from error
        finally:
            connection.close()

    def token_view(self, model: str, messages: Sequence[Message], **options: Any) -> dict[str, Any]:
        """Return the exact prompt and the probability of each token of an answer. Raises InferenceError."""
        return self._ask(
            "POST", "/tunesmith/v1/token-view", {"model": model, "messages": list(messages), **options}
        )

    def compare(self, model: str, messages: Sequence[Message], **options: Any) -> dict[str, Any]:
        """Return the answers of base and tuned model with the same seed. Raises InferenceError."""
        return self._ask(
            "POST", "/tunesmith/v1/compare", {"model": model, "messages": list(messages), **options}
        )

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            with closing(self._connection(self._timeout)) as connection:
                value = json.loads(self._send(connection, method, path, body).read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(error) from error
        return value if isinstance(value, dict) else {}

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
    ) -> http.client.HTTPResponse:
        connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        response = connection.getresponse()
        if response.status >= 400:
            raise _refused(response.status, response.read())
        return response

    def _events(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of server-sent events up to ``[DONE]``."""
        for line in response:
            text = line.decode("utf-8", "replace").strip()
            if not text.startswith("data:"):
                continue
            data = text.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            try:
                event = json.loads(data)
            except ValueError as error:
                raise _unreachable(error) from error
            if "error" in event:
                raise _refused(500, data.encode())
            yield event


def _refused(status: int, body: bytes) -> InferenceError:
    try:
        error = json.loads(body)["error"]
        message, code = str(error["message"]), str(error.get("code") or status)
    except (ValueError, KeyError, TypeError):
        message, code = f"The server answered {status}.", str(status)
    return InferenceError(message, remedy="", code=code)


def _unreachable(error: Exception) -> InferenceError:
    return InferenceError(
        f"The inference server does not answer ({type(error).__name__}).",
        remedy="Start it again; what you typed is kept.",
        code="server-unreachable",
    )
