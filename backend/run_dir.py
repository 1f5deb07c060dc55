"""The run folder: the only place that knows a file name inside one, with a typed read and write of each.

A run is a folder; see docs/lifecycle.md for who writes what. Floor F0: imports errors, reports, lifecycle
and utils.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import RunError
from backend.lifecycle import derive
from backend.reports import DEFAULT_DEVICE, Attempt, Outcome, QueueTicket, RunState, RunStatus
from backend.run_locks import LOCK_FD, RunLocks
from backend.run_records import (
    AttemptFiles,
    damaged,
    highest_number,
    match_name,
    parse_outcome,
    parse_ticket,
    publish_new,
    read_record,
    stat_or_none,
    step_of,
    utc_now,
)
from backend.run_state import read_evidence, read_records
from backend.utils.file_utils import (
    DamagedFileError,
    FileSystem,
    file_system,
    read_json_object,
    sweep_temporaries,
    write_json_durably,
)
from backend.utils.jsonl_utils import JsonlTail, JsonlWriter, TailPosition, keep_lines, read_jsonl_tail
from backend.utils.lock_utils import is_folder_held, is_locked
from backend.utils.process_utils import ProcessIdentity, identify
from backend.utils.record_utils import record_to_json

__all__ = ["CONFIG_END", "FLIGHT_STEPS", "LOCK_FD", "RunDir"]

CONFIG_END = "# end of config"
FLIGHT_STEPS = 200


class _Part:
    """A file or folder of a run: reading the attribute gives its path, which is then kept."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __set_name__(self, _owner: type[RunDir], attribute: str) -> None:
        self._attribute = attribute

    def __get__(self, run: RunDir, _owner: type[RunDir]) -> Path:
        path = run.path / self._name
        run.__dict__[self._attribute] = path
        return path


