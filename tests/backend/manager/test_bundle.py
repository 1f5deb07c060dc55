"""A run as one file: backend/manager/bundle.py."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend.errors import RunError
from backend.manager import bundle
from backend.manager.bundle import bundle_parts, opened_bundle, write_bundle
from backend.manager.run_manager import RunManager
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus
from backend.utils.file_utils import sweep_temporaries


@pytest.fixture
def finished(run: RunDir) -> RunDir:
    """A run with every file that a finished one has."""
    attempt = run.begin_attempt(("train",))
    run.write_environment(Environment())
    run.metrics_file.write_text('{"kind":"train","step":1,"total_steps":1,"train/loss":0.5}\n')
    run.samples_file.write_text("{}\n")
    for folder in (run.adapter, run.checkpoint(1), run.tensorboard):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"w" * 100)
    run.write_outcome(Outcome(RunStatus.FINISHED, "completed", "Trained 1 steps.", step=1))
    run.end_attempt(attempt, "exited", exit_code=0)
    return run


def names(file: Path) -> set[str]:
    with tarfile.open(file) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def packed(file: Path, members: dict[str, bytes], *, link: str = "") -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name in filter(None, [link]):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(member)
    return file


STORY = {
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "samples.jsonl",
    "outcome.json",
    "attempts/1.json",
    "adapter/weights",
}


def test_it_holds_the_story_and_no_checkpoints(finished: RunDir, tmp_path: Path) -> None:
    assert names(write_bundle(finished, tmp_path / "run.tar.gz")) == STORY


def test_checkpoints_come_when_asked_for(finished: RunDir, tmp_path: Path) -> None:
    file = write_bundle(finished, tmp_path / "run.tar.gz", checkpoints=True)
    assert names(file) == STORY | {"checkpoints/step-000001/weights"}


def test_it_names_nobody_and_takes_no_links(finished: RunDir, tmp_path: Path) -> None:
    (finished.adapter / "secret").symlink_to("/etc/passwd")
    (finished.adapter / ".half.tmp").write_text("half")
    file = write_bundle(finished, tmp_path / "run.tar.gz")
    assert names(file) == STORY
    with tarfile.open(file) as archive:
        assert {(one.uid, one.gid, one.uname, one.gname) for one in archive} == {(0, 0, "", "")}


def test_an_imported_bundle_stands_where_the_run_stood(finished: RunDir, tmp_path: Path) -> None:
    file = write_bundle(finished, tmp_path / "run.tar.gz")
    other = tmp_path / "other"
    with opened_bundle(file, other) as folder:
        made = RunManager(other).import_folder(folder)
    assert made.id == finished.id
    assert made.state() == finished.state()
    assert [path.name for path in other.iterdir()] == [finished.id]


def test_nothing_is_overwritten(finished: RunDir, tmp_path: Path) -> None:
    (tmp_path / "run.tar.gz").write_text("mine")
    with pytest.raises(RunError) as caught:
        write_bundle(finished, tmp_path / "run.tar.gz")
    assert caught.value.code == "bundle-exists"
    assert (tmp_path / "run.tar.gz").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(finished: RunDir, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere") as caught:
        write_bundle(finished, tmp_path / "nowhere" / "run.tar.gz")
    assert caught.value.code == "cannot-write"


def test_a_failure_on_the_way_leaves_nothing(
    finished: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_bundle(finished, tmp_path / "run.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_checkpoints_of_a_run_at_work_are_not_taken(finished: RunDir, tmp_path: Path) -> None:
    with finished.lock(), pytest.raises(RunError) as caught:
        write_bundle(finished, tmp_path / "run.tar.gz", checkpoints=True)
    assert caught.value.code == "already-running"


def test_nothing_is_written_into_the_run_which_may_be_read_only(finished: RunDir, tmp_path: Path) -> None:
    before = set(finished.path.iterdir())
    write_bundle(finished, tmp_path / "run.tar.gz", checkpoints=True)
    assert set(finished.path.iterdir()) == before


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"readme": b"no run"},
        {"../out/config.yaml": b"x"},
        {"/out/config.yaml": b"x", "b/config.yaml": b"x"},
        {"a/config.yaml": b"x", "b/config.yaml": b"x"},
    ],
    ids=["empty", "a file", "out of it", "absolute", "two runs"],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    file = packed(tmp_path / "run.tar.gz", members)
    with pytest.raises(RunError) as caught, opened_bundle(file, tmp_path / "place"):
        pytest.fail("it was opened")
    assert caught.value.code == "bad-bundle"
    assert list((tmp_path / "place").iterdir()) == []


def test_a_link_out_of_a_bundle_is_refused(tmp_path: Path) -> None:
    file = packed(tmp_path / "run.tar.gz", {"a/config.yaml": b"x"}, link="a/adapter")
    with pytest.raises(RunError) as caught, opened_bundle(file, tmp_path / "place"):
        pytest.fail("it was opened")
    assert caught.value.code == "bad-bundle"


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00broken"])
def test_bytes_that_are_no_archive_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.tar.gz").write_bytes(content)
    with pytest.raises(RunError) as caught, opened_bundle(tmp_path / "run.tar.gz", tmp_path / "place"):
        pytest.fail("it was opened")
    assert caught.value.code == "bad-bundle"


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = packed(tmp_path / "run.tar.gz", {"a/config.yaml": bytes(100_000)})
    monkeypatch.setattr(bundle, "free_bytes", lambda _: 50_000)
    with pytest.raises(RunError) as caught, opened_bundle(file, tmp_path / "place"):
        pytest.fail("it was opened")
    assert caught.value.code == "disk-low"
    assert list((tmp_path / "place").iterdir()) == []


def test_f39_a_run_is_not_deleted_while_it_is_packed(
    finished: RunDir, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete_meanwhile(parts_of: RunDir, **_: bool) -> list[Path]:
        with pytest.raises(RunError, match="in use"):
            RunManager(root).delete(parts_of.id)
        return [parts_of.config]

    monkeypatch.setattr(bundle, "bundle_parts", create_autospec(bundle_parts, side_effect=delete_meanwhile))
    assert names(write_bundle(finished, tmp_path / "run.tar.gz")) == {"config.yaml"}


@pytest.mark.parametrize(
    "name", ["../out", "/etc/out", "run/../../out", "run/a\x1b[2J", "run/a\nb", "run/config.yaml"]
)
def test_b14_b16_a_member_that_leads_elsewhere_or_comes_twice_is_refused(tmp_path: Path, name: str) -> None:
    file = packed(tmp_path / "b.tar.gz", {"run/config.yaml": b"seed: 1"})
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        for each in ("run/config.yaml", name):
            member = tarfile.TarInfo(each)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    assert file.exists()
    with (
        pytest.raises(RunError, match="is no bundle of a run"),
        opened_bundle(tmp_path / "c.tar.gz", tmp_path),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "runs") == ["b.tar.gz", "c.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_b14_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("run/config.yaml")
        archive.addfile(member)
        odd = tarfile.TarInfo("run/adapter")
        odd.type, odd.linkname = kind, "run/config.yaml"
        archive.addfile(odd)
    with (
        pytest.raises(RunError, match="link or no plain file"),
        opened_bundle(tmp_path / "b.tar.gz", tmp_path),
    ):
        pass


def test_b14_modes_of_a_stranger_are_not_taken(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("run/config.yaml")
        member.mode = 0o4777
        archive.addfile(member)
    with opened_bundle(tmp_path / "b.tar.gz", tmp_path) as folder:
        assert stat.S_IMODE((folder / "config.yaml").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_b14_no_feature_of_a_later_python_is_used(
    finished: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 12's own Python is 3.11.2, whose ``extractall`` knows no filter."""
    monkeypatch.setattr(tarfile.TarFile, "extractall", None)
    write_bundle(finished, tmp_path / "b.tar.gz")
    with opened_bundle(tmp_path / "b.tar.gz", tmp_path / "there") as folder:
        assert RunDir(folder).read_outcome() == finished.read_outcome()


def test_a_bundle_of_countless_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_MEMBERS", 2)
    file = packed(tmp_path / "b.tar.gz", {f"run/{n}": b"" for n in range(3)})
    with pytest.raises(RunError, match="more than 2 files"), opened_bundle(file, tmp_path):
        pass


def test_nobody_sweeps_away_what_is_being_read(finished: RunDir, tmp_path: Path) -> None:
    packed, workplace = write_bundle(finished, tmp_path / "run.tar.gz"), tmp_path / "work"
    with opened_bundle(packed, workplace) as unpacked:
        assert sweep_temporaries(workplace, older_than_seconds=-1) == []
        assert RunDir(unpacked).exists()
    assert list(workplace.iterdir()) == []
