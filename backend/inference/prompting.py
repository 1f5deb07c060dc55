"""Render prompts for one model: its tokenizer, chat template, stop tokens and constraints.

The functions that rendered the training rows render the prompts, so the model sees the ids it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.core.rope import rope_border
from backend.core.tokenizer import encode_prompt, encode_prompt_completion, load_tokenizer, stop_token_ids
from backend.core.vocabulary import known_ids
from backend.errors import InferenceError
from backend.inference.constraint import Constrainer, Constraint, GrammarMatcher
from backend.inference.decoding import check_prompt, context_length
from backend.inference.model_source import ModelSource

Message: TypeAlias = dict[str, Any]
Prompt: TypeAlias = str | Sequence[Message]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of plain ``text`` to be continued, without a template."""
    whole = encode_prompt_completion(tokenizer, text, "")
    return whole.input_ids[: whole.trained.index(True)]


class PromptRenderer:
    """Prompts of ``source`` as token ids for ``model``; safe from any thread.

    ``known`` bool [V] marks the model's ids that stand for a token, see ``known_ids``.
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
        """Return a matcher for one answer; None without a constraint. Raises InferenceError ``bad-constraint``."""
        return None if constraint is None else self._constrainer.matcher(constraint)

    def render(self, prompt: Prompt, *, tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """Return the token ids that the model continues: a text becomes a user message, messages stay as they are.

        Raises InferenceError for an empty or over-long prompt, DataError for messages that the template refuses.
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
        """Return the ids of plain text to be continued, without a template. Raises InferenceError."""
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
