"""Examples before a question: what a base model can do when it is only shown how, before it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.data.records import Message, Row
from backend.errors import InferenceError
from backend.inference.evals.spec import Prompt


def choose_shots(rows: Sequence[Row], count: int, seed: int) -> list[Message]:
    """Return ``count`` training rows as turns of a conversation, the same for the same seed.

    Only rows of one question and one answer are taken. Raises InferenceError ``no-shots`` if there are too few.
    """
    fit = [row for row in rows if row.kind == "chat" and _roles(row) in (["user", "assistant"], _WITH_SYSTEM)]
    if not 1 <= count <= len(fit):
        raise InferenceError(
            f"{count} examples were asked for, of {len(fit)} training rows with one question and one answer.",
            remedy="Ask for fewer.",
            code="no-shots",
        )
    chosen = np.random.default_rng(seed).choice(len(fit), count, replace=False)
    return [_plain(message) for number in chosen for message in fit[number].messages[-2:]]


_WITH_SYSTEM = ["system", "user", "assistant"]


def _roles(row: Row) -> list[str]:
    return [str(message["role"]) for message in row.messages]


def _plain(message: Message) -> Message:
    return {"role": message["role"], "content": message["content"]}


def with_shots(prompt: Prompt, shots: Sequence[Message]) -> list[Message]:
    """Return the prompt with the examples before its first question, after its system message."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    start = int(bool(messages) and messages[0]["role"] == "system")
    return [*messages[:start], *shots, *messages[start:]]
