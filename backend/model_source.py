"""What is meant by a model: a run's result or checkpoint, its base, or any model the loader knows. Floor F2.

Nothing is loaded here; the files are found and verified.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from backend.config import RunConfig, parse_config
from backend.core.checkpoint import checkpoint_folders, step_name, verify_folder
from backend.core.model_resolver import resolve_model
from backend.core.shared_base import Adapter
from backend.errors import RunError
from backend.run_dir import RunDir
from backend.utils.config_utils import parse_yaml


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies: the folder of its ``base`` weights, the ``adapter`` over them, its ``tokenizer``.

    ``chat_template`` is the setting of a run, where its tokenizer still has the template of the base. ``run`` is the
    run that trained the weights, where one did.
    """

    base: Path
    adapter: Adapter | None
    tokenizer: Path
    chat_template: str | None = None
    run: RunDir | None = None

    def held(self) -> AbstractContextManager[None]:
        """Keep the run from being deleted while its weights are in use. Raises RunError ``no-such-run``."""
        return nullcontext() if self.run is None else self.run.hold_for_reading()


def find_model(
    source: str | Path | RunDir, *, checkpoint: int | str | None = None, base: bool = False
) -> ModelSource:
    """The model of a run (folder or RunDir), or in a folder, by an alias or a hub id.

    ``checkpoint`` picks a step of a run ("latest", "best" or a number) instead of its result; ``base=True`` leaves
    away what was trained, and is asked under the template of the run all the same. A run that trained every weight
    has its result as its base. Raises RunError (unfinished-run, damaged-checkpoint, no-such-checkpoint) and
    ModelError.
    """
    run = source if isinstance(source, RunDir) else _as_run(source)
    if run is None:
        folder = resolve_model(str(source))
        return ModelSource(folder, None, folder)
    with run.hold_for_reading():
        config = run_config(run)
        tuned = None if base else tuned_folder(run, checkpoint)
        folder = resolve_model(config.model.model_name_or_path, revision=config.model.revision)
        if tuned is None:
            return ModelSource(folder, None, folder, config.model.chat_template)
        own = (tuned / "tokenizer.json").exists()
        words, template = (tuned, None) if own else (folder, config.model.chat_template)
        if config.tuning.method == "full":
            return ModelSource(tuned, None, words, template, run)
        return ModelSource(folder, Adapter.at(tuned), words, template, run)


def run_config(run: RunDir) -> RunConfig:
    """The configuration a run was made with."""
    return parse_config(parse_yaml(run.read_config_text(), where=str(run.config)))


def best_step(run: RunDir) -> int | None:
    """The step with the lowest held-out loss, the untrained model left out; None without an evaluation."""
    losses: dict[int, float] = {}
    for record in run.metrics().records:
        step, loss = record.get("step"), record.get("eval/loss")
        if isinstance(step, int) and step > 0 and isinstance(loss, float) and math.isfinite(loss):
            losses[step] = loss
    return min(losses, key=lambda step: (losses[step], step), default=None)


def checkpoint_names(run: RunDir) -> list[str]:
    """The names of the checkpoints of a run, oldest first."""
    return [path.name for path in checkpoint_folders(run.checkpoints)]


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
        names = checkpoint_names(run)
        wanted = _checkpoint_name(run, names, checkpoint)
        if wanted not in names:
            raise RunError(
                f"The run {run.id} has no checkpoint {checkpoint}.",
                remedy=f"It has {', '.join(names) or 'none yet'}.",
                code="no-such-checkpoint",
            )
        folder = run.checkpoints / wanted
    verify_folder(folder)
    return folder


def _as_run(source: str | Path) -> RunDir | None:
    """The run in a folder, or None where the folder is no run."""
    path = Path(source)
    return RunDir.open(path) if (path / "config.yaml").is_file() else None


def _checkpoint_name(run: RunDir, names: list[str], checkpoint: int | str) -> str:
    if checkpoint == "latest" and names:
        return names[-1]
    if checkpoint == "best":
        step = best_step(run)
        return step_name(step) if step is not None else "best"
    text = str(checkpoint).removeprefix("step-")
    return step_name(int(text)) if text.isdecimal() and len(text) <= 12 else str(checkpoint)
