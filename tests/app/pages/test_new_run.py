"""The page New run: app/pages/new_run.py."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from app import commands
from app.uploads import keep
from app.views.text import title_of
from backend.manager import process_manager
from backend.manager.queue_manager import QueueManager
from backend.run.folder import RunDir
from tests.app.conftest import OpenPage
from tests.app.reading import unescaped
from tests.app.states import Runs
from tests.app.test_forms import widget
from tests.app.test_hostile import EVIL, assert_only_shown
from tests.app.waiting import press, settled, texts
from tests.runs import DISTINCT, write_rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "foods.jsonl", DISTINCT)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunDir]:
    """What was started, without a trainer."""
    runs: list[RunDir] = []
    starter = create_autospec(process_manager.start, side_effect=lambda run, **_: runs.append(run))
    monkeypatch.setattr(process_manager, "start", starter)
    return runs


def filled(open_page: OpenPage, data: Path, model: Path) -> AppTest:
    app = open_page("new_run")
    widget(app, "model.model_name_or_path").set_value(str(model)).run()
    widget(app, "data.train").set_value(str(data)).run()
    return settled(app)


def steps(app: AppTest) -> int:
    """The steps that the estimate speaks of."""
    found = re.search(r"(\d+) steps", texts(app))
    assert found
    return int(found[1])


def pinned(run: RunDir) -> dict[str, str]:
    """The SHA-256 of its data that a run goes by."""
    return dict(yaml.safe_load(run.read_config_text())["data"]["sha256"])


def test_an_empty_page_scolds_nobody_and_starts_nothing(open_page: OpenPage) -> None:
    app = open_page("new_run")
    assert not app.error
    assert "Still missing or wrong: Training data." in unescaped(texts(app))
    assert [each.disabled for each in app.button if each.label in {"Start now", "Add to the queue"}] == [
        True
    ] * 2
    assert "135 M parameters · Apache" in texts(app).replace("\\", "")
    assert not app.code


def test_the_first_choice_alone_scolds_nobody(open_page: OpenPage) -> None:
    app = open_page("new_run")
    next(each for each in app.radio if each.label == "I have …").set_value("kto").run()
    assert not app.error


def test_a_model_that_is_here_is_chosen_from_a_list(
    open_page: OpenPage, runs: Runs, tiny_folder: Path
) -> None:
    title = title_of(runs.finished("pork", model=str(tiny_folder)).id)
    app = open_page("new_run")
    (here,) = [each for each in app.selectbox if each.label == "Or one already here"]
    assert "smollm2-135m · comes with Tunesmith" in here.options
    here.select(f"{tiny_folder.name} · base of {title}").run()
    assert widget(app, "model.model_name_or_path").value == str(tiny_folder)
    assert "tokens of context" in texts(app)


def test_data_given_before_is_chosen_from_a_list(open_page: OpenPage, root: Path) -> None:
    given = keep(root, "foods.jsonl", b"{}")
    app = open_page("new_run")
    (before,) = [each for each in app.selectbox if each.label == "Or a file you gave before"]
    before.set_value(str(given)).run()
    assert widget(app, "data.train").value == str(given)
    widget(app, "data.train").set_value("other.jsonl").run()
    (before,) = [each for each in app.selectbox if each.label == "Or a file you gave before"]
    assert before.value is None


def test_what_it_will_cost_follows_what_is_typed(open_page: OpenPage, data: Path, tiny_folder: Path) -> None:
    app = filled(open_page, data, tiny_folder)
    assert {"Time", "Memory", "Disk"} <= {each.value for each in app.markdown}
    before = steps(app)
    widget(app, "training.num_train_epochs").set_value("50").run()
    assert steps(app) == 25 * before


def test_problems_stand_beside_their_fields(open_page: OpenPage, data: Path, tiny_folder: Path) -> None:
    app = filled(open_page, data, tiny_folder)
    widget(app, "training.learning_rate").set_value("-1").run()
    assert any("-1" in each.value.replace("\\", "") for each in app.error)
    assert "Still missing or wrong: Learning rate." in unescaped(texts(app))
    widget(app, "training.learning_rate").set_value("").run()
    assert not settled(app).error


def test_data_that_cannot_be_used_is_said_before_the_start(
    open_page: OpenPage, tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    app = filled(open_page, tmp_path / "empty.jsonl", tiny_folder)
    assert app.error
    assert next(each for each in app.button if each.label == "Start now").disabled


def test_rows_of_another_method_offer_it_and_then_fit(
    open_page: OpenPage, tmp_path: Path, tiny_folder: Path
) -> None:
    pairs = [{"prompt": f"food {n}", "chosen": f"a {n}", "rejected": f"b {n}"} for n in range(60)]
    app = filled(open_page, write_rows(tmp_path / "pairs.jsonl", pairs), tiny_folder)
    assert disabled(app) == [True, True]
    press(app, "Use DPO")
    assert not app.error
    assert disabled(app) == [False, False]
    assert "--objective.method=dpo" in app.code[0].value


def disabled(app: AppTest) -> list[bool]:
    return [each.disabled for each in app.button if each.label in {"Start now", "Add to the queue"}]


def test_what_the_data_check_stops_is_said_and_starts_only_by_a_decision(
    open_page: OpenPage, tmp_path: Path, tiny_folder: Path, started: list[RunDir]
) -> None:
    app = filled(open_page, write_rows(tmp_path / "twice.jsonl", [*DISTINCT, *DISTINCT]), tiny_folder)
    assert any("drop-duplicates leaves" in unescaped(each.value) for each in app.error)
    assert disabled(app) == [True, True]
    next(each for each in app.checkbox if each.label == "Train anyway").check().run()
    press(app, "Start now")
    (run,) = started
    assert yaml.safe_load(run.read_config_text())["data"]["accept"] == ["duplicates"]
    found = run.read_data_check()
    assert found.accepted == ("duplicates",)
    assert ("duplicates", "block") in [(each.check, each.level) for each in found.findings]


def test_an_estimate_that_fails_forbids_no_start(
    open_page: OpenPage, data: Path, tiny_folder: Path, started: list[RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = commands.Answer({}, "The command ended without an answer.", "Try again.", "no-answer")
    failed = create_autospec(commands.Command, instance=True, answer=broken, seconds=1.0)
    monkeypatch.setattr(commands, "Command", lambda *_: failed)
    app = filled(open_page, data, tiny_folder)
    assert disabled(app) == [False, False]
    press(app, "Start now")
    assert len(started) == 1


@pytest.mark.parametrize("changed", ["held.jsonl", "foods.jsonl"])
def test_any_source_that_changes_is_looked_at_anew(
    open_page: OpenPage, tmp_path: Path, tiny_folder: Path, started: list[RunDir], changed: str
) -> None:
    data = write_rows(tmp_path / "foods.jsonl", DISTINCT)
    held = write_rows(
        tmp_path / "held.jsonl", [{"prompt": f"held {n}", "completion": "kind 1"} for n in range(9)]
    )
    app = filled(open_page, data, tiny_folder)
    widget(app, "data.validation").set_value(str(held)).run()
    settled(app)
    more = {"prompt": "one more", "completion": "kind 2"}
    path = tmp_path / changed
    path.write_text(f"{path.read_text()}{json.dumps(more)}\n")
    press(settled(app.run()), "Start now")
    assert pinned(started[0])[str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_presets_change_the_form_and_keep_the_data(
    open_page: OpenPage, data: Path, tiny_folder: Path
) -> None:
    app = filled(open_page, data, tiny_folder)
    press(app, "Long")
    assert widget(app, "training.num_train_epochs").value == "10"
    assert widget(app, "data.train").value == str(data)
    press(app, "Defaults")
    assert widget(app, "training.num_train_epochs").value == "2"
    assert widget(app, "data.train").value == str(data)


def test_the_command_and_the_file_are_always_there(
    open_page: OpenPage, data: Path, tiny_folder: Path
) -> None:
    app = filled(open_page, data, tiny_folder)
    command, file = (each.value for each in app.code)
    assert command.startswith("tunesmith train --")
    assert f"train: {data}" in file
    widget(app, "tuning.lora_r").set_value(8).run()
    assert "--tuning.lora_r=8" in app.code[0].value


def test_every_setting_is_there_in_expert_depth(open_page: OpenPage) -> None:
    from app.forms import settings

    app = open_page("new_run")
    app.radio(key="depth").set_value("Expert").run()
    assert all(widget(app, name) for name in settings())


def test_what_was_typed_outlives_another_page(open_page: OpenPage, data: Path, tiny_folder: Path) -> None:
    app = filled(open_page, data, tiny_folder)
    widget(app, "tuning.lora_r").set_value(8).run()
    app.switch_page("pages/help.py").run()
    app.switch_page("pages/new_run.py").run()
    assert widget(settled(app), "tuning.lora_r").value == 8


def test_start_starts_one_run_with_what_was_typed(
    open_page: OpenPage, data: Path, tiny_folder: Path, started: list[RunDir]
) -> None:
    app = filled(open_page, data, tiny_folder)
    widget(app, "tuning.lora_r").set_value(8).run()
    press(app, "Start now")
    (run,) = started
    assert "lora_r: 8" in run.read_config_text()
    assert run.id.partition("-foods-")[2]
    assert pinned(run) == {str(data): hashlib.sha256(data.read_bytes()).hexdigest()}


def test_nothing_starts_while_edited_data_is_looked_at_anew(
    open_page: OpenPage,
    data: Path,
    tiny_folder: Path,
    started: list[RunDir],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = filled(open_page, data, tiny_folder)
    reading = create_autospec(commands.Command, instance=True, answer=None, seconds=1.0)
    reading.last_line.return_value = ""
    monkeypatch.setattr(commands, "Command", lambda *_: reading)
    write_rows(data, DISTINCT[:-2])
    next(each for each in app.button if each.label == "Start now").click().run()
    assert not started
    assert all(each.disabled for each in app.button if each.label in {"Start now", "Add to the queue"})
    assert "Rows and model are read first." in texts(app)


def test_w7_a_second_run_needs_no_reload(
    open_page: OpenPage, data: Path, tiny_folder: Path, started: list[RunDir]
) -> None:
    app = filled(open_page, data, tiny_folder)
    press(app, "Start now")
    app.switch_page("pages/new_run.py").run()
    press(settled(app), "Start now")
    assert len({run.id for run in started}) == 2


def test_queueing(
    open_page: OpenPage, data: Path, tiny_folder: Path, root: Path, started: list[RunDir]
) -> None:
    (root / "runs").mkdir()
    QueueManager(root / "runs").set_slots("default", 0)
    app = filled(open_page, data, tiny_folder)
    press(app, "Add to the queue")
    (run,) = RunDir.all_under(root / "runs")
    assert run.ticket_file.exists()


def test_hostile_values_are_only_shown(open_page: OpenPage, tmp_path: Path) -> None:
    app = open_page("new_run")
    widget(app, "training.learning_rate").set_value(EVIL).run()
    widget(app, "model.model_name_or_path").set_value(EVIL).run()
    widget(app, "data.train").set_value(EVIL).run()
    assert_only_shown(settled(app))
    assert app.error
