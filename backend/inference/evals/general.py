"""What a model still knows of general things: how likely it finds the right answers to questions about them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backend.data.records import Row
from backend.errors import TunesmithError
from backend.inference.answer import Answerer
from backend.inference.logprobs import answer_logprobs, token_scores


def answer_probabilities(model: Answerer, rows: Sequence[Row]) -> list[float]:
    """Return, for each row with an answer, the geometric mean of the probabilities of its tokens, 0 to 1.

    The answer is that of the row, not the model's own. A row that the chat template refuses, or that is too long,
    has 0.
    """
    asked = [found for row in rows if (found := row.prompt_and_answer()) and found[1]]
    return [_probability(model, prompt, answer) for prompt, answer in asked]


def _probability(model: Answerer, prompt: object, answer: str) -> float:
    try:
        before = model.render(prompt)  # type: ignore[arg-type]
    except TunesmithError:
        return 0.0
    ids = model.renderer.tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not ids or len(before) + len(ids) > model.renderer.context_length:
        return 0.0
    scores = token_scores(answer_logprobs(model.model, before, ids), ids, top=0)
    return math.exp(sum(score.logprob for score in scores) / len(scores))
