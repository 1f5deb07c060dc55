"""The queue: its order, what moves in it, and what leaves."""

from __future__ import annotations

from unittest.mock import Mock, create_autospec

import pytest
from streamlit.testing.v1 import AppTest

from backend.manager import process_manager, queue_watch
from backend.manager.queue_manager import QueueManager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.app.conftest import OpenPage
from tests.app.reading import badges, texts
from tests.app.states import Runs


@pytest.fixture
def three(runs: Runs) -> list[RunDir]:
    """Three runs that wait."""
    return [runs.queued(name) for name in ("first", "second", "third")]


@pytest.fixture(autouse=True)
def start(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of a trainer, for queues made from here on; nor does a process watch them."""
    fake = create_autospec(process_manager.start)
    monkeypatch.setattr(QueueManager.__init__, "__defaults__", (fake,))
    monkeypatch.setattr(queue_watch, "spawn_detached", create_autospec(queue_watch.spawn_detached))
    return fake


def order(runs: Runs) -> list[RunDir]:
    return [run for run, _ in QueueManager(runs.root).waiting()]


def press(page: AppTest, label: str, run: RunDir) -> AppTest:
    return page.button(key=f"{label}-{run.id}").click().run()


def test_nothing_waits(open_page: OpenPage) -> None:
    assert "**The queue is empty**" in texts(open_page("queue"))


def test_the_order_is_that_of_the_start(open_page: OpenPage, runs: Runs, three: list[RunDir]) -> None:
    urgent = runs.queued("urgent", priority=1)
    page = open_page("queue")
    shown = [link.proto.label for link in page.get("page_link") if "-" in link.proto.label]
    assert [name.strip("*").split("\\")[0] for name in shown] == ["urgent", "first", "second", "third"]
    assert order(runs) == [urgent, *three]
    assert [each for each in texts(page) if each.startswith("queued")] == [
        "queued just now · priority 1",
        *["queued just now · priority 0"] * 3,
    ]


@pytest.mark.parametrize(
    ("label", "moved", "expected"),
    [
        ("Earlier", 2, [0, 2, 1]),
        ("Later", 0, [1, 0, 2]),
        ("Raise priority", 2, [2, 0, 1]),
        ("Lower priority", 0, [1, 2, 0]),
        ("Remove", 1, [0, 2]),
    ],
)
def test_moves(
    open_page: OpenPage, runs: Runs, three: list[RunDir], label: str, moved: int, expected: list[int]
) -> None:
    page = press(open_page("queue"), label, three[moved])
    assert order(runs) == [three[place] for place in expected]
    assert len(badges(page)) == len(expected)


def test_the_ends_have_nowhere_to_go(open_page: OpenPage, three: list[RunDir]) -> None:
    page = open_page("queue")
    assert page.button(key=f"Earlier-{three[0].id}").disabled
    assert page.button(key=f"Later-{three[2].id}").disabled
    assert not page.button(key=f"Later-{three[0].id}").disabled
    for run in three:  # all of one priority: each of them could leave the others behind
        assert not page.button(key=f"Raise priority-{run.id}").disabled
        assert not page.button(key=f"Lower priority-{run.id}").disabled


def test_a_priority_that_leads_cannot_lead_more(open_page: OpenPage, runs: Runs, three: list[RunDir]) -> None:
    page = press(open_page("queue"), "Raise priority", three[0])
    assert page.button(key=f"Raise priority-{three[0].id}").disabled
    press(page, "Lower priority", three[2])
    assert page.button(key=f"Lower priority-{three[2].id}").disabled
    assert not page.button(key=f"Lower priority-{three[1].id}").disabled
    assert order(runs) == three


def test_hold_and_release(open_page: OpenPage, three: list[RunDir]) -> None:
    page = press(open_page("queue"), "Hold", three[1])
    assert badges(page) == ["Queued", "Held", "Queued"]
    assert badges(press(page, "Release", three[1])) == ["Queued", "Queued", "Queued"]


def test_removing_deletes_nothing(open_page: OpenPage, three: list[RunDir]) -> None:
    press(open_page("queue"), "Remove", three[0])
    assert three[0].status() is RunStatus.CREATED


def test_why_a_run_is_held_is_said(open_page: OpenPage, runs: Runs) -> None:
    run = runs.queued(hold=True)
    ticket = run.read_ticket()
    assert ticket
    run.write_ticket(type(ticket)(**{**vars(ticket), "note": "The disk is *full*."}))
    assert open_page("queue").warning[0].value == "The disk is \\*full\\*\\."


def test_what_has_its_turn_is_started_by_looking(
    start: Mock, open_page: OpenPage, three: list[RunDir]
) -> None:
    open_page("queue")
    start.assert_called_once_with(three[0])


def test_what_is_released_has_its_turn_without_another_word(
    start: Mock, open_page: OpenPage, runs: Runs
) -> None:
    run = runs.queued(hold=True)
    page = open_page("queue")
    start.assert_not_called()
    press(page, "Release", run)
    start.assert_called_with(run)


def test_a_slot_that_is_made_is_filled(start: Mock, open_page: OpenPage, runs: Runs) -> None:
    QueueManager(runs.root).set_slots("default", 0)
    run = runs.queued()
    page = open_page("queue")
    start.assert_not_called()
    page.number_input[0].set_value(2).run()
    start.assert_called_with(run)


def test_w06_a_busy_slot_starts_nothing(
    start: Mock, open_page: OpenPage, runs: Runs, three: list[RunDir]
) -> None:
    runs.running()
    open_page("queue").button(key="schedule").click().run()
    start.assert_not_called()


def test_slots(open_page: OpenPage, runs: Runs, three: list[RunDir]) -> None:
    page = open_page("queue")
    page.number_input[0].set_value(2).run()
    assert QueueManager(runs.root).slots()["default"] == 2
    assert page.number_input[0].value == 2


def test_a_run_that_left_meanwhile_is_no_error(open_page: OpenPage, three: list[RunDir]) -> None:
    page = open_page("queue")
    three[0].drop_ticket()
    page.button(key=f"Remove-{three[0].id}").click().run()
    assert badges(page) == ["Queued", "Queued"]
