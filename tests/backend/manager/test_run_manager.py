"""Listing, finding, labelling, comparing, importing and deleting runs: backend/manager/run_manager.py."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.errors import RunError
from backend.manager import run_manager
from backend.manager.run_manager import RunManager
from backend.manager.run_summary import RunSummary
from backend.run.config import config_yaml
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus
from backend.run.settings import parse_config
from backend.utils.lock_utils import LockedError, hold_folder, hold_lock, is_locked
from tests.locks import Meeting, both

CONFIG = (
    "model:\n  model_name_or_path: {model}\ntuning:\n  method: {method}\ntraining:\n  learning_rate: {rate}\n"
)


def make(root: Path, model: str = "tiny", method: str = "lora", rate: float = 0.001) -> RunDir:
    return RunDir.create(root, model, CONFIG.format(model=model, method=method, rate=rate))


@pytest.fixture
def manager(root: Path) -> RunManager:
    return RunManager(root)


class TestListing:
    def test_an_empty_or_missing_root_has_no_runs(self, manager: RunManager, tmp_path: Path) -> None:
        assert manager.list() == ()
        assert RunManager(tmp_path / "missing").list() == ()

    def test_one_thread_looks_at_a_time(self, manager: RunManager, monkeypatch: pytest.MonkeyPatch) -> None:
        meeting = Meeting()
        monkeypatch.setattr(manager, "_scan", meeting.within(manager._scan))
        both(manager.list, manager.list)
        assert not meeting.happened

    def test_newest_first_with_what_a_line_shows(self, manager: RunManager, root: Path) -> None:
        older, newer = root / "20260101-000000-a-0001", root / "20260102-000000-b-0002"
        for path in (older, newer):
            make(root).path.rename(path)
        assert [item.id for item in manager.list()] == [newer.name, older.name]
        assert manager.list()[1].created == "2026-01-01T00:00:00+00:00"

    def test_a_run_deleted_while_it_is_read_is_not_listed(
        self, manager: RunManager, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        goes, stays = make(root), make(root)
        summarise = run_manager.summarise

        def read_late(run: RunDir) -> RunSummary:
            shutil.rmtree(goes.path, ignore_errors=True)
            return summarise(run)

        monkeypatch.setattr(run_manager, "summarise", read_late)
        assert [item.id for item in manager.list()] == [stays.id]

    def test_filters(self, manager: RunManager, root: Path) -> None:
        lora, full = make(root, "smol", "lora"), make(root, "qwen", "full")
        full.begin_attempt(("a",))
        manager.tag(lora.id, add=["keep"])
        manager.note(lora.id, "The good one")
        assert [item.id for item in manager.list(status=RunStatus.INTERRUPTED)] == [full.id]
        assert [item.id for item in manager.list(text="QWEN")] == [full.id]
        assert [item.id for item in manager.list(text="good one")] == [lora.id]
        assert [item.id for item in manager.list(tag="keep")] == [lora.id]
        assert manager.list(text="nothing") == ()

    def test_f21_damaged_runs_are_listed_and_say_so(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        run.outcome_file.write_text("{")
        (item,) = manager.list()
        assert (item.status, item.reason) == (RunStatus.FAILED, "damaged")
        assert "outcome.json" in item.damage

    def test_w20_a_foreign_folder_is_no_finished_run(self, manager: RunManager, root: Path) -> None:
        (root / "photos").mkdir()
        (root / "notes.txt").write_text("hello")
        assert manager.list() == ()

    def test_a_run_at_rest_is_read_once(
        self, manager: RunManager, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.utime(make(root).path, (1e9, 1e9))
        first = manager.list()
        monkeypatch.setattr("backend.manager.run_manager.summarise", lambda _: pytest.fail("read again"))
        assert manager.list() == first

    def test_a_change_within_the_clock_s_tick_is_seen(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        before = run.path.stat().st_mtime_ns
        assert manager.list()[0].status is RunStatus.CREATED
        run.begin_attempt(("a",))
        os.utime(run.path, ns=(before, before))
        assert manager.list()[0].status is RunStatus.INTERRUPTED

    def test_threads_take_turns(
        self, manager: RunManager, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two at once would each forget what the other has read."""
        make(root)
        held: list[bool] = []
        look = run_manager.stamps
        monkeypatch.setattr(
            run_manager, "stamps", lambda folder: (held.append(manager._guard.locked()), look(folder))[1]
        )
        manager.list()
        assert held == [True]

    def test_whatever_moves_is_read_again(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        seen = [manager.list()[0].status]
        attempt = run.begin_attempt(("a",), pid=os.getpid())
        seen.append(manager.list()[0].status)
        run.write_outcome(Outcome(RunStatus.STOPPED, "paused", "Paused."))
        seen.append(manager.list()[0].status)
        run.end_attempt(attempt, "exited", exit_code=3)
        with run.lock():
            run.begin_attempt(("a",))
            seen.append(manager.list()[0].status)
            run.write_environment(Environment())
            seen.append(manager.list()[0].status)
        seen.append(manager.list()[0].status)
        assert seen == ["created", "interrupted", "stopped", "starting", "running", "interrupted"]

    def test_a_deleted_run_is_forgotten(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        manager.list()
        shutil.rmtree(run.path)
        assert manager.list() == ()


class TestFinding:
    @pytest.mark.parametrize("name", ["bratwurst", "foods/rank 8"])
    def test_by_name(self, manager: RunManager, root: Path, name: str) -> None:
        run = make(root)
        manager.rename(run.id, name)
        assert manager.find(name) == run
        assert manager.find(run.id) == run
        assert manager.show(name).title == name

    @pytest.mark.parametrize("name", ["", "unknown"])
    def test_nothing(self, manager: RunManager, name: str) -> None:
        with pytest.raises(RunError) as caught:
            manager.find(name)
        assert caught.value.code == "no-such-run"

    def test_an_ambiguous_beginning_stays_ambiguous(self, manager: RunManager, root: Path) -> None:
        first, _ = make(root), make(root)
        with pytest.raises(RunError, match="begins the names of 2 runs"):
            manager.find(first.id[:4])


class TestLabels:
    def test_a_name_is_unique_and_leaves_the_folder_alone(self, manager: RunManager, root: Path) -> None:
        first, second = make(root), make(root)
        manager.rename(first.id, " best ")
        assert manager.show(first.id).title == "best"
        with pytest.raises(RunError, match="called 'best' already") as caught:
            manager.rename(second.id, "best")
        assert caught.value.code == "name-taken"
        with pytest.raises(RunError, match="can be asked for by"):
            manager.rename(second.id, first.id[:8])
        with pytest.raises(RunError, match="meaning of its own"):
            manager.rename(second.id, " latest ")
        assert manager.show(second.id).title == second.id
        manager.rename(first.id, "best")
        manager.rename(first.id, "")
        assert manager.show(first.id).title == first.id

    def test_tags_are_a_set(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        manager.tag(run.id, add=["b", "a", "b"])
        assert manager.tag(run.id, add=["c"], remove=["b", "x"]).tags == ("a", "c")

    def test_archived_runs_step_back(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        manager.archive(run.id)
        assert manager.list() == ()
        assert [item.id for item in manager.list(archived=True)] == [run.id]
        manager.archive(run.id, archived=False)
        assert len(manager.list()) == 1

    def test_damaged_labels_hide_nothing(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        run.labels_file.write_text("{")
        assert manager.show(run.id).status is RunStatus.CREATED
        manager.tag(run.id, add=["a"])
        assert manager.show(run.id).labels.tags == ("a",)

    def test_f13_an_edit_waits_for_another(
        self, manager: RunManager, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make(root)
        monkeypatch.setattr(run_manager, "_PATIENCE_SECONDS", 0)
        with hold_lock(root / ".labels.lock"), pytest.raises(LockedError):
            manager.note(run.id, "too early")
        assert manager.show(run.id).labels.note == ""

    def test_f13_no_edit_is_lost(self, root: Path) -> None:
        run = make(root)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: RunManager(root).tag(run.id, add=[f"t{number}"]), range(40)))
        assert len(RunManager(root).show(run.id).labels.tags) == 40


class TestComparing:
    def test_only_what_differs(self, manager: RunManager, root: Path) -> None:
        first, second = make(root, rate=0.001), make(root, method="full", rate=0.002)
        comparison = manager.compare([first.id, second.id])
        assert comparison.settings == {
            "training.learning_rate": (0.001, 0.002),
            "tuning.method": ("lora", "full"),
        }
        assert [item.id for item in comparison.runs] == [first.id, second.id]

    def test_a_setting_that_one_lacks(self, manager: RunManager, root: Path) -> None:
        first = make(root)
        second = RunDir.create(root, "x", "model:\n  model_name_or_path: tiny\n")
        assert manager.compare([first.id, second.id]).settings["tuning.method"] == ("lora", None)

    def test_a_damaged_run_cannot_be_compared(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        run.config.write_text("model:\n")
        with pytest.raises(RunError, match="cut short"):
            manager.compare([run.id])


class TestDeleting:
    def test_a_run_at_rest_goes_whole(self, manager: RunManager, root: Path) -> None:
        run, other = make(root), make(root)
        manager.delete(run.id)
        assert [path.name for path in root.iterdir()] == [other.id]

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "/", "%2e%2e", "runs", "*"])
    def test_w12_names_that_lead_elsewhere_delete_nothing(
        self, manager: RunManager, root: Path, name: str
    ) -> None:
        run = make(root)
        outside = RunDir.create(root.parent / "x", "a", "seed: 1")
        with pytest.raises(RunError, match="nothing was deleted"):
            manager.delete(name)
        assert run.exists()
        assert outside.exists()

    def test_w13_the_beginning_of_an_id_deletes_nothing(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        with pytest.raises(RunError, match="not the whole id"):
            manager.delete(run.id[:-1])
        assert run.exists()

    def test_w13_f39_a_living_run_is_not_deleted(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        with run.lock(), pytest.raises(RunError, match="is starting, so it cannot delete") as caught:
            manager.delete(run.id)
        assert caught.value.code == "illegal-transition"
        assert run.exists()

    def test_f39_a_run_that_somebody_reads_is_not_deleted(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        with run.hold_for_reading(), pytest.raises(RunError, match="in use") as caught:
            manager.delete(run.id)
        assert (caught.value.code, run.exists()) == ("in-use", True)
        manager.delete(run.id)
        assert not run.path.exists()

    def test_f39_readers_and_deleters_at_once(self, manager: RunManager, root: Path) -> None:
        """Whoever reads finds the whole run; whoever deletes finds no reader; all others get a sentence."""
        runs = [make(root) for _ in range(4)]

        def read(run: RunDir) -> bool:
            try:
                with run.hold_for_reading():
                    return run.read_config_text() != "" and run.exists()
            except RunError as error:
                return error.code == "no-such-run"

        def delete(run: RunDir) -> bool:
            try:
                manager.delete(run.id)
            except RunError as error:
                return error.code in {"in-use", "no-such-run", "already-running", "illegal-transition"}
            return not run.path.exists()

        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(work, run) for run in runs for work in (read, delete, read, delete, read)]
            assert all(one.result() for one in done)

    def test_a_link_and_a_foreign_folder_stay(self, manager: RunManager, root: Path, tmp_path: Path) -> None:
        outside = RunDir.create(tmp_path / "elsewhere", "a", "seed: 1")
        (root / "link").symlink_to(outside.path)
        (root / "photos").mkdir()
        for name in ("link", "photos"):
            with pytest.raises(RunError, match="nothing was deleted"):
                manager.delete(name)
        assert outside.exists()
        assert (root / "photos").exists()

    def test_a_damaged_run_can_be_deleted(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        run.config.write_text("")
        manager.delete(run.id)
        assert not run.path.exists()


class TestImporting:
    def test_a_copy_without_requests(self, manager: RunManager, root: Path, tmp_path: Path) -> None:
        origin = make(tmp_path / "elsewhere")
        origin.begin_attempt(("a",))
        origin.request_stop()
        copy = manager.import_folder(origin.path)
        assert copy.path == root / origin.id
        assert copy.read_attempt(1) == origin.read_attempt(1)
        assert {"stop", "run.lock"}.isdisjoint(path.name for path in copy.path.iterdir())
        assert origin.exists()

    def test_what_is_there_is_not_replaced(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        with pytest.raises(RunError, match="exists already") as caught:
            manager.import_folder(run.path)
        assert caught.value.code == "run-exists"

    def test_a_foreign_folder_is_refused(self, manager: RunManager, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no run folder"):
            manager.import_folder(tmp_path)

    def test_f39_a_living_run_is_not_copied(self, manager: RunManager, root: Path, tmp_path: Path) -> None:
        origin = make(tmp_path / "elsewhere")
        with origin.lock(), pytest.raises(RunError, match="being worked on"):
            manager.import_folder(origin.path)
        assert list(root.iterdir()) == []


class TestRunsThatOthersStandOn:
    """A9: a model that another run was begun from is needed to go on, to answer and to be exported."""

    @pytest.fixture
    def base(self, root: Path) -> RunDir:
        run = make(root, method="full")
        (run.model).mkdir()
        return run

    @pytest.mark.parametrize("part", ["model", "checkpoints/step-000005", "."])
    def test_they_are_not_deleted_and_those_are_named(
        self, manager: RunManager, root: Path, base: RunDir, part: str
    ) -> None:
        other = make(root, model=str(base.path / part))
        with pytest.raises(RunError, match=other.id) as caught:
            manager.delete(base.id)
        assert caught.value.code == "in-use"
        assert base.exists()
        manager.delete(other.id)
        manager.delete(base.id)
        assert not base.path.exists()

    def test_by_another_way_to_the_same_place(
        self, manager: RunManager, root: Path, base: RunDir, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(base.model)
        make(root, model=str(tmp_path / "link"))
        with pytest.raises(RunError, match="in use"):
            manager.delete(base.id)

    def test_by_a_path_that_a_listing_cannot_read_whole(self, root: Path, tmp_path: Path) -> None:
        folder = (
            tmp_path / "a folder's name, which is long enough to be folded" / "when it is # written" / "x"
        )
        folder.mkdir(parents=True)
        config = parse_config({"data": {"train": "x"}, "model": {"model_name_or_path": str(folder)}})
        RunDir.create(root, "x", config_yaml(config))
        with pytest.raises(RunError, match="in use"):
            RunManager(root).require_no_dependents(folder.parents[1])

    def test_a_finished_adapter_still_needs_its_base(
        self, manager: RunManager, root: Path, base: RunDir
    ) -> None:
        other = make(root, model=str(base.model))
        other.begin_attempt(("a",))
        other.write_outcome(Outcome(RunStatus.FINISHED, "completed", "Done."))
        other.adapter.mkdir()
        with pytest.raises(RunError, match=other.id):
            manager.delete(base.id)

    def test_a_run_with_a_whole_model_of_its_own_does_not(
        self, manager: RunManager, root: Path, base: RunDir
    ) -> None:
        make(root, model=str(base.model), method="full").model.mkdir()
        manager.delete(base.id)

    def test_a_name_that_only_begins_alike_is_another_place(
        self, manager: RunManager, root: Path, base: RunDir
    ) -> None:
        make(root, model=f"{base.path}-other/model")
        make(root, model=base.id)
        manager.delete(base.id)


class TestNames:
    def test_c6_of_two_renames_at_once_one_wins(self, root: Path) -> None:
        runs = [make(root), make(root)]

        def rename(run: RunDir) -> str:
            try:
                return RunManager(root).rename(run.id, name).name
            except RunError as error:
                return error.code

        with ThreadPoolExecutor(2) as pool:
            for number in range(10):
                name = f"name {number}"
                assert sorted(pool.map(rename, runs)) == [name, "name-taken"]

    def test_c6_the_look_and_the_change_are_under_one_lock(
        self, manager: RunManager, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bool] = []
        look = manager.list
        monkeypatch.setattr(
            manager, "list", lambda **kinds: (seen.append(is_locked(root / ".labels.lock")), look(**kinds))[1]
        )
        manager.rename(make(root).id, "food")
        assert seen == [True]

    def test_a_name_that_copies_share_is_ambiguous(self, manager: RunManager, root: Path) -> None:
        run = make(root)
        manager.rename(run.id, "food")
        shutil.copytree(run.path, root / "copy")
        with pytest.raises(RunError, match="2 runs are called 'food'") as caught:
            manager.find("food")
        assert caught.value.code == "ambiguous-run"
        assert run.id in caught.value.remedy
        assert "copy" in caught.value.remedy

    def test_c7_newest_first_is_by_when_they_were_made(self, manager: RunManager, root: Path) -> None:
        old = make(root)
        old.path.rename(root / "20250101-000000-old-ffff")
        shutil.copytree(root / "20250101-000000-old-ffff", root / "zz-copy")
        os.utime(root / "zz-copy" / "config.yaml", (1e9, 1e9))
        new = make(root)
        assert [item.id for item in manager.list()] == [new.id, "20250101-000000-old-ffff", "zz-copy"]


class TestWhatAKilledProcessLeft:
    def test_c5_is_swept_when_it_is_old(self, manager: RunManager, root: Path) -> None:
        left, fresh = (root / f".run{n}.0123456789abcde{n}.tmp" for n in range(2))
        for folder in (left, fresh):
            (folder / "checkpoints").mkdir(parents=True)
        os.utime(left, (1e9, 1e9))
        manager.delete(make(root).id)
        assert not left.exists()
        assert fresh.exists()

    def test_c5_and_stays_while_somebody_works_on_it(self, root: Path) -> None:
        busy = root / ".run.0123456789abcdef.tmp"
        busy.mkdir()
        os.utime(busy, (1e9, 1e9))
        with hold_folder(busy):
            make(root)
            assert busy.exists()
        make(root)
        assert not busy.exists()
