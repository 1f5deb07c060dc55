"""Runs as cards: app/views/cards.py."""

from __future__ import annotations

from backend.manager.run_manager import RunManager
from tests.app.conftest import OpenPage
from tests.app.reading import texts, unescaped
from tests.app.states import Runs
from tests.app.views.drawing import drawn


def test_a_card_says_what_is_known_and_nothing_else(open_page: OpenPage, runs: Runs) -> None:
    running, new = runs.running(), runs.created("new")
    RunManager(runs.root).tag(running.id, add=["food"])
    captions = [unescaped(one.value) for one in open_page("run").caption]
    reached = "step 40 of 100 · loss 0.7364 · held\u2011out 0.924"
    assert sorted(each.replace("\u00a0", " ") for each in captions) == [
        "smollm2-135m · lora · just now",
        "smollm2-135m · lora · just now · #food",
        reached,
    ]
    assert new.id != running.id


def test_a_card_names_a_method_that_is_not_the_usual_one(open_page: OpenPage, runs: Runs) -> None:
    runs.preferring()
    captions = " ".join(unescaped(one.value) for one in open_page("run").caption)
    assert "smollm2-135m · DPO · lora · just now" in captions


def test_its_name_leads_to_it(open_page: OpenPage, runs: Runs) -> None:
    run = runs.finished()
    (link,) = [one for one in open_page("home").get("page_link") if "finished" in one.proto.label]
    assert link.proto.query_string == f"run={run.id}"


def test_the_bar_is_there_until_it_is_full(open_page: OpenPage, runs: Runs) -> None:
    runs.finished()
    runs.stopped()
    assert [bar.proto.value for bar in open_page("run").get("progress")] == [40]


def test_an_empty_place() -> None:
    shown = drawn("cards.draw_nothing_yet", "No runs yet", "Start one.")
    assert {"**No runs yet**", "Start one."} <= set(texts(shown))
    assert len(shown.image) == 1
