"""Resolve a model: a run's result or checkpoint, its base, or any model folder, alias or Hub id.

Nothing is loaded here. Files are found and verified by hash; a folder is hashed again only when one of its files has
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from backend.core.device import plan_compute, torch_dtype
from backend.core.model_folder import model_fingerprint
from backend.core.model_resolver import resolve_model
from backend.core.quantized import Quantization
from backend.errors import ModelError, NextStep, RunError
from backend.inference.shared_base import Adapter
from backend.run.checkpoints import step_meant, step_name, verify_folder
from backend.run.config import ModelConfig
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.metrics import best_step, held_out_losses
from backend.run.settings import run_config
from backend.utils.unchanged import FolderMarks, folder_marks, while_unchanged

BaseKey: TypeAlias = tuple[Path, Quantization | None]


@dataclass(frozen=True)
class ModelSource:
    """The files of a model: the folder of its ``base`` weights, the ``adapter`` over them, its ``tokenizer`` folder.

    ``base_marks`` change when the weights in that folder do. ``chat_template`` is the run's setting, to be applied to
    the tokenizer of the base. ``template_time`` is the time that a template which prints the date prints (None: now).
    ``run`` is the run that trained the weights, if one did. ``quantization`` is how the base was stored in training.
    """

    base: Path
    adapter: Adapter | None
    tokenizer: Path
    base_marks: FolderMarks
    chat_template: str | None = None
    template_time: datetime | None = None
    run: RunDir | None = None
    quantization: Quantization | None = None

    @property
    def base_key(self) -> BaseKey:
        """What decides which base is in memory: two sources with the same key may share one."""
        return self.base, self.quantization

    def held(self) -> AbstractContextManager[None]:
        """Return a context that keeps the run from being deleted. Raises RunError ``no-such-run``."""
        return nullcontext() if self.run is None else self.run.hold_for_reading()


def find_model(
    source: str | Path | RunDir,
    *,
    checkpoint: int | str | None = None,
    base: bool = False,
    base_model: str | Path | None = None,
) -> ModelSource:
    """Return the files of a model, given a run (folder or RunDir), a model folder, an alias or a Hub id.

    ``checkpoint`` picks a step of a run ("latest", "best" or a number) instead of its result. ``base=True`` returns
    the base without what was trained, still with the run's chat template. After full fine-tuning the result itself is
    the ``base``. ``base_model`` is where the base of a run is now, if it was moved. Raises RunError (unfinished-run,
    damaged-checkpoint, no-such-checkpoint), those of ``base_of``, and ModelError.
    """
    run = source if isinstance(source, RunDir) else _as_run(source)
    if run is None:
        if base_model is not None:
            raise RunError(
                f"{source} is no run, so it has no base model at another place.",
                remedy="Leave `base_model` out.",
                code="no-such-run",
            )
        folder = resolve_model(str(source))
        return ModelSource(folder, None, folder, folder_marks(folder))
    with run.hold_for_reading():
        config, environment = run_config(run), run.read_environment()
        time = environment.facts.template_time if environment.facts else None
        tuned = None if base else tuned_folder(run, checkpoint)
        own = tuned is not None and (tuned / "tokenizer.json").exists()
        if tuned is not None and own and config.tuning.trains_all:
            return ModelSource(tuned, None, tuned, folder_marks(tuned), None, time, run)
        folder = base_of(run, base_model)
        words, template = (tuned, None) if tuned and own else (folder, config.model.chat_template)
        if tuned is not None and config.tuning.trains_all:
            return ModelSource(tuned, None, words, folder_marks(tuned), template, time, run)
        plan = environment.plan or plan_compute(config.model.dtype)
        stored = Quantization.of(config.model, torch_dtype(plan))
        if tuned is None:
            return ModelSource(folder, None, folder, folder_marks(folder), template, time, None, stored)
        return ModelSource(
            folder, Adapter.at(tuned), words, folder_marks(folder), template, time, run, stored
        )


def base_of(run: RunDir, base_model: str | Path | None = None) -> Path:
    """Return the folder of the base that ``run`` was trained on; ``base_model`` is where it is now, if it was moved.

    Everything that needs a run's base calls this, so that nothing answers from, or exports, another model. A run that
    never started training has only the base that its configuration names. Raises RunError ``base-changed`` with both
    fingerprints, and ModelError if there is no model.
    """
    facts = run.read_environment().facts
    folder = _as_configured(run, facts) if base_model is None else resolve_model(str(base_model))
    if facts is None and base_model is None:
        return folder
    now, before = fingerprint_of(folder), facts.model if facts is not None else "not known yet"
    if now != before:
        raise RunError(
            f"{folder} is not the base model that {run.id} was trained over: its fingerprint is {now}, "
            f"that of the base is {before}.",
            remedy="Put that model back there, or name the place where it lies now as `base_model`.",
            code="base-changed",
        )
    return folder


def is_base_of(run: RunDir, place: str | Path) -> bool:
    """Return True if the model at ``place`` is the one that ``run`` was trained on. Raises ModelError."""
    facts = run.read_environment().facts
    return facts is not None and facts.model == fingerprint_of(resolve_model(str(place)))


def base_revision(model: ModelConfig, facts: Facts | None) -> str | None:
    """Return the Hub revision of a base: the commit that a run was trained on, if known; a branch name may move."""
    return facts.revision if facts is not None and facts.revision else model.revision


def _as_configured(run: RunDir, facts: Facts | None) -> Path:
    model = run_config(run).model
    try:
        return resolve_model(model.model_name_or_path, revision=base_revision(model, facts))
    except ModelError as error:
        raise ModelError(
            f"The base model of {run.id} is not where it was: {error.message}",
            remedy="Put it back there, or name the place where it lies now as `base_model`.",
            code=error.code,
        ) from error


fingerprint_of = while_unchanged(model_fingerprint)
_verify = while_unchanged(verify_folder)


def tuned_folder(run: RunDir, checkpoint: int | str | None = None) -> Path:
    """Return the verified folder of the trained weights: the result, or ``checkpoint``.

    Raises RunError (unfinished-run, damaged-checkpoint, no-such-checkpoint).
    """
    if checkpoint is None:
        folder = run.result_folder()
        if folder is None:
            raise RunError(
                f"The run {run.id} has no result: it is {run.status()}.",
                remedy="Finish it, or use a checkpoint.",
                code="unfinished-run",
                next_step=NextStep.RESUME,
                about=run.id,
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
    """Return the run in the folder ``source``, or None if it is no run."""
    path = Path(source)
    return RunDir.open(path) if (path / "config.yaml").is_file() else None


def _step_meant(run: RunDir, steps: Sequence[int], checkpoint: int | str) -> int:
    """Return the step that ``latest``, ``best``, a number or a checkpoint's name means; -1 if there is none."""
    if checkpoint == "best":
        best = best_step(held_out_losses(run.metrics().records))
        return -1 if best is None else best
    if checkpoint == "latest":
        return steps[-1] if steps else -1
    named = step_meant(str(checkpoint))
    return -1 if named is None else named
