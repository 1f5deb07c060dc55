"""The models that can be served, by name: the base, and every finished run under the root, with its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.errors import RunError, TunesmithError
from backend.inference.model_source import ModelSource, find_model, is_base_of
from backend.manager.run_manager import RunManager
from backend.manager.run_summary import RunSummary, summarise
from backend.run.folder import RunDir
from backend.run.metrics import best_step, held_out_losses
from backend.run.root import BASE
from backend.server.errors import no_such_model
from backend.server.responses import Model


@dataclass(frozen=True)
class Served:
    """One model that can be asked; ``created`` is in seconds since 1970."""

    id: str
    created: int
    name: str
    base_model: str
    checkpoints: tuple[int, ...] = ()
    best_checkpoint: int | None = None

    def response(self) -> Model:
        """Return the model as clients get it."""
        return {
            "id": self.id,
            "created": self.created,
            "name": self.name,
            "base_model": self.base_model,
            "checkpoints": list(self.checkpoints),
            "best_checkpoint": self.best_checkpoint,
            "object": "model",
            "owned_by": "tunesmith",
        }


class Catalogue:
    """The runs under ``root`` and those in ``named``; the first of these (a run or a model) decides what ``base`` is.

    ``base_model`` is where the base of the runs lies now, for those that were trained over that very model.
    """

    def __init__(
        self, root: Path | None, named: tuple[RunDir | str, ...] = (), base_model: str | None = None
    ) -> None:
        self._base_model = base_model
        self._runs = {each.id: each for each in named if isinstance(each, RunDir)}
        self._first = named[0] if named else None
        self._manager = RunManager(root) if root is not None else None

    def served(self) -> list[Served]:
        """Return the models that can be asked now, the base first."""
        runs = [_served(summary) for summary in self._summaries() if RunDir(summary.path).result_folder()]
        base = self._base_name()
        own = [Served(BASE, 0, BASE, base)] if base is not None else []
        return own + runs

    def describe(self, name: str) -> Served:
        """Return one model by any name that ``find`` knows, those of checkpoints among them. Raises ApiError."""
        model, at, checkpoint = name.rpartition("@") if "@" in name else (name, "", "")
        known = next((each for each in self.served() if model in {each.id, each.name}), None)
        if known is None or (at and known.id == BASE):
            raise no_such_model(name)
        if not at:
            return known
        best = {} if known.best_checkpoint is None else {"best": known.best_checkpoint}
        latest = {"latest": known.checkpoints[-1]} if known.checkpoints else {}
        steps = {str(step): step for step in known.checkpoints} | best | latest
        if checkpoint != BASE and checkpoint not in steps:
            raise no_such_model(name)
        return replace(known, id=f"{known.id}@{checkpoint}", name=name)

    def find(self, name: str) -> ModelSource:
        """Return the model of that name: ``base``, a run, or RUN@CHECKPOINT.

        Raises ApiError for an unknown name, and what ``find_model`` raises.
        """
        model, at, checkpoint = name.rpartition("@") if "@" in name else (name, "", "")
        if name == BASE:
            first = self._first if self._first is not None else self._newest()
            if first is None:
                raise no_such_model(name)
            return self._open(first, base=True)
        run = self._run(model)
        if checkpoint == BASE:
            return self._open(run, base=True)
        return self._open(run, checkpoint=checkpoint if at else None)

    def _open(self, model: RunDir | str, **which: Any) -> ModelSource:
        # runs over another base keep their own: the one that was moved would be refused for them
        moved = isinstance(model, RunDir) and self._base_model and is_base_of(model, self._base_model)
        return find_model(model, base_model=self._base_model if moved else None, **which)

    def _run(self, name: str) -> RunDir:
        if name in self._runs:
            return self._runs[name]
        try:
            found = (
                self._manager.find(name) if self._manager is not None and name and "/" not in name else None
            )
        except RunError as error:
            raise no_such_model(name) from error
        if found is None or self._manager is None or found.path.parent != self._manager.root:
            raise no_such_model(name)  # a name is never a path
        return found

    def _summaries(self) -> list[RunSummary]:
        found = list(self._manager.list()) if self._manager is not None else []
        seen = {summary.id for summary in found}
        return [summarise(run) for name, run in self._runs.items() if name not in seen] + found

    def _newest(self) -> RunDir | None:
        return next(
            (RunDir(each.path) for each in self._summaries() if RunDir(each.path).result_folder()), None
        )

    def _base_name(self) -> str | None:
        if isinstance(self._first, str):
            return Path(self._first).name
        run = self._first or self._newest()
        return Path(summarise(run).model).name if run is not None else None


def _served(summary: RunSummary) -> Served:
    run = RunDir(summary.path)
    steps = tuple(run.checkpoint_steps())
    created = int(datetime.fromisoformat(summary.created).timestamp()) if summary.created else 0
    try:
        best = best_step(held_out_losses(run.metrics().records))
    except (OSError, TunesmithError):
        best = None
    return Served(
        summary.id,
        created,
        summary.title,
        Path(summary.model).name,
        steps,
        best if best in steps else None,
    )