@dataclass(frozen=True)
class RunDir:
    """One run. ``RunDir(path)`` checks nothing; ``open`` and ``find`` do."""

    path: Path

    config = _Part("config.yaml")  # the whole resolved configuration; the door writes it once
    environment = _Part("environment.json")  # versions, device, fingerprints; the trainer, each attempt
    lock_file = _Part("run.lock")  # locked while a process works on the run: this is liveness
    attempts = _Part("attempts")  # a file for each attempt, from the supervisor (or a foreground trainer)
    ticket_file = _Part("queued")  # a place in the queue
    stop_file = _Part("stop")  # a request to stop; anyone may write it, an empty one counts
    train_log = _Part("train.log")  # what the trainer printed
    supervisor_log = _Part("supervisor.log")  # what the supervisor printed; empty unless it went wrong
    rejected_file = _Part("rejected.jsonl")  # rows that could not be read: place, reason, beginning
    metrics_file = _Part("metrics.jsonl")  # a line a report: the truth for curves
    samples_file = _Part("samples.jsonl")  # generations on the fixed panel at each evaluation
    flight_file = _Part("flight.jsonl")  # the last steps in detail: rows, gradient norms, memory
    system_file = _Part("system.jsonl")  # what the machine did while the run lived
    labels_file = _Part("labels.json")  # what a person says about the run: name, tags, note
    tensorboard = _Part("tensorboard")  # the metrics once more, as event files
    checkpoints = _Part("checkpoints")  # trainer states, step-000200 and so on
    adapter = _Part("adapter")  # the result of an adapter run, Hugging Face layout
    model = _Part("model")  # the result of a full run, Hugging Face layout
    outcome_file = _Part("outcome.json")  # how the latest attempt ended, in the trainer's words

    @property
    def id(self) -> str:
        """The folder's name, which is the run's name everywhere."""
        return self.path.name

    @classmethod
    def create(cls, root: Path, slug: str, config_yaml: str, *, fs: FileSystem | None = None) -> RunDir:
        """A new run folder under ``root``, named ``<utc date>-<slug>-<4 hex>``; it appears whole or not at all.

        ``slug`` is any text; what a folder name cannot carry is dropped. Raises RunError when ``root`` cannot
        be written.
        """
        config = f"{config_yaml.rstrip()}\n{CONFIG_END}\n"
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(publish_new(root.absolute(), slug, "config.yaml", config, fs or file_system("create")))
        except (OSError, ValueError) as error:
            raise RunError(
                f"A run folder could not be written in {root} ({getattr(error, 'strerror', None) or error}).",
                remedy="Choose another folder with --runs, or make room there.",
                code="runs-not-writable",
            ) from error

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """The run in this folder. Raises RunError when it is no run folder or when it is damaged."""
        run = cls(path.absolute())
        if not run.exists():
            raise _not_a_run(path)
        damage = run.damage()
        if damage:
            raise RunError(
                f"The run folder {path} is damaged: {damage}.",
                remedy="Resuming goes on from its newest good checkpoint; a copy of the folder may be better.",
                code="damaged-run",
            )
        return run

    @classmethod
    def find(cls, root: Path, run: str) -> RunDir:
        """The run that ``run`` names: a folder, an id under ``root``, or the beginning of exactly one id.

        Damaged runs are found too. Raises RunError (``no-such-run``, ``ambiguous-run``) with near names.
        """
        if "/" in run or (run and Path(run).is_dir()):
            found = cls(Path(run).absolute())
            if found.exists():
                return found
            raise _not_a_run(Path(run))
        name = match_name(run, [found.id for found in cls.all_under(root)])
        return cls(root.absolute() / name)

    @classmethod
    def all_under(cls, root: Path) -> list[RunDir]:
        """Every run folder directly under ``root``, damaged ones included, oldest name first."""
        return [cls(root.absolute() / name) for name in cls.stamps(root)]

    @classmethod
    def stamps(cls, root: Path) -> dict[str, tuple[int, ...]]:
        """The id of every run under ``root``, each with times and sizes that move when a run at rest changes.

        Those are the folder's own time and the time and size of its outcome. Plain strings, since ten thousand
        runs are looked at several times a minute.
        """
        found: dict[str, tuple[int, ...]] = {}
        try:
            entries = sorted(os.scandir(root.absolute()), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return found
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                continue
            folder = entry.stat(follow_symlinks=False).st_mtime_ns
            outcome = stat_or_none(f"{entry.path}/outcome.json")
            if outcome:
                found[entry.name] = (folder, outcome.st_mtime_ns, outcome.st_size)
            elif cls(Path(entry.path)).exists():
                found[entry.name] = (folder,)
        return found

    def exists(self) -> bool:
        """Whether the folder looks like a run, whole or damaged."""
        signs = (self.config, self.attempts, self.metrics_file, self.checkpoints, self.outcome_file)
        return any(sign.exists() for sign in signs)

    def read_config_text(self) -> str:
        """The configuration as YAML. Raises RunError when it is missing, cut short or not text."""
        try:
            text = self.config.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise damaged(self.config, f"it cannot be read ({error})") from error
        if not text.rstrip().endswith(CONFIG_END):
            raise damaged(self.config, f"it is cut short: its last line is not {CONFIG_END!r}")
        return text

    def write_environment(self, environment: Mapping[str, object]) -> None:
        """Write what this attempt runs on; from here on the run counts as running, no longer as starting."""
        number = self.latest_attempt_number()
        write_json_durably(self.environment, {"attempt": number, **environment})

    def read_environment(self) -> dict[str, object]:
        """What the latest attempt ran on; empty before the first. Raises RunError when damaged."""
        return read_record(self.environment, dict) or {}

    def write_outcome(self, outcome: Outcome) -> None:
        """Write how the latest attempt ended: the trainer's last act."""
        number = outcome.attempt or self.latest_attempt_number()
        write_json_durably(self.outcome_file, record_to_json(replace(outcome, attempt=number)))

    def read_outcome(self) -> Outcome | None:
        """How the latest attempt ended; None when it has not said. Raises RunError when damaged."""
        outcome = read_record(self.outcome_file, parse_outcome)
        return outcome if outcome and outcome.attempt == self.latest_attempt_number() else None

    def write_ticket(self, ticket: QueueTicket) -> None:
        """Take or change a place in the queue."""
        write_json_durably(self.ticket_file, record_to_json(ticket))

    def read_ticket(self) -> QueueTicket | None:
        """The place in the queue, while it counts. Raises RunError when damaged."""
        ticket = read_record(self.ticket_file, parse_ticket)
        return ticket if ticket and ticket.after_attempt == self.latest_attempt_number() else None

    def drop_ticket(self) -> None:
        """Leave the queue."""
        self.ticket_file.unlink(missing_ok=True)

    @property
    def attempt_files(self) -> AttemptFiles:
        """The files of ``attempts/``."""
        return AttemptFiles(self.attempts)

    def latest_attempt_number(self) -> int:
        """The number of the latest attempt, 0 before the first."""
        return self.attempt_files.latest_number()

    def latest_attempt(self) -> Attempt | None:
        """The latest attempt; None before the first. Raises RunError when its file is damaged."""
        number = self.latest_attempt_number()
        return self.read_attempt(number) if number else None

    def read_attempt(self, number: int) -> Attempt:
        """One attempt. Raises RunError when there is none of that number or its file is damaged."""
        return self.attempt_files.read(number)

    def begin_attempt(
        self,
        command: tuple[str, ...],
        *,
        pid: int | None = None,
        supervisor: ProcessIdentity | None = None,
        token: str = "",
    ) -> Attempt:
        """Record that a new attempt begins; only who holds the lock may. ``pid`` may follow by ``set_process``."""
        sweep_temporaries(self.path)
        sweep_temporaries(self.checkpoints, older_than_seconds=0)  # only a holder of the lock writes there
        ticket = self.read_ticket()
        attempt = Attempt(
            number=0,
            began=utc_now(),
            command=command,
            token=token,
            process=None if pid is None else identify(pid),
            supervisor=supervisor,
            device=ticket.device if ticket else DEFAULT_DEVICE,
        )
        attempt = self.attempt_files.begin(attempt)
        self.drop_ticket()
        os.utime(self.path)  # a listing's cache watches the folder's time
        return attempt

    def set_process(self, attempt: Attempt, pid: int) -> Attempt:
        """Record which process carries out the attempt. Raises ProcessLookupError when it is gone already."""
        return self.attempt_files.set_process(attempt, pid)

    def end_attempt(
        self, attempt: Attempt, reason: str, *, exit_code: int | None = None, signal_number: int | None = None
    ) -> Attempt:
        """Record how the process of an attempt ended; see ``AttemptEnd`` for the reasons."""
        ended = self.attempt_files.end(attempt, reason, exit_code, signal_number)
        os.utime(self.path)
        return ended

    def request_stop(self, reason: str = "stop-requested") -> None:
        """Ask whoever works on the run to save a checkpoint and stop; ``reason`` is a stable code."""
        write_json_durably(self.stop_file, {"reason": reason, "requested": utc_now()})

    def clear_stop(self) -> None:
        """Forget a request to stop."""
        self.stop_file.unlink(missing_ok=True)

    def stop_requested(self) -> str | None:
        """The reason of a request to stop, None when there is none. Cheap enough for every step."""
        if not self.stop_file.exists():
            return None
        try:
            return str(read_json_object(self.stop_file).get("reason", "stop-requested"))
        except (OSError, DamagedFileError):
            return "stop-requested"

    def metrics_writer(self) -> JsonlWriter:
        """The open end of ``metrics.jsonl``, for ``metrics_record`` lines."""
        return JsonlWriter(self.metrics_file)

    def samples_writer(self) -> JsonlWriter:
        """The open end of ``samples.jsonl``; every line has a ``step``."""
        return JsonlWriter(self.samples_file)

    def flight_writer(self) -> JsonlWriter:
        """The open end of ``flight.jsonl``, which keeps about the last ``FLIGHT_STEPS`` lines."""
        return JsonlWriter(self.flight_file, keep_last=FLIGHT_STEPS)

    def metrics(self, position: TailPosition | None = None) -> JsonlTail:
        """The reports since ``position``."""
        return read_jsonl_tail(self.metrics_file, position)

    def samples(self, position: TailPosition | None = None) -> JsonlTail:
        """The sample generations since ``position``."""
        return read_jsonl_tail(self.samples_file, position)

    def flight(self) -> JsonlTail:
        """The last steps in detail."""
        return read_jsonl_tail(self.flight_file)

    def rewind_metrics(self, step: int) -> None:
        """Forget reports and samples past ``step``, so that a resumed series equals the undisturbed one."""
        for path in (self.metrics_file, self.samples_file):
            keep_lines(path, lambda record: step_of(record) <= step)

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the run, alone; yields the lock's descriptor, which a child is given by ``LOCK_FD``.

        A trainer that a supervisor started adopts the supervisor's lock. A new holder starts with no request
        to stop. Raises RunError ``already-running`` when another process holds the run, ``no-such-run``.
        """
        with self._locks.work() as (descriptor, adopted):
            if not adopted:
                self.clear_stop()
            yield descriptor

    def is_held(self) -> bool:
        """Whether a living process works on the run."""
        return is_locked(self.lock_file)

    def hold_for_reading(self) -> AbstractContextManager[None]:
        """Keep the run from being deleted while it is served, exported or sent; any number may, beside a trainer.

        Raises RunError ``no-such-run`` when the run is gone or being deleted.
        """
        return self._locks.read()

    def is_in_use(self) -> bool:
        """Whether somebody holds the run for reading."""
        return is_folder_held(self.path)

    def hold_for_deleting(self) -> AbstractContextManager[None]:
        """Hold the run against trainers and readers. Raises RunError (``already-running``, ``in-use``, …)."""
        return self._locks.delete()

    @property
    def _locks(self) -> RunLocks:
        return RunLocks(self.path, self.lock_file)

    def status(self) -> RunStatus:
        """Where the run stands; derived, never stored."""
        return self.state().status

    def state(self) -> RunState:
        """Where the run stands, why, and what to do next. Raises nothing: damage is part of the answer."""
        evidence = read_evidence(self)
        if not evidence.held and self.is_held():  # it was started while we were reading
            evidence = read_evidence(self)
        return derive(evidence)

    def state_at_rest(self) -> RunState:
        """The state as the folder tells it, for the one who holds the lock."""
        return derive(replace(read_evidence(self), held=False))

    def damage(self) -> str:
        """What is wrong with the folder, in words; empty when nothing is."""
        return read_evidence(self).damage

    def set_damage_aside(self) -> list[Path]:
        """Move damaged records of past attempts out of the way, so that the run can go on; their new paths.

        The configuration is not touched: without it there is nothing to go on with.
        """
        broken = [path for path in read_records(self).problems if path != self.config]
        return [path.rename(path.with_name(f"{path.name}.damaged-{secrets.token_hex(2)}")) for path in broken]

    def result_folder(self) -> Path | None:
        """The trained ``adapter/`` or ``model/``; None before the run has finished one."""
        return next((path for path in (self.adapter, self.model) if path.is_dir()), None)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step-{step:06d}"

    def newest_checkpoint_step(self) -> int:
        """The step of the newest published checkpoint, 0 before the first; nothing is verified here."""
        return highest_number(self.checkpoints, r"step-(\d{1,12})")


def _not_a_run(path: Path) -> RunError:
    return RunError(
        f"{path} is no run folder.", remedy="See the runs with: tunesmith runs list", code="not-a-run"
    )
