"""The page Playground: app/pages/playground.py, over a server on a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock, create_autospec

import pytest
from streamlit.testing.v1 import AppTest

from app import serving
from backend.errors import RunError
from backend.manager.server_manager import InferenceServer, ServerManager
from backend.utils.process_utils import ProcessIdentity
from tests.app.answering import Answering
from tests.app.conftest import OpenPage
from tests.app.reading import unescaped
from tests.app.waiting import texts
from tests.runs import write_rows


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
        yield answering


@pytest.fixture
def manager(server: Answering, monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A manager whose server is the one above, running already."""
    port = int(server.url.split(":")[2].partition("/")[0])
    found = InferenceServer(ProcessIdentity(4242, 1, "x"), port, "instance")
    manager: MagicMock = create_autospec(ServerManager, instance=True)
    manager.find.return_value = found
    monkeypatch.setattr(serving, "manager", lambda: manager)
    return manager


def press(app: AppTest, label: str) -> AppTest:
    return next(button for button in app.button if button.label == label).click().run()


def choose(app: AppTest, way: str) -> AppTest:
    return app.radio(key="way").set_value(way).run()


def test_without_a_server_there_is_a_way_to_start_it(open_page: OpenPage, manager: MagicMock) -> None:
    found = manager.find.return_value
    manager.find.return_value = None
    manager.start.side_effect = lambda: setattr(manager.find, "return_value", found)
    app = open_page("playground")
    assert "The server is not running" in texts(app)
    press(app, "Start the server")
    assert app.chat_input


def test_a_server_that_does_not_start_says_why(open_page: OpenPage, manager: MagicMock) -> None:
    manager.find.return_value = None
    manager.start.side_effect = RunError("No memory.", remedy="Close something.", code="server-failed")
    app = press(open_page("playground"), "Start the server")
    assert "No memory" in app.error[0].value


def test_stopping_the_server(open_page: OpenPage, manager: MagicMock) -> None:
    app = open_page("playground")
    manager.stop.side_effect = lambda: setattr(manager.find, "return_value", None)
    press(app, "Stop the server")
    assert "The server is not running" in texts(app)


def test_it_begins_with_questions_out_of_the_runs_held_out_rows(
    open_page: OpenPage, manager: MagicMock, server: Answering, root: Path
) -> None:
    samples = root / "runs" / "run-1" / "samples.jsonl"
    prompts = ["food *pork*", "food plum", "food *pork*", "", 7, *(f"food {n}" for n in range(9))]
    samples.parent.mkdir(parents=True)
    write_rows(samples, [{"step": 5, "row": "x", "prompt": prompt} for prompt in prompts[::-1]])
    app = open_page("playground")
    offered = [button for button in app.button if (button.key or "").startswith("suggested")]
    assert [unescaped(each.label) for each in offered] == ["food *pork*", "food plum", "food 0"]
    offered[0].click().run()
    assert [each.value for each in app.text] == ["food *pork*", "<b>Meat</b>"]
    assert server.asked[0]["messages"][-1]["content"] == "food *pork*"
    assert "What will it say?" not in texts(app)


def test_the_base_is_asked_what_a_run_held_out(open_page: OpenPage, manager: MagicMock, root: Path) -> None:
    samples = root / "runs" / "run-1" / "samples.jsonl"
    samples.parent.mkdir(parents=True)
    write_rows(samples, [{"step": 5, "row": "x", "prompt": "food plum"}])
    app = open_page("playground", run="base")
    assert [each.label for each in app.button if (each.key or "").startswith("suggested")] == ["food plum"]


@pytest.mark.parametrize("model", ["base", "run-1", "../run-1"])
def test_without_held_out_rows_there_are_questions_for_any_model(
    open_page: OpenPage, manager: MagicMock, server: Answering, model: str
) -> None:
    server.models.append({"id": "../run-1"})
    app = open_page("playground", run=model)
    assert "or begin with one of these:" in unescaped(texts(app))
    app.button(key="suggested 0").click().run()
    assert "sky" in server.asked[0]["messages"][-1]["content"]


def test_a_conversation_goes_to_and_fro(open_page: OpenPage, manager: MagicMock, server: Answering) -> None:
    app = open_page("playground")
    app.text_area(key="system words").set_value("Be brief.").run()
    app.chat_input[0].set_value("food pork").run()
    app.chat_input[0].set_value("and plum?").run()
    assert [each.value for each in app.text] == ["food pork", "<b>Meat</b>", "and plum?", "<b>Meat</b>"]
    sent = server.asked[1]
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (sent["model"], sent["temperature"], sent["seed"], sent["max_tokens"]) == ("run-1", 0.0, 42, 256)
    assert "adapter_strength" not in sent
    press(app, "Start over")
    assert not app.text


