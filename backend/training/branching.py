"""Create a branch: a new run that continues from a checkpoint of another run with changed settings.

The other run is not changed. The branch gets copies of its checkpoints up to the branching point, its metrics so far
and its recorded environment, so that the trainer resumes it like any run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import AutoConfig

from backend.errors import RunError
from backend.inference.model_source import base_of
from backend.run.config import RunConfig, config_yaml
from backend.run.folder import RunDir
from backend.run.methods import default_learning_rate
from backend.run.settings import parse_config, run_config
from backend.training.checkpoint import Checkpoint, newest_good, read_checkpoint
from backend.training.inputs import read_inputs
from backend.utils.file_utils import publish_folder, scratch_folder


@dataclass(frozen=True)
class Branch:
    """A new run, not started, and the step it continues from; 0 if from the beginning."""

    run: RunDir
    step: int


def branch_off(
    run: RunDir,
    *,
    skip_rows: Sequence[str] = (),
    rate_factor: float | None = None,
    micro_batch_tokens: int | None = None,
    base_model: str | None = None,
    from_step: int | None = None,
) -> tuple[RunDir, str]:
    """Make a new run off ``run`` with these changes; return it and its note, which says where it comes from.

    Raises what ``changed_config``, ``read_inputs`` and ``branch`` raise, before anything is written.
    """
    config = changed_config(
        run,
        skip_rows=skip_rows,
        rate_factor=rate_factor,
        micro_batch_tokens=micro_batch_tokens,
        base_model=base_model,
    )
    read_inputs(config)  # what the data check says of these rows was settled when the first run began
    made = branch(run, config, from_step=from_step)
    changes = [
        (rate_factor, f"learning rate {config.training.learning_rate:g}" if rate_factor else ""),
        (skip_rows, f"without {', '.join(skip_rows)}"),
        (micro_batch_tokens, f"{config.training.micro_batch_tokens} tokens at once"),
        (base_model, f"over the base model in {config.model.model_name_or_path}"),
    ]
    changed = "".join(f", {words}" for change, words in changes if change)
    note = f"Branched off {run.id} at step {made.step}{changed}."
    return made.run, note


def changed_config(
    run: RunDir,
    *,
    skip_rows: Sequence[str] = (),
    rate_factor: float | None = None,
    micro_batch_tokens: int | None = None,
    base_model: str | None = None,
) -> RunConfig:
    """Return the configuration of ``run``, changed: without the rows in the places ``skip_rows``, and so on.

    ``rate_factor`` scales the peak learning rate. ``base_model`` is where the base is now. Raises RunError
    ``bad-factor`` for a factor not between 0 and 1 and those of ``base_of``, ConfigError for a size out of range.
    """
    config = run_config(run)
    if rate_factor is not None and not 0 < rate_factor < 1:
        raise RunError(
            f"{rate_factor:g} does not lower the learning rate.",
            remedy="Give a factor between 0 and 1, such as 0.5.",
            code="bad-factor",
        )
    model, training = dict[str, object](), dict[str, object]()
    if base_model is not None:
        model = {"model_name_or_path": str(base_of(run, base_model).absolute()), "revision": None}
    if rate_factor is not None:
        peak = config.training.learning_rate or _default_peak(run, config, base_model)
        training["learning_rate"] = float(f"{rate_factor * peak:.6g}")
    if micro_batch_tokens is not None:
        training["micro_batch_tokens"] = micro_batch_tokens
    skipped = [*config.data.skip_rows, *(row for row in skip_rows if row not in config.data.skip_rows)]
    changed = config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "data": config.data.model_copy(update={"skip_rows": skipped}),
            "training": config.training.model_copy(update=training),
        }
    )
    return parse_config(changed.model_dump())


def _default_peak(run: RunDir, config: RunConfig, base_model: str | None) -> float:
    """Return the peak learning rate that the trainer chooses by default, from method and model width."""
    folder = base_of(run, base_model)
    model = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    width = int(model.get_text_config().hidden_size)
    return default_learning_rate(
        config.tuning.method, width, config.objective.method, optim=config.training.optim
    )


def branch(run: RunDir, config: RunConfig, *, from_step: int | None = None) -> Branch:
    """Create a run beside ``run`` that continues with ``config`` from its newest good checkpoint, or ``from_step``.

    It appears whole or not at all. Raises RunError: ``already-running``, ``no-such-checkpoint``, ``nothing-left``
    when that checkpoint is the last one, ``cannot-branch`` when the disk refuses.
    """
    root = run.path.parent
    with run.lock():
        start = _starting_point(run, from_step)
        try:
            with scratch_folder(root / "branch") as aside:
                made = RunDir.create(aside, config.name or "branch", config_yaml(config))
                _fill(made, run, start)
                publish_folder(made.path, root / made.id)
        except OSError as error:
            raise RunError(
                f"The branch of {run.id} could not be written in {root} ({error.strerror}).",
                remedy="Make room there; the run itself is untouched.",
                code="cannot-branch",
            ) from error
    return Branch(RunDir(root / made.id), start.step if start else 0)


def _starting_point(run: RunDir, step: int | None) -> Checkpoint | None:
    if step is None:
        start, _ = newest_good(run.checkpoints)
    else:
        start = _checkpoint_of(run, step)
    if start and start.notes.get("done"):
        raise RunError(
            f"The checkpoint of step {start.step} is the last of {run.id}; nothing is left to train from there.",
            remedy=f"Choose an earlier one as `from_step`: {_steps(run, start.step)}.",
            code="nothing-left",
        )
    return start


def _checkpoint_of(run: RunDir, step: int) -> Checkpoint:
    if not run.checkpoint(step).is_dir():
        raise RunError(
            f"{run.id} has no checkpoint of step {step}.",
            remedy=f"It has: {_steps(run)}.",
            code="no-such-checkpoint",
        )
    return read_checkpoint(run.checkpoint(step))


def _steps(run: RunDir, below: int | None = None) -> str:
    steps = run.checkpoint_steps()
    return ", ".join(str(step) for step in steps if below is None or step < below) or "none"


def _fill(made: RunDir, run: RunDir, start: Checkpoint | None) -> None:
    """Copy environment, checkpoints and metrics into the new run; without a checkpoint ``start``, the first alone."""
    if run.environment.exists():
        made.write_environment(run.read_environment())
    if start is None:
        return
    for step in run.checkpoint_steps():
        if step <= start.step:
            shutil.copytree(run.checkpoint(step), made.checkpoint(step))
    for source, target in ((run.metrics_file, made.metrics_file), (run.samples_file, made.samples_file)):
        if source.exists():
            shutil.copyfile(source, target)
    made.rewind_metrics(start.step)
    if run.tensorboard.is_dir():
        shutil.copytree(run.tensorboard, made.tensorboard)
