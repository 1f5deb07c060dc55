"""What lies where in a run folder: backend/run/files.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.run.files import RunFiles
from backend.run.methods import TUNINGS


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path / "a run")


def test_a_part_is_a_path_of_its_run(files: RunFiles) -> None:
    assert files.config == files.path / "config.yaml"
    assert files.config is files.config
    assert RunFiles.config.name == "config.yaml"
    assert files.at(RunFiles.config) == str(files.config)
    assert RunFiles(files.path / "other").config != files.config


def test_two_of_one_folder_are_equal(files: RunFiles) -> None:
    assert files.metrics_file
    assert RunFiles(files.path) == files
    assert files.id == "a run"


@pytest.mark.parametrize(
    ("name", "is_run"),
    [(name, True) for name in ("config.yaml", "attempts", "metrics.jsonl", "checkpoints", "outcome.json")]
    + [("photo.png", False), ("labels.json", False)],
)
def test_any_sign_of_a_run_makes_one(files: RunFiles, name: str, is_run: bool) -> None:
    assert not files.exists()
    files.path.mkdir()
    (files.path / name).touch()
    assert files.exists() is is_run


def test_what_cannot_be_looked_into_is_no_run(files: RunFiles) -> None:
    """As root there is no folder without permission; a name that no file system takes is refused as well."""
    refused = RunFiles(files.path / ("x" * 300))
    assert not refused.exists()
    assert refused.latest_attempt_number() == 0


class TestNumbers:
    def test_there_is_none_before_the_first(self, files: RunFiles) -> None:
        assert (files.latest_attempt_number(), files.newest_checkpoint_step()) == (0, 0)
        files.path.mkdir()
        files.attempts.touch()
        assert files.latest_attempt_number() == 0

    def test_attempts_are_counted_past_nine(self, files: RunFiles) -> None:
        files.attempts.mkdir(parents=True)
        for name in ("9.json", "10.json", "11.json.damaged-ab", "012.json", "x.json"):
            (files.attempts / name).touch()
        assert files.latest_attempt_number() == 10
        assert files.attempt_file(10) == files.attempts / "10.json"

    @pytest.mark.parametrize(("known", "latest"), [(0, 3), (1, 3), (3, 3), (4, 3), (9, 3)])
    def test_from_a_known_attempt_the_latest_is_the_same(
        self, files: RunFiles, known: int, latest: int
    ) -> None:
        files.attempts.mkdir(parents=True)
        for number in (1, 2, 3):
            files.attempt_file(number).touch()
        assert files.latest_attempt_number(known) == latest

    def test_w15_the_newest_checkpoint_is_the_highest_step(self, files: RunFiles) -> None:
        for name in ("step-000000", "step-000300", "step-000090", ".step-000900.tmp", "ckpt_1000"):
            (files.checkpoints / name).mkdir(parents=True)
        assert files.newest_checkpoint_step() == 300
        assert files.checkpoint(300) == files.checkpoints / "step-000300"


class TestResults:
    def test_there_is_none_before_the_end(self, files: RunFiles) -> None:
        assert files.result_folder() is None

    @pytest.mark.parametrize("name", ["adapter", "model"])
    def test_an_adapter_or_a_model(self, files: RunFiles, name: str) -> None:
        (files.path / name).mkdir(parents=True)
        assert files.result_folder() == files.path / name

    @pytest.mark.parametrize("method", TUNINGS)
    def test_the_result_of_every_method_is_found(self, files: RunFiles, method: str) -> None:
        folder = files.path / TUNINGS[method].result
        folder.mkdir(parents=True)
        assert files.result_folder() == folder