def test_checkpoint_and_strength(open_page: OpenPage, manager: MagicMock, server: Answering) -> None:
    app = open_page("playground")
    app.select_slider(key="checkpoint run-1").set_value(10).run()
    app.slider[0].set_value(0.5).run()
    app.chat_input[0].set_value("food pork").run()
    assert (server.asked[0]["model"], server.asked[0]["adapter_strength"]) == ("run-1@10", 0.5)


def test_the_base_has_neither(open_page: OpenPage, manager: MagicMock, server: Answering) -> None:
    app = open_page("playground")
    app.selectbox(key="chat model").set_value("base").run()
    assert not app.select_slider
    assert [each.label for each in app.slider] == ["Temperature"]


def test_what_the_server_refuses_is_a_sentence_and_the_talk_goes_on(
    open_page: OpenPage, manager: MagicMock, server: Answering
) -> None:
    app = open_page("playground")
    app.chat_input[0].set_value("refuse").run()
    assert "Too long" in app.error[0].value
    app.chat_input[0].set_value("food pork").run()
    assert app.text[-1].value == "<b>Meat</b>"
    assert [turn["content"] for turn in server.asked[1]["messages"]] == ["food pork"]


def test_an_answer_that_was_stopped_stays_as_far_as_it_came(open_page: OpenPage, manager: MagicMock) -> None:
    app = open_page("playground")
    app.session_state["draft playground"] = {"turns": [{"role": "user", "content": "tell me"}]}
    app.session_state["saying"] = "Once upon"
    app.run()
    assert [each.value for each in app.text] == ["tell me", "Once upon"]
    assert "Stopped." in texts(app)


def test_a_talk_outlives_a_reload_of_the_browser(open_page: OpenPage, manager: MagicMock) -> None:
    app = open_page("playground")
    app.chat_input[0].set_value("food pork").run()
    said = [each.value for each in app.text]
    again = open_page("playground")
    assert [each.value for each in again.text] == said
    press(again, "Start over")
    assert not open_page("playground").text


def test_side_by_side(open_page: OpenPage, manager: MagicMock) -> None:
    app = choose(open_page("playground"), "Side by side")
    press(app, "Ask both")
    assert app.warning[0].value == "Write a prompt first."
    app.text_area(key="prompt sides").set_value("food pork").run()
    press(app, "Ask both")
    assert [each.value for each in app.text] == ["<b>Meat!", "<b>Meat!"]
    assert "0.500 nats" in texts(app)
    assert app.code[0].value.startswith("<|im_start|>user")


def test_tokens_with_their_probabilities_and_the_exact_prompt(
    open_page: OpenPage, manager: MagicMock, server: Answering
) -> None:
    app = choose(open_page("playground"), "Tokens")
    app.text_area(key="prompt tokens").set_value("food pork").run()
    app.text_input(key="judged").set_value("Meat").run()
    press(app, "Look")
    assert (server.asked[0]["answer"], server.asked[0]["top"]) == ("Meat", 5)
    assert app.dataframe[0].value["probability"].tolist() == [0.9, 0.1]
    assert app.code[0].value.startswith("<|im_start|>user")


def test_a_file_row_by_row_and_a_refused_one_loses_no_other(open_page: OpenPage, manager: MagicMock) -> None:
    app = choose(open_page("playground"), "A file")
    app.file_uploader[0].set_value(("p.txt", b"one\nrefuse\nthree\nfour\nfive\n", "text/plain")).run()
    assert "5 prompts" in texts(app)
    press(app, "Answer them all")
    rows = app.dataframe[0].value.to_dict("records")
    assert [row["prompt"] for row in rows] == ["one", "refuse", "three", "four", "five"]
    assert [row["answer"] for row in rows] == ["<b>Meat</b>", "", *["<b>Meat</b>"] * 3]
    assert rows[1]["error"] == "Too long."
    assert len(app.get("download_button")) == 1
    assert json.loads(json.dumps(app.session_state["answers"]))


def test_a_file_that_cannot_be_asked_says_why(open_page: OpenPage, manager: MagicMock) -> None:
    app = choose(open_page("playground"), "A file")
    app.file_uploader[0].set_value(("p.txt", b"", "text/plain")).run()
    assert "no prompt" in app.error[0].value


def test_w26_two_sessions_do_not_share_a_talk(open_page: OpenPage, manager: MagicMock) -> None:
    one, other = open_page("playground"), open_page("playground")
    one.chat_input[0].set_value("food pork").run()
    assert not other.run().text
