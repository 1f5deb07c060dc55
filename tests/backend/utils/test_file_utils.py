"""Durable writes, strict reads, safe names: backend/utils/file_utils.py."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backend.utils.file_utils import (
    CRASHPOINT,
    CrashingFileSystem,
    DamagedFileError,
    DiskFileSystem,
    UnsafeNameError,
    file_system,
    files_under,
    free_bytes,
    last_bytes,
    modified_ns,
    parse_json,
    publish_folder,
    read_bytes,
    read_json,
    read_json_object,
    remove_folder,
    safe_join,
    scratch_folder,
    sha256_file,
    staged_folder,
    sweep_temporaries,
    temporary_name,
    write_bytes_durably,
    write_json_durably,
    write_text_durably,
)
from tests.fakes import FailingFileSystem, RecordingFileSystem


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWriting:
    def test_text_arrives_for_its_owner_only_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        write_text_durably(tmp_path / "a", "grüße\n")
        assert (tmp_path / "a").read_text("utf-8") == "grüße\n"
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
        assert names(tmp_path) == ["a"]

    def test_the_order_is_write_fsync_rename_fsync_folder(self, tmp_path: Path) -> None:
        disk = RecordingFileSystem()
        write_text_durably(tmp_path / "a", "x", fs=disk)
        assert [step.name for step in disk.operations] == ["write", "fsync", "rename", "fsync"]
        assert disk.operations[-1].path == tmp_path

    @pytest.mark.parametrize("fail_at", [1, 2, 3])
    def test_a_refusing_disk_leaves_the_old_text_and_no_temporary(self, tmp_path: Path, fail_at: int) -> None:
        write_text_durably(tmp_path / "a", "old")
        with pytest.raises(OSError, match="No space"):
            write_text_durably(tmp_path / "a", "new", fs=FailingFileSystem(fail_at))
        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a"]

    def test_a_failed_fsync_of_the_folder_is_an_error_never_a_success(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="Input/output"):
            write_text_durably(tmp_path / "a", "new", fs=FailingFileSystem(4, errno.EIO))

    def test_temporary_names_cannot_be_guessed(self, tmp_path: Path) -> None:
        disk = RecordingFileSystem()
        write_text_durably(tmp_path / "a", "x", fs=disk)
        write_text_durably(tmp_path / "a", "x", fs=disk)
        staged = {step.path.name for step in disk.operations if step.name == "write"}
        assert len(staged) == 2

    def test_a_planted_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        with pytest.raises(FileExistsError):
            DiskFileSystem().write(tmp_path / "link", b"theirs")
        assert (tmp_path / "target").read_text() == "mine"

    def test_json_goes_round(self, tmp_path: Path) -> None:
        write_json_durably(tmp_path / "a.json", {"b": [1, 2.5, "ü", None]})
        assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, "ü", None]}

    def test_json_refuses_nan_and_writes_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json_durably(tmp_path / "a.json", {"loss": float("nan")})
        assert names(tmp_path) == []

    def test_bytes_are_written_as_they_are(self, tmp_path: Path) -> None:
        write_bytes_durably(tmp_path / "a", b"\xff\r\n")
        assert (tmp_path / "a").read_bytes() == b"\xff\r\n"


class TestReading:
    @pytest.mark.parametrize(
        "content", [b"", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe", b"[" * 100_000, b"\0" * 20]
    )
    def test_damage_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"a\.json") as caught:
            read_json(tmp_path / "a.json")
        assert caught.value.path == tmp_path / "a.json"
        assert caught.value.problem

    def test_every_truncation_of_an_object_is_noticed(self, tmp_path: Path) -> None:
        whole = b'{"status": "finished", "step": 12}'
        for length in range(len(whole)):
            (tmp_path / "a.json").write_bytes(whole[:length])
            with pytest.raises(DamagedFileError):
                read_json_object(tmp_path / "a.json")

    def test_too_big_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('"' + "x" * 100 + '"')
        with pytest.raises(DamagedFileError, match="larger than 50 bytes"):
            read_json(tmp_path / "a.json", limit_bytes=50)

    def test_an_object_must_be_an_object(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("[1]")
        with pytest.raises(DamagedFileError, match="no JSON object"):
            read_json_object(tmp_path / "a.json")

    def test_a_missing_file_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_json(tmp_path / "a.json")

    @pytest.mark.parametrize("size", [0, 10, 2**16 - 1, 2**16, 2**16 + 1, 200_000])
    def test_bytes_up_to_a_limit_and_the_last_few(self, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        (tmp_path / "a").write_bytes(data)
        assert read_bytes(tmp_path / "a") == data
        assert read_bytes(tmp_path / "a", limit_bytes=100_000) == data[:100_000]
        assert last_bytes(tmp_path / "a", 10) == (data[-10:], size <= 10)

    def test_there_are_no_last_bytes_of_nothing(self, tmp_path: Path) -> None:
        assert last_bytes(tmp_path / "missing", 3) == last_bytes(tmp_path, 3) == (b"", True)

    def test_parse_json_reads_bytes(self) -> None:
        assert parse_json(b'{"a": 1}') == {"a": 1}

    @pytest.mark.parametrize(
        "data",
        [b"", b"NaN", b"1e400", b"[1,]", b"{} {}", b'"\xff"', b'"\\ud800"', b"\xef\xbb\xbf{}", b"[" * 2000],
    )
    def test_parse_json_takes_nothing_but_json(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="line 1 column"):
            parse_json(data)


class TestSafeJoin:
    @pytest.mark.parametrize("name", ["run", "20260101-000000-a-beef", "a.b_c-D", "x" * 64])
    def test_plain_names_are_joined(self, tmp_path: Path, name: str) -> None:
        assert safe_join(tmp_path, name) == tmp_path / name

    @pytest.mark.parametrize(
        "name",
        [
            "", ".", "..", "../x", "/abs", "a/b", "a\\b", "a\0b", "x" * 65, "ünï", "a.", ".hidden", "CON", "nul.txt",
            "com1", "a b", "a\n", "%2e%2e", "%252e%252e", "..%2fx", "~", "C:x", "lpt9.log",
        ],
    )  # fmt: skip
    def test_w12_everything_else_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UnsafeNameError):
            safe_join(tmp_path, name)

    def test_a_link_that_leads_out_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "link").symlink_to(tmp_path)
        with pytest.raises(UnsafeNameError, match="leads out"):
            safe_join(tmp_path / "root", "link")

    def test_a_root_that_is_a_prefix_of_another_is_no_way_out(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "root-2").mkdir()
        (tmp_path / "root" / "link").symlink_to(tmp_path / "root-2")
        with pytest.raises(UnsafeNameError):
            safe_join(tmp_path / "root", "link")


class TestFolders:
    def test_publishing_syncs_everything_before_the_rename_and_the_parent_after(self, tmp_path: Path) -> None:
        staging = tmp_path / "staging"
        (staging / "sub").mkdir(parents=True)
        (staging / "sub" / "a").write_text("1")
        disk = RecordingFileSystem()
        publish_folder(staging, tmp_path / "final", fs=disk)
        steps = [(step.name, step.path) for step in disk.operations]
        rename = steps.index(("rename", staging))
        synced = {path for name, path in steps[:rename] if name == "fsync"}
        assert synced == {staging, staging / "sub", staging / "sub" / "a"}
        assert steps[rename + 1 :] == [("fsync", tmp_path)]
        assert (tmp_path / "final" / "sub" / "a").read_text() == "1"

    def test_publishing_never_replaces(self, tmp_path: Path) -> None:
        (tmp_path / "staging").mkdir()
        (tmp_path / "final").mkdir()
        with pytest.raises(FileExistsError):
            publish_folder(tmp_path / "staging", tmp_path / "final")
        assert names(tmp_path) == ["final", "staging"]

    def test_a_refusing_disk_publishes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "staging").mkdir()
        with pytest.raises(OSError, match="No space"):
            publish_folder(tmp_path / "staging", tmp_path / "final", fs=FailingFileSystem(2))
        assert names(tmp_path) == ["staging"]

    def test_a_staged_folder_appears_whole_and_for_its_owner_only(self, tmp_path: Path) -> None:
        disk = RecordingFileSystem()
        with staged_folder(tmp_path / "final", fs=disk) as staging:
            (staging / "a").write_text("1")
            assert stat.S_IMODE(staging.stat().st_mode) == 0o700
        steps = [(step.name, step.path) for step in disk.operations]
        assert steps == [
            ("fsync", staging / "a"),
            ("fsync", staging),
            ("rename", staging),
            ("fsync", tmp_path),
        ]
        assert names(tmp_path) == ["final"]
        assert names(tmp_path / "final") == ["a"]

    @pytest.mark.parametrize("fail_at", [1, 2, 3])
    def test_a_staged_folder_leaves_nothing_on_a_refusing_disk(self, tmp_path: Path, fail_at: int) -> None:
        with (
            pytest.raises(OSError, match="No space"),
            staged_folder(tmp_path / "final", fs=FailingFileSystem(fail_at)) as staging,
        ):
            (staging / "a").write_text("1")
        assert names(tmp_path) == []

    def test_a_staged_folder_goes_with_whatever_stops_its_filling(self, tmp_path: Path) -> None:
        def stopped(path: Path) -> None:
            path.write_text("1")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "final") as staging:
            stopped(staging / "a")
        assert names(tmp_path) == []

    def test_a_staged_folder_replaces_nobody(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError), staged_folder(tmp_path / "final"):
            (tmp_path / "final").mkdir()
        assert names(tmp_path) == ["final"]

    def test_a_staged_folder_needs_a_place(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "none" / "final"):
            pytest.fail("no folder to fill")

    def test_a_scratch_folder_is_gone_afterwards(self, tmp_path: Path) -> None:
        with scratch_folder(tmp_path / "work") as first, scratch_folder(tmp_path / "work") as second:
            (first / "a").write_text("1")
            assert {first.parent, second.parent} == {tmp_path}
            assert first != second
        assert names(tmp_path) == []

    def test_what_a_crash_leaves_of_a_temporary_name_is_swept(self, tmp_path: Path) -> None:
        left = temporary_name(tmp_path / "a file.json")
        left.write_text("1")
        assert sweep_temporaries(tmp_path, older_than_seconds=0) == [left]

    def test_removing_moves_aside_first(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "a").write_text("1")
        disk = RecordingFileSystem()
        remove_folder(tmp_path / "run", fs=disk)
        assert [step.name for step in disk.operations] == ["rename", "fsync"]
        assert names(tmp_path) == []

    def test_removing_refuses_a_file_and_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "kept")
        (tmp_path / "file").write_text("1")
        for name in ("link", "file", "missing"):
            with pytest.raises(NotADirectoryError):
                remove_folder(tmp_path / name)
        assert names(tmp_path) == ["file", "kept", "link"]

    def test_sweeping_takes_old_temporaries_of_ours_only(self, tmp_path: Path) -> None:
        ours = tmp_path / ".a.json.0123456789abcdef.tmp"
        ours.write_text("torn")
        aside = tmp_path / ".run.0123456789abcdef.tmp"
        aside.mkdir()
        (tmp_path / "a.json").write_text("{}")
        (tmp_path / "mine.tmp").write_text("{}")
        assert sweep_temporaries(tmp_path, older_than_seconds=3600) == []
        assert sweep_temporaries(tmp_path, older_than_seconds=-1) == [ours, aside]
        assert names(tmp_path) == ["a.json", "mine.tmp"]


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class TestLookingAtAFolder:
    def test_every_file_below_by_relative_name(self, tmp_path: Path) -> None:
        (tmp_path / "b" / "c").mkdir(parents=True)
        (tmp_path / "b" / "c" / "two").write_bytes(b"22")
        (tmp_path / "a").write_bytes(b"1")
        (tmp_path / "link").symlink_to("nowhere")
        found = files_under(tmp_path)
        assert list(found) == ["a", "link", "b/c/two"]
        assert (found["a"].st_size, found["b/c/two"].st_size) == (1, 2)

    def test_a_file_that_goes_meanwhile_is_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "goes").touch()
        (tmp_path / "stays").touch()
        listed = list(os.walk(tmp_path))
        (tmp_path / "goes").unlink()
        monkeypatch.setattr(os, "walk", lambda _folder: iter(listed))
        assert list(files_under(tmp_path)) == ["stays"]

    def test_no_folder_holds_no_files(self, tmp_path: Path) -> None:
        assert files_under(tmp_path / "missing") == {}

    def test_what_is_gone_sorts_first(self, tmp_path: Path) -> None:
        (tmp_path / "there").touch()
        assert modified_ns(tmp_path / "gone") == 0
        assert modified_ns(tmp_path / "there") == (tmp_path / "there").stat().st_mtime_ns


def test_free_bytes_are_those_of_the_disk(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert 0 < free_bytes(tmp_path) <= status.f_blocks * status.f_frsize


class TestCrashPoints:
    def test_only_the_named_protocol_crashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(CRASHPOINT, "save:99")
        assert isinstance(file_system("save"), CrashingFileSystem)
        assert isinstance(file_system("state"), DiskFileSystem)

    def test_counting_goes_on_from_write_to_write(self, tmp_path: Path) -> None:
        disk = CrashingFileSystem(crash_at=99)
        disk.mkdir(tmp_path / "b")
        write_text_durably(tmp_path / "b" / "a", "x", fs=disk)
        disk.unlink(tmp_path / "b" / "a")
        assert disk.done == 6

    @pytest.mark.parametrize(("crash_at", "content"), [(1, "old"), (2, "old"), (3, "old"), (4, "new")])
    def test_a_crash_leaves_old_or_new(self, tmp_path: Path, crash_at: int, content: str) -> None:
        path = tmp_path / "a"
        write_text_durably(path, "old")
        program = (
            "import sys, pathlib\n"
            "from backend.utils.file_utils import write_text_durably\n"
            "write_text_durably(pathlib.Path(sys.argv[1]), 'new')"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={**os.environ, CRASHPOINT: f"state:{crash_at}"},
            cwd=Path(__file__).parents[3],
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL
        assert path.read_text() == content
