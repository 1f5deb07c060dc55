"""A base model in memory with the adapters and prompt renderers used over it, and the runs it keeps from deletion."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import PreTrainedModel

from backend.core.device import plan_compute, torch_dtype
from backend.core.model_loader import load_dense
from backend.errors import RunError
from backend.inference.decode_proof import prove_decoding
from backend.inference.engines import add_engine, engine_of
from backend.inference.model_source import ModelSource, fingerprint_of
from backend.inference.prompting import PromptRenderer
from backend.inference.shared_base import KEEP, Adapter, SharedBase
from backend.utils.machine_utils import give_back_memory
from backend.utils.unchanged import folder_marks

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)


class LoadedBase:
    """The base of ``source`` in memory, the adapters merged over it, and a prompt renderer for each.

    ``without_engine`` says why transformers decodes the model and not our own engine; it is empty if the engine does.
    Where that has weights of its own, in 8 bits or as they are stored, in bfloat16, no others stay in memory.
    Runs whose weights are in memory are locked against deletion until ``close``. Use it from one thread at a time.
    Raises ModelError: those of ``load_dense``, and ``cannot-generate``.
    """

    def __init__(self, source: ModelSource, dtype: str = "float32", precision: str = "exact") -> None:
        plan = plan_compute(dtype)
        torch.set_float32_matmul_precision(plan.matmul_precision)
        self.folder, self.key, self.marks = source.base, source.base_key, source.base_marks
        self.lanes = plan.lanes
        self.precision = precision
        self._held: dict[Adapter | None, ExitStack] = {None: ExitStack() if source.adapter else _hold(source)}
        model = load_dense(source.base, dtype=torch_dtype(plan), quantization=source.quantization).to(
            plan.device
        )

        def about() -> dict[str, object]:
            stored = source.quantization and source.quantization.words
            return {"model": fingerprint_of(source.base), "stored": stored, "dtype": str(model.dtype)}

        self.without_engine = add_engine(model, precision, about)
        engine, read = engine_of(model), None
        if engine is None:
            prove_decoding(model)
        elif engine.holds_its_own(model):
            read = partial(_read_again, source)
        self.shared = SharedBase(model, read=read)
        if read is not None:
            give_back_memory()
        self._renderers: OrderedDict[_Key, PromptRenderer] = OrderedDict()

    def close(self) -> None:
        """Release the runs; nothing else may be called afterwards. Closing twice is harmless."""
        for held in self._held.values():
            held.close()

    def renderer(self, source: ModelSource) -> PromptRenderer:
        """Return the prompt renderer of ``source``; sources with the same tokenizer and template share one.

        An LRU cache keeps one for each adapter that can be in memory and one for the base. A tokenizer whose files
        changed on disk is read again. Raises what ``load_tokenizer`` raises.
        """
        key = _key(source)
        found = self._renderers.pop(key, None) or PromptRenderer(source, self.shared.model)
        self._renderers[key] = found  # most recently used last
        while len(self._renderers) > KEEP + 1:
            self._renderers.popitem(last=False)
        return found

    def cached_renderer(self, source: ModelSource) -> PromptRenderer | None:
        """Return the renderer of ``source`` if it is loaded, else None; safe from any thread."""
        return self._renderers.get(_key(source))

    def use(self, source: ModelSource, strength: float = 1.0) -> PreTrainedModel:
        """Switch to ``source`` and return the model that decodes.

        Raises what ``SharedBase.use`` raises, or RunError ``no-such-run``.
        """
        if source.adapter not in self._held:
            self._held[source.adapter] = _hold(source)
        try:
            self.shared.use(source.adapter, strength)
        finally:
            for evicted in self._held.keys() - self.shared.adapters - {None}:
                self._held.pop(evicted).close()
                self._drop_renderers_of(evicted)
        return self.shared.model

    def _drop_renderers_of(self, adapter: Adapter | None) -> None:
        folder = adapter.folder if adapter is not None else None
        for key in [key for key in self._renderers if key[0] == folder]:
            del self._renderers[key]


_Key: TypeAlias = tuple[Path, str | None, datetime | None, tuple[int, ...]]
"""A tokenizer's folder, the chat template that overrides its own, the date it prints, the mtimes of its files."""


def _key(source: ModelSource) -> _Key:
    files = (source.tokenizer / name for name in TOKENIZER_FILES)
    written = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
    return source.tokenizer, source.chat_template, source.template_time, written


def _read_again(source: ModelSource) -> PreTrainedModel:
    """Return the base of ``source`` in float32 once more. Raises RunError ``base-changed`` if it is another now."""
    if folder_marks(source.base) != source.base_marks:
        raise RunError(
            f"The model in {source.base} has changed since it was loaded.",
            remedy="Load it again.",
            code="base-changed",
        )
    return load_dense(source.base, dtype=torch.float32, quantization=source.quantization)


def _hold(source: ModelSource) -> ExitStack:
    held = ExitStack()
    held.enter_context(source.held())
    return held
