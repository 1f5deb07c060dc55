"""One base model shared by many adapters, switched by pointing its parameters at other tensors.

Each adapter is merged into copies of the weights it changes; the base's own tensors are never written to. So decoding
is as fast as with a merged model, and the base stays bit for bit the same. A merged set costs the memory of the
weights its adapter changes (for all linear layers about as much as the base); ``keep`` sets are cached.

Where our own engine decodes, it computes a plain adapter beside the weights, and nothing is merged until somebody
asks for the ``whole`` model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from backend.core.engine.block import UnsupportedError
from backend.core.engine.engine import Engine
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


_Used: TypeAlias = tuple[Adapter, float]
"""An adapter and its strength."""


class SharedBase:
    """A base ``model`` and the adapters over it. Use it from one thread at a time.

    ``model`` is what decodes. Whoever runs it in another way takes ``whole``: where the engine decodes, the
    parameters of ``model`` may be those of the base alone, or, with ``read``, none at all. ``read`` returns the model
    as it lies on the disk, when its weights are needed after all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        keep: int = KEEP,
        read: Callable[[], PreTrainedModel] | None = None,
    ) -> None:
        self.model = model
        self._keep = keep
        self._read = read
        self._own = {name: part.data for name, part in model.named_parameters()}
        self._sets: OrderedDict[_Used, dict[str, Tensor]] = OrderedDict()
        self._beside: OrderedDict[_Used, None] = OrderedDict()
        self._used: _Used | None = None
        self._merged_in: _Used | None = None
        if read is not None:
            for (
                part
            ) in model.parameters():  # of the same shape, without memory; a pass over them says nothing
                part.data = part.data.new_full((1,), torch.nan).expand(part.shape)
            self._own = {}

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
        engine = engine_of(self.model)
        if engine is None:
            self._merge(wanted)
        else:
            self._let_use(engine, wanted)
        self._used = wanted

    def whole(self) -> PreTrainedModel:
        """Return the model with the weights of what is in use, merged; they stay so until the next call."""
        self._merge(self._used)
        return self.model

    def _merge(self, wanted: _Used | None) -> None:
        """Point the parameters of the model at the weights of ``wanted``."""
        if wanted == self._merged_in and self._own:
            return
        self._read_again()
        changed = self._set(*wanted) if wanted is not None else {}
        for name, part in self.model.named_parameters():
            part.data = changed.get(name, self._own[name])
        self._merged_in = wanted

    def _read_again(self) -> None:
        """Read the weights of the base again if they are not in memory."""
        if self._read is not None and not self._own:
            self._own = {name: part.data for name, part in self._read().named_parameters()}

    def _let_use(self, engine: Engine, wanted: _Used | None) -> None:
        """Let the engine decode ``wanted``: its adapter beside the weights, or else merged."""
        known = {*self._beside, *self._sets}
        if wanted is not None and not (wanted in known and engine.has(wanted)):
            try:
                self._read_beside(engine, *wanted)
            except UnsupportedError:
                self._merge(wanted)
                engine.read_as(wanted, self.model)
        if wanted is not None and wanted in self._beside:
            self._beside.move_to_end(wanted)
        while len(self._beside) > self._keep:
            self._beside.popitem(last=False)
        engine.use(wanted, [*self._beside, *self._sets])

    def _read_beside(self, engine: Engine, adapter: Adapter, strength: float) -> None:
        with self._unwrapped():
            tuned = load_adapter(self.model, adapter.folder).get_base_model()
            engine.read_adapter_as((adapter, strength), tuned, strength)
        self._beside[adapter, strength] = None

    @property
    def used(self) -> tuple[Adapter, float] | None:
        """The adapter in use and its strength; None if it is the base."""
        return self._used

    @property
    def adapters(self) -> set[Adapter]:
        """The adapters in memory, merged or beside the weights."""
        return {adapter for adapter, _ in [*self._sets, *self._beside]}

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights in memory as parameters: the base's and those of every merged set."""
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
        with self._unwrapped(), self._pointing_at_the_base():
            merge_adapter(load_adapter(self.model, folder))
            return {
                name: part.data.detach()
                for name, part in self.model.named_parameters()
                if part.data_ptr() != self._own[name].data_ptr()
            }

    @contextmanager
    def _unwrapped(self) -> Iterator[None]:
        """Undo, after the block, what PEFT did to the modules of the model and their attributes, in place."""
        modules = {name: module for name, module in self.model.named_modules() if name}
        attributes = set(vars(self.model))
        try:
            yield
        finally:
            for name, module in modules.items():
                parent, _, child = name.rpartition(".")
                setattr(modules[parent] if parent else self.model, child, module)
            for added in set(vars(self.model)) - attributes:
                delattr(self.model, added)
            for part in self.model.parameters():
                part.requires_grad_(False)

    @contextmanager
    def _pointing_at_the_base(self) -> Iterator[None]:
        """Point the parameters at the base's own tensors inside the block, and back; merging writes new ones."""
        parts = dict(self.model.named_parameters())
        before = {name: part.data for name, part in parts.items()}
        for name, part in parts.items():
            part.data = self._own[name]
        try:
            yield
        finally:
            for name, part in parts.items():
                part.data = before[name]
