"""One base model shared by many adapters, switched by pointing its parameters at other tensors.

Each adapter is merged into copies of the weights it changes; the base's own tensors are never written to. So decoding
is as fast as with a merged model, and the base stays bit for bit the same. A merged set costs the memory of the
weights its adapter changes (for all linear layers about as much as the base); ``keep`` sets are cached.
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
from backend.inference.engines import engine_of

MAX_STRENGTH = 2.0
KEEP = 3
"""Merged sets of weights in memory at once."""


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder and ``stamp``, the mtime of its weights: new weights in the folder are a new adapter."""

    folder: Path
    stamp: int

    @classmethod
    def at(cls, folder: Path) -> Adapter:
        """Return the adapter in ``folder`` as it is now. Raises OSError if there is none."""
        return cls(folder, (folder / "adapter_model.safetensors").stat().st_mtime_ns)


class SharedBase:
    """A base ``model`` and the adapters merged over it. Use it from one thread at a time."""

    def __init__(self, model: PreTrainedModel, *, keep: int = KEEP) -> None:
        self.model = model
        self._keep = keep
        self._own = {name: part.data for name, part in model.named_parameters()}
        self._sets: OrderedDict[tuple[Adapter, float], dict[str, Tensor]] = OrderedDict()
        self._used: tuple[Adapter, float] | None = None

    def use(self, adapter: Adapter | None, strength: float = 1.0) -> None:
        """Switch the model to ``adapter`` at ``strength``: 0 is the base, 1 the adapter as trained.

        Other strengths up to ``MAX_STRENGTH`` interpolate or extrapolate the weights linearly. Raises InferenceError
        ``bad-strength`` and what ``load_adapter`` and ``merge_adapter`` raise; the model is then unchanged.
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
        engine = engine_of(self.model)
        if engine is not None:
            engine.use(self.model, wanted, self._sets.keys())

    @property
    def used(self) -> tuple[Adapter, float] | None:
        """The adapter in use and its strength; None if it is the base."""
        return self._used

    @property
    def adapters(self) -> set[Adapter]:
        """The adapters with merged weights in memory."""
        return {adapter for adapter, _ in self._sets}

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights in memory: the base's and those of every merged set."""
        sets = [self._own, *self._sets.values()]
        return sum(part.numel() * part.element_size() for held in sets for part in held.values())

    def _set(self, adapter: Adapter, strength: float) -> dict[str, Tensor]:
        """Return the merged weights of ``adapter``, cached or new; only those that differ from the base's."""
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
        """Merge the adapter in ``folder`` and return the weights that it changes."""
        with self._restored():
            merge_adapter(load_adapter(self.model, folder))
            return {
                name: part.data.detach()
                for name, part in self.model.named_parameters()
                if part.data_ptr() != self._own[name].data_ptr()
            }

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Undo, after the block, what PEFT did to the model: its modules, weights and attributes.

        PEFT replaces modules and adds attributes in place; merging writes new weights into them.
        """
        modules = {name: module for name, module in self.model.named_modules() if name}
        attributes = set(vars(self.model))
        before = {name: part.data for name, part in self.model.named_parameters()}
        for name, part in self.model.named_parameters():
            part.data = self._own[name]
        try:
            yield
        finally:
            for name, module in modules.items():
                parent, _, child = name.rpartition(".")
                setattr(modules[parent] if parent else self.model, child, module)
            for added in set(vars(self.model)) - attributes:
                delattr(self.model, added)
            for name, part in self.model.named_parameters():
                part.requires_grad_(False)
                part.data = before[name]
