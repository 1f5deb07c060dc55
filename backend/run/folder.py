"""One run folder: made, found, locked, read and written, each record typed.

See docs/run-folder.md for who writes what; ``run_files`` knows what lies where.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import NextStep, RunError
from backend.run import evidence as run_state
from backend.run.environment import Environment
from backend.run.evidence import Records, read_records
from backend.run.files import RunFiles
from backend.run.lifecycle import Event, derive, require
from backend.run.locks import RunLocks, gone
from backend.run.records import (
    CONFIG_END,
    read_attempt,
    read_config_text,
    read_data_check,
    read_environment,
    read_outcome,
    read_reward_audit,
    read_ticket,
    step_of,
    utc_now,
)
from backend.run.reports import (
    DEFAULT_DEVICE,
    Attempt,
    AttemptEnd,
    DataCheck,
    Outcome,
    QueueTicket,
    RunState,
    RunStatus,
)
from backend.run.reward_audit import RewardAudit
from backend.run.root import match_name, publish_new, stamps
from backend.utils.file_utils import FileSystem, file_system, sweep_temporaries, write_json_durably
from backend.utils.jsonl_utils import JsonlTail, JsonlWriter, TailPosition, keep_lines, read_jsonl_tail
from backend.utils.process_utils import ProcessIdentity, identify
from backend.utils.record_utils import record_to_json
from backend.utils.reserve_utils import release, set_aside, with_reserve

__all__ = ["CONFIG_END", "FLIGHT_STEPS", "RunDir"]

FLIGHT_STEPS = 200
KEPT_COMPLETIONS = 2_000


@dataclass(frozen=True)
class RunDir(RunFiles):
    """One run. ``RunDir(path)`` checks nothing; ``open`` and ``find`` do."""

    @classmethod
    def create(cls, root: Path, slug: str, config_yaml: str, *, fs: FileSystem | None = None) -> RunDir:
        """A new run folder under ``root``, named ``<utc date>-<slug>-<4 hex>``; it appears whole or not at all.

        ``slug`` is any text; what a folder name cannot carry is dropped. Raises RunError when ``root`` cannot
        be written.
        """
        config = f"{config_yaml.rstrip()}\n{CONFIG_END}\n"
        _require_utf8(root.absolute())
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(OSError):  # what others left is no reason not to begin
                sweep_temporaries(root)
            return cls(publish_new(root.absolute(), slug, "config.yaml", config, fs or file_system("create")))
        except (OSError, ValueError) as error:
            raise RunError(
                f"A run folder could not be written in {root} ({getattr(error, 'strerror', None) or error}).",
                remedy="Choose another folder as `runs`, or make room there.",
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
        # unlike Path.is_dir, this is False for a name that is too long for any file
        if "/" in run or os.path.isdir(run):  # noqa: PTH112
            found = cls(Path(run).absolute())
            if found.exists():
                return found
            raise _not_a_run(Path(run))
        name = match_name(run, [found.id for found in cls.all_under(root)])
        return cls(root.absolute() / name)

    @classmethod
    def all_under(cls, root: Path) -> list[RunDir]:
        """Every run folder directly under ``root``, damaged ones included, oldest name first."""
        return [cls(root.absolute() / name) for name in stamps(root)]

    def read_config_text(self) -> str:
        """The configuration as YAML. Raises RunError when it is missing, cut short or not text."""
        return read_config_text(self.config)

    def write_environment(self, environment: Environment) -> None:
        """Write what this attempt runs on; from here on the run counts as running, no longer as starting."""
        numbered = replace(environment, attempt=self.latest_attempt_number())
        write_json_durably(self.environment, record_to_json(numbered))

    def read_environment(self) -> Environment:
        """Return what the latest attempt ran on; empty before the first. Raises RunError when damaged."""
        return read_environment(self.environment)

    def write_data_check(self, found: DataCheck) -> None:
        """Keep what the data check found in the rows of this run."""
        write_json_durably(self.data_check_file, record_to_json(found))

    def read_data_check(self) -> DataCheck:
        """Return the findings of the data check; empty if there are none. Raises RunError when damaged."""
        return read_data_check(self.data_check_file)

    def write_reward_audit(self, found: RewardAudit) -> None:
        """Keep what answers earned before training."""
        write_json_durably(self.reward_audit_file, record_to_json(found))

    def read_reward_audit(self) -> RewardAudit | None:
        """Return what answers earned before training; None if there were none. Raises RunError when damaged."""
        return read_reward_audit(self.reward_audit_file)

    def write_outcome(self, outcome: Outcome) -> None:
        """Write how the latest attempt ended: the trainer's last act."""
        number = outcome.attempt or self.latest_attempt_number()
        self._write(self.outcome_file, record_to_json(replace(outcome, attempt=number)))

    def read_outcome(self) -> Outcome | None:
        """Return the outcome of the latest attempt; None if it has none. Raises RunError when damaged."""
        outcome = read_outcome(self.outcome_file)
        return outcome if outcome and outcome.attempt == self.latest_attempt_number() else None

    def write_ticket(self, ticket: QueueTicket) -> None:
        """Take or change a place in the queue."""
        write_json_durably(self.ticket_file, record_to_json(ticket))

    def read_ticket(self) -> QueueTicket | None:
        """The place in the queue, while it counts. Raises RunError when damaged."""
        ticket = read_ticket(self.ticket_file)
        return ticket if ticket and ticket.after_attempt == self.latest_attempt_number() else None

    def drop_ticket(self) -> None:
        """Leave the queue."""
        self.ticket_file.unlink(missing_ok=True)

    def latest_attempt(self) -> Attempt | None:
        """The latest attempt; None before the first. Raises RunError when its file is damaged."""
        number = self.latest_attempt_number()
        return self.read_attempt(number) if number else None

    def read_attempt(self, number: int) -> Attempt:
        """One attempt. Raises RunError when there is none of that number or its file is damaged."""
        return read_attempt(self.attempt_file(number))

    def begin_attempt(
        self,
        command: tuple[str, ...],
        *,
        pid: int | None = None,
        supervisor: ProcessIdentity | None = None,
        token: str = "",
    ) -> Attempt:
        """Record that a new attempt begins; only who holds the lock may. ``pid`` may follow by ``set_process``."""
        _require_utf8(self.path)
        sweep_temporaries(self.path)
        sweep_temporaries(self.checkpoints, older_than_seconds=0)  # only a holder of the lock writes there
        ticket = self.read_ticket()
        attempt = Attempt(
            number=self.latest_attempt_number() + 1,
            began=utc_now(),
            command=command,
            token=token,
            process=None if pid is None else identify(pid),
            supervisor=supervisor,
            device=ticket.device if ticket else DEFAULT_DEVICE,
            folder=self.mark,
        )
        set_aside(self.reserve)
        self.attempts.mkdir(mode=0o700, exist_ok=True)
        self._record(attempt)
        self.drop_ticket()
        os.utime(self.path)  # a listing's cache watches the folder's time
        return attempt

    def set_process(self, attempt: Attempt, pid: int) -> Attempt:
        """Record which process carries out the attempt. Raises ProcessLookupError when it is gone already."""
        return self._record(replace(attempt, process=identify(pid)))

    def end_attempt(
        self,
        attempt: Attempt,
        reason: str,
        *,
        exit_code: int | None = None,
        signal_number: int | None = None,
        detail: str = "",
    ) -> Attempt:
        """Record how the process of an attempt ended; see ``AttemptEnd`` for the reasons."""
        end = AttemptEnd(utc_now(), reason, exit_code, signal_number, detail)
        ended = self._record(replace(attempt, end=end))
        release(self.reserve)
        os.utime(self.path)
        return ended

    def _record(self, attempt: Attempt) -> Attempt:
        self._write(self.attempt_file(attempt.number), record_to_json(attempt))
        return attempt

    def _write(self, path: Path, value: Mapping[str, object]) -> None:
        """Write what must be told even when the disk is full: the bytes that were set aside make room for it."""
        with_reserve(self.reserve, lambda: write_json_durably(path, value))

    def request_stop(self, reason: str = "stop-requested", *, wait_seconds: float | None = None) -> None:
        """Ask whoever works on the run to save a checkpoint and stop; ``reason`` is a stable code.

        After ``wait_seconds`` it is ended without; None leaves that to ``run_pace``. Raises OSError when the request
        cannot be written.
        """
        request = {"reason": reason, "requested": utc_now()}
        self._write(
            self.stop_file, request if wait_seconds is None else {**request, "wait_seconds": wait_seconds}
        )

    def clear_stop(self) -> None:
        """Forget a request to stop."""
        self.stop_file.unlink(missing_ok=True)

    def stop_requested(self) -> str | None:
        """The reason of a request to stop, None when there is none. Cheap enough for every step."""
        return run_state.read_stop(self)

    def stop_wait_seconds(self) -> float | None:
        """Return how long the request to stop waits for a checkpoint; None if it does not say."""
        return run_state.read_stop_wait(self)

    def metrics_writer(self) -> JsonlWriter:
        """The open end of ``metrics.jsonl``, for ``metrics_record`` lines."""
        return JsonlWriter(self.metrics_file)

    def samples_writer(self) -> JsonlWriter:
        """The open end of ``samples.jsonl``; every line has a ``step``."""
        return JsonlWriter(self.samples_file)

    def completions_writer(self) -> JsonlWriter:
        """The open end of ``completions.jsonl``, which keeps about the last ``KEPT_COMPLETIONS`` lines."""
        return JsonlWriter(self.completions_file, keep_last=KEPT_COMPLETIONS)

    def flight_writer(self) -> JsonlWriter:
        """The open end of ``flight.jsonl``, which keeps about the last ``FLIGHT_STEPS`` lines."""
        return JsonlWriter(self.flight_file, keep_last=FLIGHT_STEPS)

    def metrics(self, position: TailPosition | None = None, *, limit_bytes: int | None = None) -> JsonlTail:
        """The reports since ``position``; with ``limit_bytes`` about so much of them."""
        return read_jsonl_tail(self.metrics_file, position, limit_bytes=limit_bytes)

    def samples(self, position: TailPosition | None = None) -> JsonlTail:
        """The sample generations since ``position``."""
        return read_jsonl_tail(self.samples_file, position)

    def completions(self, position: TailPosition | None = None) -> JsonlTail:
        """The sampled answers since ``position``, with their rewards."""
        return read_jsonl_tail(self.completions_file, position)

    def flight(self) -> JsonlTail:
        """The last steps in detail."""
        return read_jsonl_tail(self.flight_file)

    def rewind_metrics(self, step: int) -> None:
        """Forget reports and samples past ``step``, so that a resumed series equals the undisturbed one."""
        for path in (self.metrics_file, self.samples_file, self.completions_file):
            keep_lines(path, lambda record: step_of(record) <= step)

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the run, alone; yields the lock's descriptor, which a child is given by its ``Handover``.

        A trainer that a supervisor started adopts the supervisor's lock. A new holder starts with no request
        to stop. Raises RunError ``already-running`` when another process holds the run, ``no-such-run``.
        """
        with self._locks.work() as (descriptor, adopted):
            if not adopted:
                self.clear_stop()
            yield descriptor

    def is_held(self) -> bool:
        """Return whether a living process works on the run."""
        return run_state.is_held(self)

    def hold_for_reading(self) -> AbstractContextManager[None]:
        """Keep the run from being deleted while it is served, exported or sent; any number may, beside a trainer.

        Raises RunError ``no-such-run`` when the run is gone or being deleted.
        """
        return self._locks.read()

    def hold_still(self) -> AbstractContextManager[None]:
        """Keep the run at rest while it is copied; nothing is written into its folder.

        Raises RunError ``already-running`` or ``no-such-run``.
        """
        return self._locks.still()

    def hold_for_deleting(self) -> AbstractContextManager[None]:
        """Hold the run against trainers and readers. Raises RunError (``already-running``, ``in-use``, …)."""
        return self._locks.delete()

    @property
    def _locks(self) -> RunLocks:
        return RunLocks(self.path, self.lock_file)

    def status(self) -> RunStatus:
        """The status of the run; derived, never stored."""
        return self.state().status

    def require(self, event: Event) -> None:
        """Pass where ``event`` may happen now. Raises RunError ``illegal-transition`` or ``no-such-run``."""
        if not self.exists():
            raise gone(self.id)
        require(self.id, self.status(), event)

    def state(self) -> RunState:
        """Return the state of the run and what to do next. Raises nothing: damage is part of the answer."""
        return self.look()[0]

    def look(self) -> tuple[RunState, Records]:
        """Return the state of the run and the records it comes from, each read once. Raises nothing."""
        evidence, records = run_state.look(self)
        return derive(evidence), records

    def state_at_rest(self) -> RunState:
        """The state as the folder tells it, for the one who holds the lock."""
        evidence, _ = run_state.look(self)
        return derive(replace(evidence, held=False))

    def damage(self) -> str:
        """Return what is wrong with the folder, in words; "" if nothing is."""
        return self.state().damage

    def set_damage_aside(self) -> list[Path]:
        """Move damaged records of past attempts out of the way, so that the run can go on; their new paths.

        The outcome of an attempt goes with its record, else it would be the next one's, which gets the same number.
        The configuration is not touched: without it there is nothing to go on with.
        """
        records = read_records(self)
        broken = [self.path / name for name in records.problems if name != self.config.name]
        if records.outcome and self.attempt_file(records.number) in broken:
            broken.append(self.outcome_file)
        return [path.rename(path.with_name(f"{path.name}.damaged-{secrets.token_hex(2)}")) for path in broken]


def _require_utf8(folder: Path) -> None:
    """Raise RunError for a place in which safetensors and tokenizers could write nothing at the end of a run."""
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RunError(
            f"No run can be trained in {folder}: the name is not UTF-8, and libraries that save models refuse that.",
            remedy="Choose another folder as `runs`, or move the runs there.",
            code="runs-not-writable",
        ) from error


def _not_a_run(path: Path) -> RunError:
    return RunError(
        f"{path} is no run folder.",
        remedy="Choose the folder of a run.",
        code="not-a-run",
        next_step=NextStep.LIST_RUNS,
    )
