"""The composition root: app/studio.py."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from app.studio import Reading, reading, studio
from backend.manager.curves import Line, View
from tests.app.states import Runs
from tests.locks import Meeting, both


def test_one_studio_over_the_folder_of_the_environment(root: Path) -> None:
    assert studio() is studio()
    assert studio().root == root
    assert studio().runs.root == studio().queue.root == studio().tensorboard.root == root / "runs"


def test_another_folder_is_another_studio(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = studio()
    monkeypatch.setenv("TUNESMITH_ROOT", str(tmp_path_factory.mktemp("other")))
    assert studio().root != first.root


def test_without_a_word_it_is_the_folder_one_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TUNESMITH_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert studio().root == tmp_path


def test_nothing_is_written_by_looking(root: Path) -> None:
    studio()
    assert list(root.iterdir()) == []


def test_all_sessions_share_what_was_read(runs: Runs) -> None:
    run = runs.finished()
    assert reading(run) is reading(run)
    with reading(run).fresh() as scalars:
        assert scalars.latest["step"] == 100


def test_a_line_is_made_once_and_anew_with_news(runs: Runs) -> None:
    run = runs.finished(steps=60)
    shared = Reading(run)
    first = shared.line("train/loss", View())
    assert shared.line("train/loss", View()) is first
    assert shared.line("train/loss", View("tokens")) != first
    run.rewind_metrics(40)
    assert shared.line("train/loss", View()).y == first.y[:40]
    run.metrics_file.unlink()
    assert shared.line("train/loss", View()) == Line([], [])


def test_one_session_reads_at_a_time(runs: Runs) -> None:
    shared, meeting = Reading(runs.finished(steps=3)), Meeting()

    def look() -> None:
        with shared.fresh():
            meeting.wait()

    both(look, look)
    assert not meeting.happened


def test_w24_many_sessions_read_each_line_once(runs: Runs) -> None:
    shared = Reading(runs.finished(steps=60))
    seen: list[int] = []

    def look() -> None:
        for _ in range(20):
            with shared.fresh() as scalars:
                seen.append(len(scalars.curve("train/loss")[0]))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {60}
    assert len(seen) == 160
