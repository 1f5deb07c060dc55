"""S07, S08, S15, S16: names lead nowhere else, archives and texts stay in bounds, files are their owner's."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from backend import data_pipeline, trainer_main
from backend.commands.cli import main
from backend.errors import ConfigError, DataError, RunError, TunesmithError
from backend.manager.bundle import opened_bundle
from backend.manager.run_manager import RunManager
from backend.run.config import DataConfig
from backend.run.folder import RunDir
from backend.utils.config_utils import parse_yaml
from backend.utils.file_utils import UnsafeNameError, parse_json, safe_join
from tests.runs import SHORT, learner_folder, make_run, write_rows

EVIL_NAMES = [
    *(
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "a\\b",
        "C:x",
        "~",
        "a\0b",
        "a\n",
        "-rf ",
        "a b",
        "%2e%2e",
        "%252e%252e",
    ),
    *(
        "..%2fx",
        "x/../../y",
        "con",
        "nul.txt",
        "com1",
        "a.",
        ".hidden",
        "x" * 65,
        "ünïcödé",
        "\u202egnp",
        "\uff0e\uff0e",
    ),
]


class TestNames:
    @pytest.mark.parametrize("name", EVIL_NAMES)
    def test_s07_none_leads_out(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UnsafeNameError):
            safe_join(tmp_path, name)

    def test_s07_a_folder_that_only_begins_alike_is_outside(self, tmp_path: Path) -> None:
        (tmp_path / "runs-secret").mkdir()
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "link").symlink_to(tmp_path / "runs-secret")
        with pytest.raises(UnsafeNameError, match="leads out"):
            safe_join(tmp_path / "runs", "link")

    @pytest.mark.parametrize("name", EVIL_NAMES)
    def test_s07_no_command_deletes_by_one(self, tmp_path: Path, name: str) -> None:
        run = RunDir.create(tmp_path / "runs", "a", "seed: 1")
        precious = tmp_path / "x"
        precious.mkdir()
        with pytest.raises((RunError, ValueError)):
            RunManager(tmp_path / "runs").delete(name)
        assert run.exists()
        assert precious.is_dir()


def bundle(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 1) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size if kind == tarfile.REGTYPE else 0
    return made


EVIL_MEMBERS = {
    "a path upwards": member("../evil"),
    "a path upwards inside": member("run/../../evil"),
    "an absolute path": member("/tmp/evil"),  # noqa: S108 - that is the point
    "a link upwards": member("run/link", tarfile.SYMTYPE, "../../evil"),
    "a link to a file of the system": member("run/link", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link outside": member("run/link", tarfile.LNKTYPE, "../../evil"),
    "a device": member("run/device", tarfile.CHRTYPE),
    "a pipe": member("run/pipe", tarfile.FIFOTYPE),
}


class TestArchives:
    @pytest.mark.parametrize("what", EVIL_MEMBERS)
    def test_s08_a_bundle_cannot_write_elsewhere(self, tmp_path: Path, what: str) -> None:
        place = tmp_path / "deep" / "place"
        evil = bundle(tmp_path / "evil.tar.gz", member("run/config.yaml"), EVIL_MEMBERS[what])
        with pytest.raises(RunError) as caught, opened_bundle(evil, place):
            pytest.fail("opened")
        assert caught.value.code == "bad-bundle"
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "evil.tar.gz", "place"]

    @pytest.mark.parametrize(
        "what", ["a path upwards", "an absolute path", "a link to a file of the system", "a device"]
    )
    def test_s08_rows_come_from_no_such_archive(self, tmp_path: Path, what: str) -> None:
        evil = bundle(tmp_path / "rows.tar.gz", EVIL_MEMBERS[what])
        with pytest.raises(DataError):
            data_pipeline.load(DataConfig(train=str(evil)), seed=1)
        assert [path.name for path in tmp_path.iterdir()] == ["rows.tar.gz"]

    @pytest.mark.timeout(60)
    def test_s08_a_bomb_is_stopped(self, tmp_path: Path) -> None:
        bomb = tmp_path / "rows.zip"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(
                "rows.jsonl", b'{"prompt": "' + b"a" * (300 * 2**20) + b'", "completion": "b"}\n'
            )
        with pytest.raises(DataError):
            data_pipeline.load(DataConfig(train=str(bomb)), seed=1)


class TestTexts:
    @pytest.mark.parametrize(
        "text",
        [
            "a: &a [x, x]\nb: *a\n",
            "a: !!python/object/apply:os.system [touch harm]\n",
            "a: !!python/name:os.system\n",
            "[" * 2000 + "]" * 2000,
            "a: " + "x" * 1_100_000,
            "<<: {a: 1}\n<<: {b: 2}\n",
        ],
    )
    def test_s15_yaml_has_bounds(self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError):
            parse_yaml(text, where="evil.yaml")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("data", [b"NaN", b'{"a": Infinity}', b"[" * 200_000, b'"\xff"', b"{"])
    def test_s15_json_has_bounds(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="line 1 column"):
            parse_json(data)


def test_s16_what_a_run_writes_is_its_owners(tmp_path: Path) -> None:
    """A folder that only its owner may enter; the records in it are 0600 besides."""
    before = os.umask(0)  # the most careless account there is
    try:
        model, rows = learner_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
        run = make_run(tmp_path / "runs", model, rows, SHORT)
        trainer_main.run(run)
    finally:
        os.umask(before)
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    records = [run.config, run.environment, run.outcome_file, run.metrics_file, run.lock_file]
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in records if path.exists()}
    assert set(modes.values()) == {"0o600"}, modes
    assert len(modes) >= 5


def test_s16_no_log_is_written_through_a_link(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs", "a", "seed: 1")
    (tmp_path / "precious").write_text("mine")
    run.metrics_file.symlink_to(tmp_path / "precious")
    with pytest.raises((OSError, TunesmithError)):
        run.metrics_writer()
    assert (tmp_path / "precious").read_text() == "mine"


def test_s07_the_command_line_deletes_nothing_by_half_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir.create(tmp_path / "runs", "a", "seed: 1")
    assert main(["runs", "delete", "../runs", "--yes", "--runs", str(tmp_path / "runs")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run.exists()
