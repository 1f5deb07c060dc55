"""The durable protocols, each with the judgement of a disk that a power cut left: what must hold, in words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import RunError
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus
from backend.utils.file_utils import (
    DamagedFileError,
    FileSystem,
    publish_folder,
    read_json_object,
    remove_folder,
    sha256_file,
    write_json_durably,
)
from tests.faults.crash_states import MEMORY, Recorder, Tree, crash_states, read_tree, write_tree


@dataclass(frozen=True)
class Protocol:
    """``prepare`` makes the disk before, ``act`` is what is cut short, ``judge`` says what is wrong after it.

    ``judge`` is given the disk and whether ``act`` had returned; it answers "" when all is well.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, FileSystem], None]
    judge: Callable[[Path, bool], str]


def nothing(_: Path) -> None:
    """An empty disk."""


# --- replacing a small record -----------------------------------------------------------------------------


def record_before(root: Path) -> None:
    write_json_durably(root / "outcome.json", {"step": 1})


def write_record(root: Path, fs: FileSystem) -> None:
    write_json_durably(root / "outcome.json", {"step": 2, "message": "done " * 10}, fs=fs)


def judge_record(root: Path, acknowledged: bool) -> str:
    try:
        step = read_json_object(root / "outcome.json")["step"]
    except (OSError, DamagedFileError, KeyError) as error:
        return f"the record is lost: {error}"
    return "" if step == 2 or not acknowledged else "an acknowledged record went back"


# --- creating a run ---------------------------------------------------------------------------------------


def create_run(root: Path, fs: FileSystem) -> None:
    RunDir.create(root, "tiny", "seed: 1\nmodel:\n  name: tiny\n", fs=fs)


def judge_created(root: Path, acknowledged: bool) -> str:
    runs = RunDir.all_under(root)
    wrong = [run.state().message for run in runs if run.status() is not RunStatus.CREATED]
    if wrong:
        return f"a half-made run shows: {wrong[0]}"
    return "" if runs or not acknowledged else "an acknowledged run is gone"


# --- publishing a checkpoint ------------------------------------------------------------------------------

FILES = {"weights": b"w" * 40, "optimizer": b"o" * 30, "state": b'{"step": 2}'}


def stage_and_publish(root: Path, step: int, fs: FileSystem) -> None:
    staging = root / f".step-{step}.0123456789abcdef.tmp"
    staging.mkdir()
    for name, data in FILES.items():
        (staging / name).write_bytes(data + bytes([step]))
    hashes = {name: sha256_file(staging / name) for name in FILES}
    (staging / "manifest.json").write_text(json.dumps(hashes))
    publish_folder(staging, root / f"step-{step}", fs=fs)


def checkpoint_before(root: Path) -> None:
    stage_and_publish(root, 1, Recorder(root))


def save_checkpoint(root: Path, fs: FileSystem) -> None:
    stage_and_publish(root, 2, fs)


def judge_checkpoints(root: Path, acknowledged: bool) -> str:
    for step in (1, 2):
        folder = root / f"step-{step}"
        if folder.exists() and not _is_whole(folder):
            return f"step-{step} is half a checkpoint under its final name"
    if not (root / "step-1").exists():
        return "the older checkpoint is gone"
    return "" if (root / "step-2").exists() or not acknowledged else "an acknowledged checkpoint is gone"


def _is_whole(folder: Path) -> bool:
    try:
        hashes = read_json_object(folder / "manifest.json")
        return set(hashes) == set(FILES) and all(
            sha256_file(folder / name) == hashes[name] for name in hashes
        )
    except (OSError, DamagedFileError):
        return False


# --- deleting a run ---------------------------------------------------------------------------------------


def run_before(root: Path) -> None:
    run = RunDir.create(root, "tiny", "seed: 1")
    run.begin_attempt(("a",))
    run.write_outcome(Outcome(RunStatus.STOPPED, "paused", "Paused."))


def delete_run(root: Path, fs: FileSystem) -> None:
    (run,) = RunDir.all_under(root)
    remove_folder(run.path, fs=fs)


def judge_deleted(root: Path, acknowledged: bool) -> str:
    runs = RunDir.all_under(root)
    try:
        half = [run.id for run in runs if RunDir.open(run.path).status() is not RunStatus.STOPPED]
    except RunError as error:
        half = [error.message]
    if half:
        return f"half a run is left: {half[0]}"
    return "a deleted run came back" if runs and acknowledged else ""


# --- what Trainer-like code does, to show that the method finds what it looks for ---------------------------


def save_in_place(root: Path, fs: FileSystem) -> None:
    """No staging, no fsync, manifest first: nearly every state is bad."""
    folder = root / "step-2"
    fs.mkdir(folder)
    for name, data in FILES.items():
        fs.write(folder / name, data)


PROTOCOLS = (
    Protocol("record", record_before, write_record, judge_record),
    Protocol("create", nothing, create_run, judge_created),
    Protocol("save", checkpoint_before, save_checkpoint, judge_checkpoints),
    Protocol("delete", run_before, delete_run, judge_deleted),
)
NAIVE = Protocol("save in place", checkpoint_before, save_in_place, judge_checkpoints)


@dataclass(frozen=True)
class Verdict:
    """How many states a protocol can leave, and what is wrong with the bad ones."""

    states: int
    bad: tuple[str, ...]


def examine(protocol: Protocol, folder: Path) -> Verdict:
    """Run a protocol once on a real disk, then judge every state that a power cut could have left."""
    root = folder / "recorded"
    root.mkdir()
    protocol.prepare(root)
    before = read_tree(root)
    recorder = Recorder(root)
    protocol.act(root, recorder)
    judged = [
        _judge(protocol, tree, acknowledged) for tree, acknowledged in crash_states(before, recorder.steps)
    ]
    return Verdict(len(judged), tuple(problem for problem in judged if problem))


def _judge(protocol: Protocol, tree: Tree, acknowledged: bool) -> str:
    with tempfile.TemporaryDirectory(prefix="crash-state-", dir=MEMORY) as place:
        write_tree(Path(place), tree)
        return protocol.judge(Path(place), acknowledged)
