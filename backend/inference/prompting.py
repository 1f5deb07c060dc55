"""How one model is spoken to: its tokenizer, its template, its end tokens and the forms it can be held to.

Rendered by the same room that rendered the training rows, so the model sees the ids it learned from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.core.device import plan_compute, torch_dtype
from backend.core.model_loader import load_base
from backend.core.rope import rope_border
from backend.core.tokenizer import encode_prompt, encode_prompt_completion, load_tokenizer, stop_token_ids
from backend.core.vocabulary import known_ids
from backend.errors import InferenceError
from backend.inference.constraint import Constrainer, Constraint, GrammarMatcher
from backend.inference.decode_proof import prove_decoding
from backend.inference.decoding import check_prompt, context_length
from backend.inference.model_source import ModelSource
from backend.inference.shared_base import KEEP, Adapter, SharedBase

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)
Message: TypeAlias = dict[str, Any]
Prompt: TypeAlias = str | Sequence[Message]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids that a model continues plain ``text`` from, without any template."""
    whole = encode_prompt_completion(tokenizer, text, "")
    return whole.input_ids[: whole.trained.index(True)]


class PromptRenderer:
    """The tokenizer of ``source`` for ``model``. Any thread may use it.

    ``known`` says which of the model's ids stand for a token, see ``known_ids``; ``rope_border`` is the model's own.
    """

    def __init__(self, source: ModelSource, model: PreTrainedModel) -> None:
        self.tokenizer = load_tokenizer(
            source.tokenizer, chat_template=source.chat_template, now=source.template_time
        )
        self.stop_ids = stop_token_ids(self.tokenizer, model.generation_config.eos_token_id)
        self.context_length = context_length(model)
        self.rope_border = rope_border(model.config)
        rows = model.get_input_embeddings().weight.shape[0]
        self.known = known_ids(self.tokenizer, rows)
        self._constrainer = Constrainer(self.tokenizer, rows, self.stop_ids)

    def matcher(self, constraint: Constraint | None) -> GrammarMatcher | None:
        """What holds one answer to ``constraint``; None for None. Raises InferenceError ``bad-constraint``."""
        return None if constraint is None else self._constrainer.matcher(constraint)

    def render(self, prompt: Prompt, *, tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """The exact token ids the model continues from: text as a user's message, or messages as they are.

        Raises InferenceError for an empty or over-long prompt and DataError for messages the template refuses.
        """
        if isinstance(prompt, str):
            if not prompt.strip():
                raise InferenceError("The prompt is empty.", remedy="Write a prompt.", code="empty-prompt")
            messages: Sequence[Message] = [{"role": "user", "content": prompt}]
        else:
            messages = prompt
        if not messages:
            raise InferenceError(
                "There are no messages.", remedy="Give at least one message.", code="empty-prompt"
            )
        if not isinstance(messages, Sequence) or not all(isinstance(part, Mapping) for part in messages):
            raise InferenceError(
                "A prompt is one text or a list of messages with role and content.",
                remedy="For several prompts use infer_batch.",
                code="bad-prompt",
            )
        ids = self._ids(messages, tools)
        check_prompt(ids, self.context_length)
        return ids

    def render_text(self, text: str) -> list[int]:
        """The ids of plain text that is to be continued, without any template. Raises InferenceError."""
        ids = text_ids(self.tokenizer, text)
        check_prompt(ids, self.context_length)
        return ids

    def _ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> list[int]:
        if self.tokenizer.chat_template is not None:
            return encode_prompt(self.tokenizer, messages, tools=tools)
        if len(messages) != 1 or tools:
            raise InferenceError(
                "This model has no chat template, so it can only continue one text.",
                remedy="Send plain text, or choose a model with a chat template.",
                code="no-chat-template",
            )
        return self.render_text(str(messages[0]["content"]))


class LoadedBase:
    """The base of ``source`` in memory, the adapters over it, and how each is spoken to.

    The runs whose weights are in memory are held, so that nobody deletes them; ``close`` lets go of them. One thread
    may use it at a time. Raises ModelError: what ``load_base`` raises, and ``cannot-generate``.
    """

    def __init__(self, source: ModelSource, dtype: str = "float32") -> None:
        plan = plan_compute(dtype)
        torch.set_float32_matmul_precision(plan.matmul_precision)
        self.folder, self.marks = source.base, source.base_marks
        self.lanes = plan.lanes
        self._held: dict[Adapter | None, ExitStack] = {None: ExitStack() if source.adapter else _hold(source)}
        model = load_base(source.base, dtype=torch_dtype(plan)).to(plan.device).eval()
        prove_decoding(model)
        self.shared = SharedBase(model)
        self._renderers: OrderedDict[_Key, PromptRenderer] = OrderedDict()

    def close(self) -> None:
        """Let go of the runs; it cannot be used afterwards. Closing twice is harmless."""
        for held in self._held.values():
            held.close()

    def renderer(self, source: ModelSource) -> PromptRenderer:
        """Return how ``source`` is spoken to; models with the same tokenizer and template share it.

        As many are kept as there can be adapters in memory, and one for the base; a tokenizer that changed on the
        disk is read anew. Raises what ``load_tokenizer`` raises.
        """
        key = _key(source)
        found = self._renderers.pop(key, None) or PromptRenderer(source, self.shared.model)
        self._renderers[key] = found  # the one used last is at the end
        while len(self._renderers) > KEEP + 1:
            self._renderers.popitem(last=False)
        return found

    def voice_at_hand(self, source: ModelSource) -> PromptRenderer | None:
        """Return the renderer of ``source`` where it is loaded already; any thread may ask."""
        return self._renderers.get(_key(source))

    def use(self, source: ModelSource, strength: float = 1.0) -> PreTrainedModel:
        """The model, which answers as ``source`` from now on. Raises as ``SharedBase.use``, or ``no-such-run``."""
        if source.adapter not in self._held:
            self._held[source.adapter] = _hold(source)
        try:
            self.shared.use(source.adapter, strength)
        finally:
            for gone in self._held.keys() - self.shared.adapters - {None}:
                self._held.pop(gone).close()
                self._forget_voices_of(gone)
        return self.shared.model

    def _forget_voices_of(self, adapter: Adapter | None) -> None:
        folder = adapter.folder if adapter is not None else None
        for key in [key for key in self._renderers if key[0] == folder]:
            del self._renderers[key]


_Key: TypeAlias = tuple[Path, str | None, datetime | None, tuple[int, ...]]
"""A tokenizer's folder, the template set in its place and the time it prints, and when its files were written."""


def _key(source: ModelSource) -> _Key:
    files = (source.tokenizer / name for name in TOKENIZER_FILES)
    written = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
    return source.tokenizer, source.chat_template, source.template_time, written


def _hold(source: ModelSource) -> ExitStack:
    held = ExitStack()
    held.enter_context(source.held())
    return held
