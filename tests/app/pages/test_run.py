"""A run's page in every state, its buttons and questions, and the list of all runs."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock, create_autospec

import pytest
from streamlit.testing.v1 import AppTest

import app.actions
from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.run_summary import read_labels
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.app.conftest import OpenPage
from tests.app.reading import badges, frames, texts, unescaped
from tests.app.states import STEPS, Runs

OpenRun = Callable[..., AppTest]
FACES = {
    "created": ("Not started", {"start", "queue", "labels", "delete"}),
    "queued": ("Queued", {"start", "labels", "delete"}),
    "starting": ("Starting", {"stop", "pause", "labels"}),
    "running": ("Running", {"stop", "pause", "labels"}),
    "stopping": ("Stopping", {"stop", "pause", "labels"}),
    "stopped": ("Stopped", {"start", "queue", "labels", "delete"}),
    "interrupted": ("Interrupted", {"start", "queue", "labels", "delete"}),
    "failed": ("Failed", {"start", "queue", "labels", "delete"}),
    "damaged": ("Damaged", {"start", "queue", "labels", "delete"}),
    "finished": ("Finished", {"playground", "export", "compare", "labels", "delete"}),
}


@pytest.fixture
def open_run(open_page: OpenPage) -> OpenRun:
    """Opens the page of one run, showing one of its bodies."""
    return lambda run, show="Curves": open_page("run", run=run.id, show=show)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of a trainer."""
    fake = create_autospec(process_manager.start)
    monkeypatch.setattr(process_manager, "start", fake)
    return fake


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of the stopping, which would signal processes."""
    fake = create_autospec(app.actions.stop_soon)
    monkeypatch.setattr("app.run_buttons.stop_soon", fake)
    return fake


def press(page: AppTest, *keys: str) -> AppTest:
    for key in keys:
        page.button(key=key).click().run()
    return page


def keys(page: AppTest) -> set[str]:
    return {button.key for button in page.button}


class TestFaces:
    @pytest.mark.parametrize("state", FACES)
    def test_state_and_what_can_be_done(self, open_run: OpenRun, runs: Runs, state: str) -> None:
        page = open_run(getattr(runs, state)())
        words, buttons = FACES[state]
        assert badges(page) == [words]
        assert keys(page) == buttons
        assert "tunesmith runs" not in unescaped(" ".join(texts(page)))  # there is a button for it

    def test_a_paused_run_and_a_held_one_say_so(self, open_run: OpenRun, runs: Runs) -> None:
        assert badges(open_run(runs.stopped(reason="paused"))) == ["Paused"]
        assert badges(open_run(runs.queued(hold=True))) == ["Held"]

    def test_w20_a_run_that_never_began_does_not_look_finished(self, open_run: OpenRun, runs: Runs) -> None:
        said = " ".join(texts(open_run(runs.created())))
        assert "Nothing has been started yet" in said
        assert "Finished" not in said

    @pytest.mark.parametrize("show", ["Samples", "Machine", "Log", "Details"])
    @pytest.mark.parametrize("state", FACES)
    def test_every_other_body_of_every_state_is_drawn(
        self, open_run: OpenRun, runs: Runs, state: str, show: str
    ) -> None:
        assert badges(open_run(getattr(runs, state)(), show)) == [FACES[state][0]]

    def test_w02_a_change_elsewhere_is_seen_at_the_next_look(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.running()
        page = open_run(run)
        run.request_stop()
        assert badges(page.run()) == ["Stopping"]


class TestWaysOn:
    @pytest.mark.parametrize(
        ("key", "title", "named"),
        [
            ("playground", "Playground", "run"),
            ("export", "Export", "run"),
            ("compare", "Compare", "runs"),
        ],
    )
    def test_what_one_does_with_a_trained_model(
        self, open_run: OpenRun, runs: Runs, key: str, title: str, named: str
    ) -> None:
        run = runs.finished()
        page = press(open_run(run), key)
        assert page.title[0].value == title
        assert page.query_params[named] == run.id

    @pytest.mark.parametrize("show", ["Curves", "Log"])
    def test_what_did_harm_is_branched_off(self, open_run: OpenRun, runs: Runs, show: str) -> None:
        run = runs.harmed()
        page = open_run(run, show)
        (said,) = (unescaped(one.value) for one in page.warning)
        assert "The result is worse than the untrained model" in said
        assert "branch from step 20" in said
        assert page.code[0].value == f"tunesmith runs resume {run.path} --from-step 20 --lower-lr 0.1"
        assert page.button(key="playground").proto.type == "secondary"

    def test_without_a_result_there_is_none(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.finished()
        run.adapter.rename(run.path / "elsewhere")
        assert keys(open_run(run)) == {"labels", "delete"}


class TestProgress:
    def test_steps_and_the_time_left(self, open_run: OpenRun, runs: Runs) -> None:
        page = open_run(runs.running())
        (bar,) = page.get("progress")
        assert bar.proto.text.startswith("Step 40 of 100 · 40% · about 31 s left (")
        assert bar.proto.value == 40

    def test_no_time_is_left_once_it_is_over(self, open_run: OpenRun, runs: Runs) -> None:
        (bar,) = open_run(runs.stopped()).get("progress")
        assert bar.proto.text == "Step 40 of 100 · 40%"

    def test_figures(self, open_run: OpenRun, runs: Runs) -> None:
        shown = {one.label: one.value for one in open_run(runs.running()).metric}
        assert shown["Loss"] == "0.7364"
        assert shown["Exact match"] == "75%"
        assert shown["Learning rate"] == "0.00012"

    def test_new_steps_are_read_at_the_next_look(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.running()
        page = open_run(run)
        with run.metrics_writer() as metrics:
            metrics.append(
                {"kind": "train", "step": 41, "total_steps": 100, "train/loss": 0.25, "seconds": 0.5}
            )
        shown = {one.label: one.value for one in page.run().metric}
        assert shown["Loss"] == "0.25"


class TestCurves:
    def test_the_losses_are_large_and_the_rest_is_small(self, open_run: OpenRun, runs: Runs) -> None:
        charts = open_run(runs.running()).get("vega_lite_chart")
        titles = ["Loss", "Learning rate", "Gradient norm", "Tokens a second", "Exact match"]
        assert [
            title for title in titles for one in charts if f'"text": "{title}"' in one.proto.spec
        ] == titles
        assert len(charts) == 5

    @pytest.mark.parametrize("axis", ["step", "epoch", "tokens", "time"])
    def test_along_any_axis(self, open_run: OpenRun, runs: Runs, axis: str) -> None:
        page = open_run(runs.running())
        page.selectbox(key="axis").set_value(axis).run()
        unit = {"step": "steps", "epoch": "epochs", "time": "seconds"}.get(axis, axis)
        assert f'"title": "{unit}"' in page.get("vega_lite_chart")[0].proto.spec

    def test_log_scale_smoothing_and_zoom(self, open_run: OpenRun, runs: Runs) -> None:
        page = open_run(runs.running())
        page.toggle(key="log").set_value(True).run()
        page.selectbox(key="smoothing").set_value("None").run()
        page.selectbox(key="part").set_value("Second half").run()
        chart = page.get("vega_lite_chart")[0].proto
        assert '"type": "log"' in chart.spec
        assert "between 20 and 40 steps" in chart.alt

    def test_before_the_first_step(self, open_run: OpenRun, runs: Runs) -> None:
        assert "The first curve appears with the first step." in texts(open_run(runs.starting()))


class TestBodies:
    def test_samples_over_time(self, open_run: OpenRun, runs: Runs) -> None:
        page = open_run(runs.finished(), "Samples")
        (rows,) = frames(page)
        assert [row["step"] for row in rows] == [20, 40, 60, 80, 100]
        assert [row["as expected"] for row in rows] == ["no", "no", "yes", "yes", "yes"]
        assert "Which section? pork" in texts(page)

    def test_what_the_machine_did(self, open_run: OpenRun, runs: Runs) -> None:
        charts = open_run(runs.running(), "Machine").get("vega_lite_chart")
        titles = {"Processor, percent", "Memory in use, GiB", "Disk free, GiB"}
        assert {one.proto.alt.partition(".")[0] for one in charts} == titles

    def test_a_failure_is_explained_in_plain_words(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.failed()
        said = unescaped(" ".join(texts(open_run(run, "Log"))))
        assert "Lower training.learning_rate, and look at the rows of that step." in said
        assert "Its rows: foods.jsonl:7." in said
        assert "step 12" in said

        assert f"tunesmith runs resume {run.path} --lower-lr 0.5 --skip-rows foods.jsonl:7" in said

    def test_configuration_command_and_folder(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.finished()
        codes = [one.value for one in open_run(run, "Details").code]
        assert codes[0] == f"tunesmith train {run.config}"
        assert codes[1] == str(run.path)
        assert codes[2] == run.read_config_text().rstrip()


class TestStopping:
    @pytest.mark.parametrize(("key", "reason"), [("stop", "stop-requested"), ("pause", "paused")])
    def test_it_asks_says_what_happens_and_then_asks_the_run(
        self, open_run: OpenRun, runs: Runs, stop: Mock, key: str, reason: str
    ) -> None:
        run = runs.running()
        page = press(open_run(run), key)
        said = unescaped(" ".join(texts(page)))
        assert f"(now step {STEPS} of 100), saves a checkpoint and ends." in said
        assert "Nothing is deleted." in said
        stop.assert_not_called()
        press(page, "yes")
        stop.assert_called_once_with(run, reason)

    def test_keep_training_does_nothing(self, open_run: OpenRun, runs: Runs, stop: Mock) -> None:
        page = press(open_run(runs.running()), "stop", "no")
        stop.assert_not_called()
        assert "yes" not in keys(page)


class TestStarting:
    def test_resume_names_the_checkpoint(self, open_run: OpenRun, runs: Runs, start: Mock) -> None:
        run = runs.stopped()
        page = press(open_run(run), "start")
        assert f"from its newest good checkpoint (step {STEPS})" in unescaped(" ".join(texts(page)))
        start.assert_not_called()
        press(page, "yes")
        start.assert_called_once_with(run)

    def test_the_second_of_two_is_told(self, open_run: OpenRun, runs: Runs, start: Mock) -> None:
        start.side_effect = RunError("It is worked on already.", remedy="Watch it.", code="already-running")
        page = press(open_run(runs.created()), "start", "yes")
        assert unescaped(page.error[0].value).startswith("It is worked on already.")

    def test_queue(self, open_run: OpenRun, runs: Runs) -> None:
        runs.running()
        run = runs.created()
        page = press(open_run(run), "queue")
        assert run.status() is RunStatus.QUEUED
        assert badges(page) == ["Queued"]


class TestLabels:
    def test_name_tags_note_and_archive(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.finished()
        page = press(open_run(run), "labels")
        page.text_input[0].set_value("second *try*")
        page.multiselect[0].set_value(["food", "<b>baseline"])
        page.text_area[0].set_value("half the rate")
        page.checkbox[0].set_value(True)
        page.button[-1].click().run()
        labels = read_labels(run)
        assert (labels.name, labels.note, labels.archived) == ("second *try*", "half the rate", True)
        assert labels.tags == ("<b>baseline", "food")
        assert unescaped(page.title[0].value) == "second *try*"

    def test_a_taken_name_is_refused_in_place(self, open_run: OpenRun, runs: Runs, root: object) -> None:
        other, run = runs.finished("first"), runs.finished("second")
        for name in (other, run):
            page = press(open_run(name), "labels")
            page.text_input[0].set_value("best")
            page.button[-1].click().run()
        assert "is called" in page.error[0].value
        page.text_input[0].set_value("latest")
        page.button[-1].click().run()
        assert "has a meaning of its own" in page.error[0].value
        assert read_labels(run).name == ""


class TestDeleting:
    def test_it_names_what_goes_and_takes_nothing_else(self, open_run: OpenRun, runs: Runs) -> None:
        kept, run = runs.finished("kept"), runs.finished("gone")
        page = press(open_run(run), "delete")
        said = unescaped(" ".join(texts(page)))
        assert str(run.path) in said
        assert "configuration, curves, samples, 1 checkpoint, trained adapter" in said
        assert "The training data stays." in said
        assert run.exists()
        press(page, "yes")
        assert RunDir.all_under(runs.root) == [kept]

    def test_keep_it(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.finished()
        press(open_run(run), "delete", "no")
        assert run.exists()

    def test_w13_a_run_that_began_meanwhile_is_refused(self, open_run: OpenRun, runs: Runs) -> None:
        run = runs.stopped()
        page = press(open_run(run), "delete")
        with run.lock():
            press(page, "yes")
            assert badges(page) == ["Running"]
        assert run.exists()
        assert "yes" not in keys(page.run())


class TestWhichRun:
    @pytest.mark.parametrize("name", ["nothing", "..", "../runs", "/etc", "a/b", "\x00", "x" * 300, "<b>"])
    def test_what_is_no_run_is_said_kindly(self, open_page: OpenPage, runs: Runs, name: str) -> None:
        runs.created()
        page = open_page("run", run=name)
        assert "There is no run" in page.warning[0].value


class TestList:
    def test_before_the_first_run(self, open_page: OpenPage) -> None:
        page = open_page("run")
        assert "**No runs yet**" in texts(page)
        assert not page.text_input

    def test_all_runs_with_their_states(self, open_page: OpenPage, runs: Runs) -> None:
        runs.in_every_state()
        assert sorted(badges(open_page("run"))) == sorted(words for words, _ in FACES.values())

    def test_search_and_status(self, open_page: OpenPage, runs: Runs) -> None:
        runs.in_every_state()
        page = open_page("run")
        page.selectbox(key="runs_status").set_value("failed").run()
        assert sorted(badges(page)) == ["Damaged", "Failed"]
        page.text_input(key="runs_text").set_value("-failed-").run()
        assert badges(page) == ["Failed"]
        page.text_input(key="runs_text").set_value("nowhere").run()
        assert "**No matching run**" in texts(page)

    def test_a_dozen_a_page(self, open_page: OpenPage, runs: Runs) -> None:
        for number in range(13):
            runs.created(f"run {number}")
        page = open_page("run")
        assert len(badges(page)) == 12
        page.get("pagination")[0].set_value(2).run()
        assert len(badges(page)) == 1

    def test_archived_ones_on_request(self, open_page: OpenPage, runs: Runs) -> None:
        from backend.manager.run_manager import RunManager

        RunManager(runs.root).archive(runs.finished().id)
        page = open_page("run")
        assert badges(page) == []
        page.toggle(key="runs_archived").set_value(True).run()
        assert badges(page) == ["Finished"]
