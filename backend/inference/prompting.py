"""How one model is spoken to: its tokenizer, its template, its end tokens and the forms it can be held to.

Rendered by the same room that rendered the training rows, so the model sees the ids it learned from.
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
