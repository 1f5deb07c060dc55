"""Answers held to a form: one of some texts, a regular expression, JSON, a JSON schema. Floor F1.

The automata are llguidance's; here they meet our tokenizers, our end tokens and our errors.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import llguidance
import llguidance.hf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.errors import InferenceError

MAX_CHARACTERS = 65_536
MAX_CHOICES = 1_000
JSON_SPACE = r"[ \t\n]{0,12}"
"""White space between the parts of a JSON text: enough to indent, too little to wander off in."""


@dataclass(frozen=True)
class Constraint:
    """The form an answer must have. ``value`` is a tuple of texts, a pattern, or a schema as JSON text."""

    kind: Literal["choice", "regex", "json"]
    value: tuple[str, ...] | str

    @classmethod
    def choice(cls, *texts: str) -> Constraint:
        """Exactly one of ``texts``."""
        return cls("choice", texts)

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """A text that ``pattern`` matches as a whole (Rust's syntax: no look-around, no back references)."""
        return cls("regex", pattern)

    @classmethod
    def json(cls, schema: object = None) -> Constraint:
        """JSON that is valid under ``schema``; any object without one."""
        return cls("json", json.dumps({"type": "object"} if schema is None else schema))


class Constrainer:
    """Makes matchers for one tokenizer and a model of ``vocab_size`` logits; any thread may ask."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, stop_ids: Collection[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_ids = sorted(stop_ids)
        self._made: llguidance.LLTokenizer | None = None
        self._guard = threading.Lock()

    def matcher(self, constraint: Constraint) -> GrammarMatcher:
        """A fresh matcher. Raises InferenceError ``bad-constraint`` for a form that nothing can have."""
        grammar = _grammar(constraint)
        with self._guard:  # making it takes a second, and only those who ask for a form shall wait for it
            if self._made is None:
                self._made = llguidance.hf.from_tokenizer(
                    self._tokenizer, n_vocab=self._vocab_size, eos_token=self._stop_ids
                )
        matcher = llguidance.LLMatcher(self._made, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(constraint.kind, matcher.get_error())
        return GrammarMatcher(matcher)


class GrammarMatcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> Tensor:
        """Which of the first ``size`` token ids may come next, bool [size]; the end tokens where it may end."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _refused("form", self._matcher.get_error())
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:size]
        return torch.from_numpy(np.pad(bits, (0, size - len(bits))).astype(bool))

    def accept(self, token_id: int) -> None:
        """Take note of the token that came."""
        self._matcher.consume_token(token_id)


def _grammar(constraint: Constraint) -> str:
    value = constraint.value
    texts = (value,) if isinstance(value, str) else value
    if sum(map(len, texts)) > MAX_CHARACTERS or len(texts) > MAX_CHOICES:
        raise _refused(constraint.kind, "it is too long")
    match constraint.kind:
        case "choice":
            if not texts or not all(texts):
                raise _refused("choice", "it needs at least one text, and none that is empty")
            return llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts)))
        case "regex":
            return llguidance.LLMatcher.grammar_from_regex(texts[0])
        case "json":
            try:
                return llguidance.LLMatcher.grammar_from_json_schema(
                    texts[0], defaults={"whitespace_flexible": True, "whitespace_pattern": JSON_SPACE}
                )
            except ValueError as error:
                raise _refused("json", str(error)) from error


def _refused(kind: str, why: str) -> InferenceError:
    first = next(iter(why.strip().splitlines()), "it cannot be read").rstrip(". ")
    return InferenceError(
        f"This {kind} cannot hold an answer: {first[:300]}.",
        remedy="Give a list of texts, a regular expression without look-around, or a JSON schema.",
        code="bad-constraint",
    )
