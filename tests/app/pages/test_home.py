"""Home: what it shows of the runs, and the example in one click."""

from __future__ import annotations

import os
from unittest.mock import Mock, create_autospec

import pytest

from backend.errors import RunError
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.utils.machine_utils import available_cores
from tests.app.conftest import OpenPage
from tests.app.reading import badges, texts
from tests.app.states import Runs


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of a trainer."""
    fake = create_autospec(process_manager.start)
    monkeypatch.setattr(process_manager, "start", fake)
    return fake


def test_without_runs_it_shows_the_way(open_page: OpenPage) -> None:
    home = open_page("home")
    assert "**No runs yet**" in texts(home)
    assert home.button(key="example").label == "Start the example"


def test_every_state_has_its_place_and_its_face(open_page: OpenPage, runs: Runs) -> None:
    runs.in_every_state()
    home = open_page("home")
    assert [head.value for head in home.header] == ["Running", "Queued", "Recent", "This machine"]
    shown = {"Starting", "Running", "Stopping", "Queued", "Stopped", "Interrupted", "Failed", "Finished"}
    assert shown | {"Damaged", "Not started"} <= set(badges(home))


def test_only_the_latest_are_recent(open_page: OpenPage, runs: Runs) -> None:
    for number in range(9):
        runs.created(f"run {number}")
    home = open_page("home")
    assert badges(home) == ["Not started"] * 6
    assert "All 9 runs" in texts(home)


@pytest.mark.parametrize(("key", "title"), [("new", "New run"), ("open", "Playground")])
def test_the_other_ways_in(open_page: OpenPage, key: str, title: str) -> None:
    home = open_page("home")
    home.button(key=key).click().run()
    assert home.title[0].value == title


def test_the_cores_are_those_that_a_run_may_use(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert open_page("home").metric[0].value == f"{available_cores()} cores"
    assert available_cores() <= 3


def test_what_the_machine_has(open_page: OpenPage) -> None:
    assert [one.label for one in open_page("home").metric][:4] == ["Processor", "Memory", "Disk", "GPU"]


class TestExample:
    def test_one_click_starts_it_and_leads_to_it(self, open_page: OpenPage, runs: Runs, start: Mock) -> None:
        home = open_page("home")
        home.button(key="example").click().run()
        (run,) = RunDir.all_under(runs.root)
        start.assert_called_once_with(run)
        assert home.query_params["run"] == run.id
        assert run.id.endswith(home.title[0].value.replace("\\", "").removeprefix("food-category"))

    def test_what_went_wrong_is_said_and_home_stays(self, open_page: OpenPage, start: Mock) -> None:
        start.side_effect = RunError("No *room*.", remedy="Make some.", code="disk-low")
        home = open_page("home")
        home.button(key="example").click().run()
        assert "No \\*room\\*\\." in home.error[0].value
        assert home.title[0].value == "Home"

    def test_w07_it_can_be_pressed_again(self, open_page: OpenPage, runs: Runs, start: Mock) -> None:
        for _ in range(2):
            open_page("home").button(key="example").click().run()
        assert [run.status() for run in RunDir.all_under(runs.root)] == [RunStatus.CREATED] * 2
        assert start.call_count == 2
