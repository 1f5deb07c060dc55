"""Read what the finished runs under a folder took, for the estimate of the next one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from backend.errors import TunesmithError
from backend.manager.planning.estimator import START_SECONDS, DataFigures, PastRun, work_of
from backend.manager.planning.model_shape import read_shape
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.model_names import local_folder
from backend.run.reports import RunStatus
from backend.run.settings import run_config
from backend.utils.file_utils import files_under
from backend.utils.jsonl_utils import last_records

NEWEST = 40


def read_past(root: Path, *, newest: int = NEWEST) -> list[PastRun]:
    """The ``newest`` finished runs under ``root`` whose model is still here, newest first; others say nothing."""
    found: list[PastRun] = []
    for run in reversed(RunDir.all_under(root)):
        if len(found) == newest:
            break
        past = past_run(run)
        found += [past] if past else []
    return found


def past_run(run: RunDir) -> PastRun | None:
    """Return the work of one run and what it took; None unless it finished and all records needed are intact.

    A run that is odd in whatever way, such as one during which the clock was set back, teaches nothing.
    """
    try:
        return _past_run(run)
    except (TunesmithError, OSError, ValueError, TypeError, ArithmeticError):
        return None


def _past_run(run: RunDir) -> PastRun | None:
    if run.status() is not RunStatus.FINISHED:
        return None
    config = run_config(run)
    folder = local_folder(config.model.model_name_or_path, config.model.revision)
    if folder is None:
        return None
    environment = run.read_environment()
    data, plan = environment.data, environment.plan
    start, seconds = _seconds(run, environment)
    shape = read_shape(folder)
    # it may have ended before its rows were all tokenised
    if data.train_rows <= 0 or not data.tokens or data.tokens <= 0:
        return None
    figures = DataFigures(
        data.train_rows,
        data.tokens,
        data.trained_tokens or 0,
        data.validation_rows,
    )
    device, dtype, lanes = (plan.device, plan.dtype, plan.lanes) if plan else ("cpu", "float32", 1)
    return PastRun(
        id=run.id,
        parameters=shape.parameters,
        method=config.tuning.method,
        device=device,
        dtype=dtype,
        work=work_of(config, shape, figures, dtype=dtype, lanes=lanes),
        seconds=seconds,
        memory_bytes=_highest_memory(run),
        disk_bytes=float(sum(file.st_size for file in files_under(run.path).values())),
        rows=figures.rows + figures.validation_rows,
        start_seconds=start,
    )


def _seconds(run: RunDir, environment: Environment) -> tuple[float, float]:
    """Seconds of the latest start, 0 where not measured, and at work over all attempts, 0 where one has no length.

    An attempt's clock begins where it was asked for, before or after the imports; what lies between that and the
    latest attempt's first step is taken from each.
    """
    latest, total = run.latest_attempt_number(), 0.0
    known = bool(environment.ready) and environment.start_seconds > 0 and environment.attempt == latest
    before = _between(run.read_attempt(latest).began, environment.ready) if known else START_SECONDS
    for number in range(1, latest + 1):
        attempt = run.read_attempt(number)
        if attempt.end is None:
            return 0.0, 0.0
        whole = _between(attempt.began, attempt.end.ended)
        worked = whole - before if known and number == latest else max(whole - before, whole / 2)
        if worked <= 0:  # the clock was set back meanwhile
            return 0.0, 0.0
        total += worked
    return environment.start_seconds if known else 0.0, total


def _between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _highest_memory(run: RunDir) -> float:
    known = (record.get("memory_bytes") for record in last_records(run.flight_file))
    return float(max((value for value in known if isinstance(value, int)), default=0))
