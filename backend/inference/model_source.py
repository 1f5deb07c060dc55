"""What is meant by a model: a run's result or checkpoint, its base, or any model the loader knows.

Nothing is loaded here; the files are found and verified: read and hashed once, then only looked at until one of
them changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backend.core.model_folder import model_fingerprint
from backend.core.model_resolver import resolve_model
from backend.errors import ModelError, RunError
from backend.inference.shared_base import Adapter
from backend.run.checkpoints import step_meant, step_name, verify_folder
from backend.run.config import ModelConfig
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.metrics import best_step, held_out_losses
from backend.run.settings import run_config
from backend.utils.unchanged import FolderMarks, folder_marks, while_unchanged


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies: the folder of its ``base`` weights, the ``adapter`` over them, its ``tokenizer``.

    ``base_marks`` tell other weights in the same folder from these. ``chat_template`` is the setting of a run, where
    its tokenizer still has the template of the base; ``template_time`` is the time that the template prints, where it
    prints the date (None: the present one). ``run`` is the run that trained the weights, where one did.
    """

    base: Path
    adapter: Adapter | None
    tokenizer: Path
    base_marks: FolderMarks
    chat_template: str | None = None
    template_time: datetime | None = None
    run: RunDir | None = None

    def held(self) -> AbstractContextManager[None]:
        """Keep the run from being deleted while its weights are in use. Raises RunError ``no-such-run``."""
        return nullcontext() if self.run is None else self.run.hold_for_reading()


def find_model(
    source: str | Path | RunDir,
    *,
    checkpoint: int | str | None = None,
    base: bool = False,
    base_model: str | Path | None = None,
) -> ModelSource:
    """The model of a run (folder or RunDir), or in a folder, by an alias or a hub id.

    ``checkpoint`` picks a step of a run ("latest", "best" or a number) instead of its result; ``base=True`` leaves
    away what was trained, and is asked under the template of the run all the same. A run that trained every weight
    has its result as its base. ``base_model`` is where the base of a run lies, if it was moved. Raises RunError
    (unfinished-run, damaged-checkpoint, no-such-checkpoint), those of ``base_of``, and ModelError.
    """
    run = source if isinstance(source, RunDir) else _as_run(source)
    if run is None:
        if base_model is not None:
            raise RunError(
                f"{source} is no run, so it has no base model at another place.",
                remedy="Leave --base-model out.",
                code="no-such-run",
            )
        folder = resolve_model(str(source))
        return ModelSource(folder, None, folder, folder_marks(folder))
    with run.hold_for_reading():
        config, facts = run_config(run), run.read_environment().facts
        time = facts.template_time if facts else None
        tuned = None if base else tuned_folder(run, checkpoint)
        own = tuned is not None and (tuned / "tokenizer.json").exists()
        if tuned is not None and own and config.tuning.trains_all:
            return ModelSource(tuned, None, tuned, folder_marks(tuned), None, time, run)
        folder = base_of(run, base_model)
        words, template = (tuned, None) if tuned and own else (folder, config.model.chat_template)
        if tuned is None:
            return ModelSource(folder, None, folder, folder_marks(folder), template, time)
        if config.tuning.trains_all:
            return ModelSource(tuned, None, words, folder_marks(tuned), template, time, run)
        return ModelSource(folder, Adapter.at(tuned), words, folder_marks(folder), template, time, run)


def base_of(run: RunDir, base_model: str | Path | None = None) -> Path:
    """Return the folder of the base that ``run`` was trained over; ``base_model`` is where it lies now, if it moved.

    Every reader of a run's base asks here, so that none answers from, or exports, another model. A run that never
    began to train has no base yet but what its configuration names. Raises RunError ``base-changed`` with both
    fingerprints, and ModelError where there is no model.
    """
    facts = run.read_environment().facts
    folder = _as_configured(run, facts) if base_model is None else resolve_model(str(base_model))
    if facts is None and base_model is None:
        return folder
    now, before = _fingerprint(folder), facts.model if facts is not None else "not known yet"
    if now != before:
        raise RunError(
            f"{folder} is not the base model that {run.id} was trained over: its fingerprint is {now}, "
            f"that of the base is {before}.",
            remedy="Put that model back there, or name the place where it lies now with --base-model.",
            code="base-changed",
        )
    return folder


def is_base_of(run: RunDir, place: str | Path) -> bool:
    """Return whether the model at ``place`` is the one that ``run`` was trained over. Raises ModelError."""
    facts = run.read_environment().facts
    return facts is not None and facts.model == _fingerprint(resolve_model(str(place)))


def base_revision(model: ModelConfig, facts: Facts | None) -> str | None:
    """Return the revision of a base on the Hub: the commit that a run was trained over, before a name that moves."""
    return facts.revision if facts is not None and facts.revision else model.revision


def _as_configured(run: RunDir, facts: Facts | None) -> Path:
    model = run_config(run).model
    try:
        return resolve_model(model.model_name_or_path, revision=base_revision(model, facts))
    except ModelError as error:
        raise ModelError(
            f"The base model of {run.id} is not where it was: {error.message}",
            remedy="Put it back there, or name the place where it lies now with --base-model.",
            code=error.code,
        ) from error


_fingerprint = while_unchanged(model_fingerprint)
_verify = while_unchanged(verify_folder)


def tuned_folder(run: RunDir, checkpoint: int | str | None = None) -> Path:
    """The verified folder with the trained weights: the result, or the checkpoint asked for.

    Raises RunError (unfinished-run, damaged-checkpoint, no-such-checkpoint).
    """
    if checkpoint is None:
        folder = run.result_folder()
        if folder is None:
            raise RunError(
                f"The run {run.id} has no result: it is {run.status()}.",
                remedy=f"Finish it with `tunesmith runs resume {run.id}`, or use a checkpoint.",
                code="unfinished-run",
            )
    else:
        steps = run.checkpoint_steps()
        step = _step_meant(run, steps, checkpoint)
        if step not in steps:
            raise RunError(
                f"The run {run.id} has no checkpoint {checkpoint}.",
                remedy=f"It has {', '.join(map(step_name, steps)) or 'none yet'}.",
                code="no-such-checkpoint",
            )
        folder = run.checkpoint(step)
    _verify(folder)
    return folder


def _as_run(source: str | Path) -> RunDir | None:
    """The run in a folder, or None where the folder is no run."""
    path = Path(source)
    return RunDir.open(path) if (path / "config.yaml").is_file() else None


def _step_meant(run: RunDir, steps: Sequence[int], checkpoint: int | str) -> int:
    """Return the step of ``latest``, ``best``, a number or a checkpoint's name; -1 where there is no such thing."""
    if checkpoint == "best":
        best = best_step(held_out_losses(run.metrics().records))
        return -1 if best is None else best
    if checkpoint == "latest":
        return steps[-1] if steps else -1
    named = step_meant(str(checkpoint))
    return -1 if named is None else named
