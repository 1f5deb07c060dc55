"""Commands of ours as child processes: app/commands.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest
from streamlit.testing.v1 import AppTest

from app import commands as module
from app.commands import Answer, Command, Commands
from backend.manager.queue_manager import QueueManager
from tests.app.waiting import at_work, settled, texts
from tests.eventually import eventually
from tests.locks import Meeting, both, waits_for
from tests.runs import DISTINCT, write_rows

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The queue is that of ./runs, and whoever asks for it starts what waits there."""
    monkeypatch.chdir(tmp_path)


def done(command: Command) -> Answer:
    answer = command.wait(PATIENCE)
    assert answer is not None
    return answer


def page(words: list, version: str) -> None:  # type: ignore[type-arg]
    """A page that asks one thing."""
    import streamlit as st

    from app.commands import ask, show_failure

    answer = ask("Asking", words, version=version)
    if answer is None:
        st.caption("not yet")
    elif answer.ok:
        st.caption("answered")
    else:
        show_failure(answer, words=words, version=version)


def test_an_answer_is_the_commands_json(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    QueueManager(tmp_path / "runs").set_slots("mine", 3)
    answer = done(Command(["runs", "queue", "list"], PATIENCE))
    assert answer.ok
    assert answer.value["slots"]["mine"] == 3  # of no other folder's queue


def test_a_command_finds_what_the_person_put_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sitecustomize.py").write_text(f"open({str(tmp_path / 'found')!r}, 'x')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "theirs"))
    assert done(Command(["runs", "queue", "list"], PATIENCE)).ok
    assert (tmp_path / "found").exists()


def test_what_can_be_mended_comes_as_words() -> None:
    answer = done(Command(["train", "--training.max_steps=many"], PATIENCE))
    assert not answer.ok
    assert answer.code == "bad-config"
    assert "training.max_steps" in [problem.field for problem in answer.problems]


def test_what_to_do_is_said_as_in_the_studio() -> None:
    error = {
        "message": "It trains.",
        "remedy": "Give `out`.",
        "code": "x",
        "next_step": "watch",
        "about": "food",
    }
    assert (
        module._read(json.dumps({"error": error}), "", 2).remedy == "Give out. Its page shows how far it is."
    )
    problem = {"field": "data.train", "message": "is required.", "remedy": "Set `data.train=a.jsonl`."}
    error = {"message": "", "remedy": "", "code": "bad-config", "problems": [problem]}
    (read,) = module._read(json.dumps({"error": error}), "", 2).problems
    assert read.remedy == "Set data.train = a.jsonl."


def test_the_settings_that_an_error_names_come_with_their_values(tmp_path: Path, tiny_folder: Path) -> None:
    given = write_rows(tmp_path / "foods.jsonl", DISTINCT)
    words = ["estimate", f"--data.train={given}", f"--model.model_name_or_path={tiny_folder}"]
    answer = done(Command([*words, "--objective.method=dpo"], PATIENCE))
    assert answer.settings == {"objective.method": "sft"}
    assert "objective.method = sft" in answer.problems[0].message


def test_a_command_that_is_none_is_words_too() -> None:
    assert done(Command(["nonsense"], PATIENCE)).code == "bad-command"


def test_output_that_is_no_json_is_said_with_its_last_line(tmp_path: Path) -> None:
    answer = module._read("not json", "Traceback\nValueError: odd\n", 1)
    assert "ValueError: odd" in answer.message
    assert module._read("[1]", "", 3).message == "The command ended without an answer (exit code 3)."


def test_it_can_be_cancelled_and_leaves_no_child() -> None:
    command = Command(["doctor"], PATIENCE)
    command.cancel()
    assert done(command).code == "cancelled"
    assert done(command).message == "Cancelled. Finished parts are kept."
    assert command._process.poll() is not None


def test_an_answer_that_has_come_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_to_end = tmp_path / "python"
    slow_to_end.write_text("#!/bin/sh\necho '{\"copy\": 1}'\nexec tail -f /dev/null\n")
    slow_to_end.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(slow_to_end))
    command = Command(["data", "check"], PATIENCE)
    eventually(lambda: module._text(command._out))
    command.cancel()
    assert done(command) == Answer({"copy": 1})


def test_it_is_ended_when_it_takes_too_long() -> None:
    answer = done(Command(["doctor"], 0.01))
    assert answer.code == "timeout"


def test_the_same_question_is_asked_once_until_it_changes() -> None:
    kept = Commands()
    first = kept.start(["runs", "queue", "list"], "a", PATIENCE)
    assert kept.start(["runs", "queue", "list"], "a", PATIENCE) is first
    other = kept.start(["runs", "queue", "list"], "b", PATIENCE)
    assert other is not first
    kept.forget(["runs", "queue", "list"], "a")
    again = kept.start(["runs", "queue", "list"], "a", PATIENCE)
    assert again is not first
    for command in (first, other, again):
        done(command)
    assert at_work(kept) == []


def test_two_who_ask_the_same_at_once_start_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, started = Meeting(), create_autospec(Command)
    started.side_effect = lambda *_: meeting.wait() or Mock(Command, answer=None)
    monkeypatch.setattr(module, "Command", started)
    kept = Commands()
    both(*[lambda: kept.start(["doctor"], "", PATIENCE)] * 2)
    assert (meeting.happened, started.call_count) == (False, 1)
    assert waits_for(kept._guard, lambda: kept.forget(["doctor"], ""))


def test_old_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    kept = Commands()
    first = kept.start(["nonsense"], "1", PATIENCE)
    done(first)
    done(kept.start(["nonsense"], "2", PATIENCE))
    assert kept.start(["nonsense"], "1", PATIENCE) is not first
    for command in at_work(kept):
        done(command)


def test_a_page_waits_with_a_way_to_cancel_and_then_has_the_answer() -> None:
    app = AppTest.from_function(page, args=(["runs", "queue", "list"], ""), default_timeout=30).run()
    assert "not yet" in texts(app)
    assert [button.label for button in app.button] == ["Cancel"]
    assert "answered" in texts(settled(app))


def test_a_cancelled_command_can_be_tried_again() -> None:
    app = AppTest.from_function(page, args=(["doctor"], "x"), default_timeout=30).run()
    app.button[0].click().run()
    assert "Cancelled" in texts(settled(app))
    assert [button.label for button in app.button] == ["Try again"]
    app.button[0].click().run()
    settled(app)
    assert "answered" in texts(app)
