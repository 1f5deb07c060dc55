"""The client of the inference server: app/chat_client.py, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.chat_client import ChatClient, ServedModel
from backend.errors import InferenceError
from tests.app.answering import Answering

ASKED = [{"role": "user", "content": "food pork"}]

RUN = "20261122-171102-food-6fff"


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
        yield answering


@pytest.fixture
def client(server: Answering) -> ChatClient:
    return ChatClient(server.url)


def test_models_with_their_names_and_checkpoints(client: ChatClient) -> None:
    assert client.models() == [ServedModel("base"), ServedModel("run-1", "foods", "tiny", (10, 20))]
    assert [model.title for model in client.models()] == ["base", "foods"]
    assert ServedModel(RUN, RUN).title == "food-6fff"


def test_an_answer_and_what_was_sent_for_it(client: ChatClient, server: Answering) -> None:
    assert client.answer("run-1", ASKED, temperature=0.5, seed=3) == "<b>Meat</b>"
    assert server.asked == [{"model": "run-1", "messages": ASKED, "temperature": 0.5, "seed": 3}]


def test_a_stream_comes_in_pieces(client: ChatClient, server: Answering) -> None:
    assert list(client.stream("run-1", ASKED)) == ["<b>", "Meat", "</b>"]
    assert server.asked[0]["stream"] is True


def test_closing_a_stream_closes_its_connection(client: ChatClient, server: Answering) -> None:
    server.pieces = ["x" * 1000] * 100_000
    stream = client.stream("run-1", ASKED)
    assert next(stream)
    stream.close()
    assert server.gone.wait(20)


def test_token_view_and_compare(client: ChatClient) -> None:
    assert client.token_view("run-1", ASKED, top=5)["answer"]["tokens"][0]["probability"] == 0.9
    assert client.compare("run-1", ASKED)["first_difference"] == 1


def test_the_token_is_sent_and_its_lack_is_a_sentence() -> None:
    with Answering("secret") as server:
        assert ChatClient(server.url, "secret").answer("base", ASKED) == "<b>Meat</b>"
        with pytest.raises(InferenceError, match="A token is required") as caught:
            ChatClient(server.url).answer("base", ASKED)
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize("way", ["answer", "stream", "token_view", "compare"])
def test_what_the_server_refuses_comes_in_its_words(client: ChatClient, way: str) -> None:
    with pytest.raises(InferenceError, match=r"Too long\.") as caught:
        list(getattr(client, way)("base", [{"role": "user", "content": "refuse"}]))
    assert caught.value.code == "too-long"


@pytest.mark.parametrize("way", ["answer", "stream"])
def test_nobody_there(server: Answering, way: str) -> None:
    client = ChatClient(server.url, timeout_seconds=2)
    server.close()
    with pytest.raises(InferenceError) as caught:
        list(getattr(client, way)("base", ASKED))
    assert caught.value.code == "server-unreachable"
