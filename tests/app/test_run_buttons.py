"""Which run an address means, and TensorBoard: app/run_buttons.py. The rest is pressed in pages/test_run.py."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import create_autospec

import pytest

from app.run_buttons import Chosen
from app.studio import studio
from backend.errors import RunError
from backend.manager.tensorboard_manager import TensorBoardManager, TensorBoardServer
from backend.utils.process_utils import ProcessIdentity
from tests.app.conftest import OpenPage
from tests.app.reading import texts
from tests.app.states import Runs


def test_a_whole_id_names_a_run(runs: Runs) -> None:
    run = runs.finished("mine")
    chosen = Chosen.of(studio(), run.id)
    assert (chosen.run, chosen.state, chosen.title) == (run, run.state(), run.id.split("-", 2)[2])


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "a/b", "\x00", "x" * 5000, "no-such"])
def test_nothing_else_does(runs: Runs, name: str) -> None:
    runs.finished()
    with pytest.raises(RunError, match="There is no run"):
        Chosen.of(studio(), name)


def test_a_folder_beside_the_runs_is_out_of_reach(root: Path, runs: Runs) -> None:
    run = runs.finished()
    run.path.rename(root / run.id)
    with pytest.raises(RunError, match="There is no run"):
        Chosen.of(studio(), f"../{run.id}")


def test_tensorboard_is_started_and_its_address_shown(
    open_page: OpenPage, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = TensorBoardServer(ProcessIdentity(12345, 1, "boot"), 6006, "secret")
    monkeypatch.setattr(
        TensorBoardManager, "start", create_autospec(TensorBoardManager.start, return_value=server)
    )
    run = runs.finished()
    run.tensorboard.mkdir()
    page = open_page("run", run=run.id)
    page.button(key="tensorboard").click().run()
    (link,) = page.get("link_button")
    assert link.proto.url == "http://127.0.0.1:6006/secret/"


def test_a_tensorboard_that_does_not_start_is_told(
    open_page: OpenPage, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = RunError("TensorBoard did not start.", remedy="See doctor.", code="tensorboard-failed")
    monkeypatch.setattr(
        TensorBoardManager, "start", create_autospec(TensorBoardManager.start, side_effect=wrong)
    )
    run = runs.finished()
    run.tensorboard.mkdir()
    page = open_page("run", run=run.id)
    page.button(key="tensorboard").click().run()
    assert "TensorBoard did not start" in page.error[0].value


def test_a_question_belongs_to_its_run(open_page: OpenPage, runs: Runs) -> None:
    first, second = runs.stopped(), runs.finished()
    page = open_page("run", run=first.id)
    page.button(key="delete").click().run()
    assert "**Keep" not in " ".join(texts(page))
    page.query_params["run"] = second.id
    page.run()
    assert "yes" not in {button.key for button in page.button}
