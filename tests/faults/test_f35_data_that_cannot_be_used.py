"""F35: every broken data file is one sentence with its place, before anything is trained; nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend import data_pipeline, trainer_main
from backend.errors import DataError, TunesmithError
from backend.run.config import DataConfig
from backend.run.folder import RunDir
from backend.run.reports import Progress, RunStatus, StepReport
from tests.faults.conftest import MakeRun

GOOD = '{"prompt": "a", "completion": "b"}\n'
MEGABYTE = 2**20


def text(content: str, name: str = "rows.jsonl") -> Callable[[Path], Path]:
    return raw(content.encode(), name)


def raw(content: bytes, name: str = "rows.jsonl") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "rows.jsonl")
    return folder / "rows.jsonl"


def link_to_itself(folder: Path) -> Path:
    (folder / "rows.jsonl").symlink_to(folder / "rows.jsonl")
    return folder / "rows.jsonl"


def one_endless_line(folder: Path) -> Path:
    """Eight times as much as a line may hold, without a line break; it takes no room on the disk."""
    path = text(GOOD)(folder)
    with path.open("r+b") as stream:
        stream.truncate(128 * MEGABYTE)
    return path


def empty_folder(folder: Path) -> Path:
    (folder / "rows").mkdir()
    return folder / "rows"


DEEP = '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + ', "completion": "x"}\n'

# what is wrong → how it is made, and what the sentence must say
BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing in it": (text(""), "is empty"),
    "only white space": (text("\n \n"), "no row|is empty|no data"),
    "columns that mean nothing": (text('{"left": "a", "right": "b"}\n'), "left, right"),
    "a missing column": (text(GOOD * 3 + '{"prompt": "a"}\n'), "rows.jsonl:4"),
    "a number for text": (text(GOOD * 3 + '{"prompt": "a", "completion": {"x": 1}}\n'), "rows.jsonl:4"),
    "null for text": (text(GOOD * 3 + '{"prompt": null, "completion": "b"}\n'), "rows.jsonl:4"),
    "a row cut short": (text(GOOD + '{"prompt": "a", "compl'), "rows.jsonl:2"),
    "a setting twice in a row": (
        text(GOOD + '{"prompt": "a", "prompt": "b", "completion": "c"}\n'),
        "rows.jsonl:2",
    ),
    "a hundred thousand brackets": (text(GOOD + DEEP), "rows.jsonl:2"),
    "bytes that are no text": (raw(b'{"prompt": "\xff\xfe\xfa", "completion": "x"}\n'), "rows.jsonl"),
    "a false Parquet file": (raw(b"PAR1" + b"\0" * 64 + b"PAR1", "rows.parquet"), "rows.parquet"),
    "a cut ZIP file": (raw(b"PK\x03\x04" + b"\0" * 40, "rows.zip"), "rows.zip"),
    "a pipe that nobody fills": (fifo, "rows.jsonl"),
    "a link to itself": (link_to_itself, "rows.jsonl"),
    "an endless line": (one_endless_line, "rows.jsonl"),
    "an empty folder": (empty_folder, "rows"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", BROKEN)
def test_f35_one_sentence_with_its_place(what: str, tmp_path: Path) -> None:
    make, told = BROKEN[what]
    path = make(tmp_path)
    with pytest.raises(DataError, match=told) as caught:
        data_pipeline.load(DataConfig(train=str(path), validation=0.0), seed=1)
    assert caught.value.remedy
    assert caught.value.code


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/tty"])
def test_f35_a_device_is_no_data(name: str) -> None:
    with pytest.raises(DataError, match=name):
        data_pipeline.load(DataConfig(train=name), seed=1)


@pytest.mark.parametrize("breaks", ["\n", "\r\n", "\r\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_f35_marks_and_line_breaks_are_no_fault(tmp_path: Path, breaks: str, mark: str) -> None:
    path = text(mark + breaks.join([GOOD.strip()] * 3))(tmp_path)
    assert len(data_pipeline.load(DataConfig(train=str(path), validation=0.0), seed=1).train) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    content=st.binary(max_size=400),
    name=st.sampled_from(["r.jsonl", "r.json", "r.csv", "r.tsv", "r.parquet"]),
)
def test_f35_any_bytes_are_rows_or_a_sentence(tmp_path: Path, content: bytes, name: str) -> None:
    path = raw(content, name)(tmp_path)
    try:
        assert data_pipeline.load(DataConfig(train=str(path), validation=0.0), seed=1).train
    except TunesmithError as error:
        assert name in str(error)  # noqa: PT017 - both ends are right


def test_f35_data_that_changed_between_two_attempts_is_refused_by_name(
    make_run: MakeRun, tmp_path: Path, rows: Path
) -> None:
    data = Path(shutil.copy(rows, tmp_path / "rows.jsonl"))
    run = make_run(tmp_path / "runs", data=data)

    def stop(progress: Progress) -> None:
        _ = [run.request_stop() for report in [progress.report] if isinstance(report, StepReport)]

    assert trainer_main.run(run, stop).status is RunStatus.STOPPED
    data.write_text(data.read_text("utf-8") + json.dumps({"prompt": "new", "completion": "row"}) + "\n")
    outcome = trainer_main.run(RunDir(run.path))
    assert (outcome.status, outcome.code) == (RunStatus.FAILED, "inputs-changed")
    assert "rows.jsonl" in outcome.message
