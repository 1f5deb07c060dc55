"""Runs of earlier formats stay readable, a folder for each format; one of a later format is refused in words.

Each folder holds a tiny model, its rows and three runs: finished, interrupted with a checkpoint, failed. They are
never written again: when a format changes, a new folder is added.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from backend import trainer_main
from backend.commands.cli import main
from backend.errors import ConfigError, RunError
from backend.inferencer import Inferencer
from backend.manager.explain import explain
from backend.manager.run_manager import RunManager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.training.checkpoint import newest_good
from tests.runs import lines, tree

FORMATS = sorted(path.name for path in Path(__file__).parent.iterdir() if path.name.isdecimal())


@pytest.fixture(params=FORMATS)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one format's folder, where its relative paths lead somewhere; its runs come back."""
    shutil.copytree(Path(__file__).parent / request.param, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old" / "all"


def named(runs: Path, name: str) -> RunDir:
    return RunDir.open(next(runs.glob(f"*-{name}-*")))


def test_there_are_old_formats() -> None:
    assert FORMATS[0] == "1"


def test_they_are_listed_as_what_they_are(old: Path) -> None:
    shown = {summary.id.split("-")[2]: summary for summary in RunManager(old).list()}
    assert {name: summary.status for name, summary in shown.items()} == {
        "finished": RunStatus.FINISHED,
        "interrupted": RunStatus.INTERRUPTED,
        "failed": RunStatus.FAILED,
    }
    assert {summary.damage for summary in shown.values()} == {""}
    assert (shown["finished"].step, shown["finished"].total_steps) == (4, 4)
    assert shown["finished"].method == "lora"
    assert shown["finished"].loss == pytest.approx(7.75, rel=0.5)


def test_looking_changes_nothing(old: Path) -> None:
    before = tree(old)
    RunManager(old).list()
    assert main(["runs", "show", named(old, "finished").id, "--runs", str(old)]) == 0
    assert explain(named(old, "failed")).headline
    assert {name: data for name, data in tree(old).items() if name in before} == before


def test_the_finished_one_answers(old: Path) -> None:
    with Inferencer(named(old, "finished")) as model:
        assert isinstance(model.infer("test input", max_new_tokens=4), str)


def test_the_interrupted_one_goes_on_from_its_checkpoint(old: Path) -> None:
    run = named(old, "interrupted")
    before = [line for line in lines(run.metrics_file) if line["step"] <= 2]
    assert trainer_main.run(run).status is RunStatus.FINISHED
    assert [line for line in lines(run.metrics_file) if line["step"] <= 2] == before
    steps = [line["step"] for line in lines(run.metrics_file) if line["kind"] == "train"]
    assert steps == [1, 2, 3, 4]
    finished = {
        line["step"]: line.get("train/loss", 0.0) for line in lines(named(old, "finished").metrics_file)
    }
    resumed = {line["step"]: line.get("train/loss", 0.0) for line in lines(run.metrics_file)}
    assert resumed == pytest.approx(finished, rel=1e-3)


def test_the_failed_one_says_why(old: Path) -> None:
    assert "data.max_length" in named(old, "failed").state().message


class TestLater:
    def test_a_later_configuration_is_refused_in_words(self, old: Path) -> None:
        run = named(old, "interrupted")
        run.config.write_text(run.config.read_text().replace("version: 1", "version: 99"))
        outcome = trainer_main.run(run)
        assert (outcome.status, outcome.code) == (RunStatus.FAILED, "bad-config")
        assert "version: 99 is a format that this version does not read" in outcome.message
        assert run.newest_checkpoint_step() == 2
        with pytest.raises(ConfigError, match="Use the version of Tunesmith that wrote it"):
            Inferencer(run)

    def test_a_later_checkpoint_is_refused_and_not_trained_over(self, old: Path) -> None:
        run = named(old, "interrupted")
        folder = run.checkpoint(2)
        state = folder / "trainer_state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"version": 99}))
        trainer_state = {"bytes": state.stat().st_size, "sha256": _sha256(state)}
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["trainer_state.json"] = trainer_state
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(RunError, match="format 99"):
            newest_good(run.checkpoints)
        outcome = trainer_main.run(run)
        assert (outcome.status, outcome.code) == (RunStatus.FAILED, "foreign-checkpoint")
        assert run.newest_checkpoint_step() == 2


def _sha256(path: Path) -> str:
    from backend.utils.file_utils import sha256_file

    return sha256_file(path)
