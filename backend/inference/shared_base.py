"""One base model, many adapters: which of them answers is a matter of pointers.

A merged adapter is a set of tensors of its own; the base's are never written to. Going over to another adapter, or
back to the base, points the parameters at other tensors, so decoding is as fast as that of a merged model and the
base is bit for bit what it was. Each set costs the memory of the weights its adapter reaches (all linear layers:
about as much as the base), and ``keep`` of them stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from backend.core.model_loader import load_adapter, merge_adapter
from backend.errors import InferenceError

MAX_STRENGTH = 2.0
KEEP = 3


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder; ``stamp`` is the time of its weights, so that another adapter there is another one."""

    folder: Path
    stamp: int

    @classmethod
    def at(cls, folder: Path) -> Adapter:
        """The adapter that is in ``folder`` now. Raises OSError when there is none."""
        return cls(folder, (folder / "adapter_model.safetensors").stat().st_mtime_ns)


class SharedBase:
    """``model`` as the base of any number of adapters. One thread may use it at a time."""

    def __init__(self, model: PreTrainedModel, *, keep: int = KEEP) -> None:
        self.model = model
        self._keep = keep
        self._own = {name: part.data for name, part in model.named_parameters()}
        self._sets: OrderedDict[tuple[Adapter, float], dict[str, Tensor]] = OrderedDict()
        self._used: tuple[Adapter, float] | None = None

    def use(self, adapter: Adapter | None, strength: float = 1.0) -> None:
        """Answer from now on with ``adapter`` at ``strength``: 0 is the base, 1 what was trained.

        In between, and up to ``MAX_STRENGTH``, weights lie on the straight line through both. Raises
        InferenceError ``bad-strength`` and what ``load_adapter`` and ``merge_adapter`` raise; the model then goes on
        as it was.
        """
        if not 0 <= strength <= MAX_STRENGTH:
            raise InferenceError(
                f"adapter_strength is {strength}.",
                remedy=f"Use a value from 0 to {MAX_STRENGTH:g}.",
                code="bad-strength",
            )
        wanted = (adapter, float(strength)) if adapter is not None and strength != 0 else None
        if wanted == self._used:
            return
        changed = self._set(*wanted) if wanted is not None else {}
        for name, part in self.model.named_parameters():
            part.data = changed.get(name, self._own[name])
        self._used = wanted

    @property
    def used(self) -> tuple[Adapter, float] | None:
        """The adapter in use and its strength; None for the base."""
        return self._used

    @property
    def adapters(self) -> set[Adapter]:
        """Whose weights are kept in memory."""
        return {adapter for adapter, _ in self._sets}

    @property
    def memory_bytes(self) -> int:
        """Memory of all weights that are held: the base's and those of every kept set."""
        sets = [self._own, *self._sets.values()]
        return sum(part.numel() * part.element_size() for held in sets for part in held.values())

    def _set(self, adapter: Adapter, strength: float) -> dict[str, Tensor]:
        """The weights that differ from the base's, from memory or made anew."""
        key = (adapter, strength)
        if key not in self._sets:
            if strength == 1:
                made = self._merged(adapter.folder)
            else:
                full = self._set(adapter, 1.0)
                made = {name: torch.lerp(self._own[name], part, strength) for name, part in full.items()}
            self._sets[key] = made
        self._sets.move_to_end(key)
        while len(self._sets) > self._keep:
            self._sets.popitem(last=False)
        return self._sets[key]

    def _merged(self, folder: Path) -> dict[str, Tensor]:
        """The weights that the adapter in ``folder`` changes, as they are with it added."""
        with self._as_it_came():
            merge_adapter(load_adapter(self.model, folder))
            return {
                name: part.data.detach()
                for name, part in self.model.named_parameters()
                if part.data_ptr() != self._own[name].data_ptr()
            }

    @contextmanager
    def _as_it_came(self) -> Iterator[None]:
        """Undo whatever is done to the model meanwhile: modules, weights and notes are the base's again."""
        modules = {name: module for name, module in self.model.named_modules() if name}
        notes = set(vars(self.model))
        before = {name: part.data for name, part in self.model.named_parameters()}
        for name, part in self.model.named_parameters():
            part.data = self._own[name]
        try:
            yield
        finally:
            for name, module in modules.items():
                parent, _, child = name.rpartition(".")
                setattr(modules[parent] if parent else self.model, child, module)
            for note in set(vars(self.model)) - notes:
                delattr(self.model, note)
            for name, part in self.model.named_parameters():
                part.requires_grad_(False)
                part.data = before[name]
