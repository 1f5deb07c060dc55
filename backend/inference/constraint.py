"""Constrained decoding: an answer must be one of some texts, match a regular expression, or be JSON or a tool call.

llguidance compiles and runs the grammars; this module connects them to our tokenizers, stop tokens and errors.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import llguidance
import llguidance.hf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.core.vocabulary import vocabulary_size
from backend.errors import InferenceError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_CHARACTERS = 65_536
MAX_CHOICES = 1_000
JSON_SPACE = r"[ \t\n]{0,12}"
"""White space between the parts of a JSON text: enough to indent, too little to wander off in."""
_LOOSE: JsonCompileOptions = {"whitespace_flexible": True, "whitespace_pattern": JSON_SPACE}
_AS_PRINTED: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""JSON spaced as chat templates print it, and so as the model has seen tool calls."""


Functions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Functions that may be called: name -> JSON schema of the arguments."""


@dataclass(frozen=True)
class Constraint:
    """The form an answer must have. ``value`` is texts, a pattern, a schema as JSON text, or a grammar of calls."""

    kind: Literal["choice", "regex", "json", "call"]
    value: tuple[str, ...] | str

    @classmethod
    def choice(cls, *texts: str) -> Constraint:
        """Return the constraint to be exactly one of ``texts``."""
        return cls("choice", texts)

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Return the constraint to match all of ``pattern`` (Rust's syntax: no look-around, no back references)."""
        return cls("regex", pattern)

    @classmethod
    def json(cls, schema: object = None) -> Constraint:
        """Return the constraint to be JSON valid under ``schema``; any object if it is None."""
        return cls("json", json.dumps({"type": "object"} if schema is None else schema))

    @classmethod
    def call(
        cls, opening: str, functions: Functions, closing: str, *, form: Mapping[str, Any] | None = None
    ) -> Constraint:
        """Return the constraint to be one function call as JSON between two texts, or JSON valid under ``form``."""
        parts, rules = [], []
        for place, (name, schema) in enumerate(functions.items()):
            head, tail = json.dumps(f"{opening}{_call_head(name)}"), json.dumps("}" + closing)
            parts.append(f"{head} arguments{place} {tail}")
            rules.append(f"arguments{place}: %json {_rule(schema, _AS_PRINTED)}")
        if form is not None:
            parts.append("form")
            rules.append(f"form: %json {_rule(form, _LOOSE)}")
        return cls("call", "\n".join([f"start: {' | '.join(parts)}", *rules]))

    @classmethod
    def calls_in_text(cls, opening: str, functions: Functions, closing: str) -> Constraint:
        """Return the constraint that each ``opening`` in free text must start a call as in ``call``."""
        tags = [
            llguidance.StructTag(
                trigger=opening.strip(),
                begin=f"{opening}{_call_head(name)}",
                grammar=_rule(schema, _AS_PRINTED),
                end="}" + closing,
            )
            for name, schema in functions.items()
        ]
        return cls("call", llguidance.StructTag.to_grammar(tags, assume_special=False))


def _call_head(name: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '


def _rule(schema: Mapping[str, Any], options: JsonCompileOptions) -> str:
    """Return ``schema`` as JSON text for a grammar, with its own rules for white space."""
    return json.dumps({**schema, "x-guidance": options})


class Constrainer:
    """Makes matchers for one tokenizer and a model with ``vocab_size`` logits; safe from any thread."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, stop_ids: Collection[int]
    ) -> None:
        self._tokenizer = tokenizer
        # a model may have fewer logits than the tokenizer has tokens, or more; ``allowed`` returns as many as it has
        self._vocab_size = max(vocab_size, vocabulary_size(tokenizer))
        self._stop_ids = sorted(stop_ids)
        self._made: llguidance.LLTokenizer | None = None
        self._guard = threading.Lock()

    def matcher(self, constraint: Constraint) -> GrammarMatcher:
        """Return a new matcher. Raises InferenceError ``bad-constraint`` if nothing can satisfy ``constraint``."""
        grammar = _grammar(constraint)
        with self._guard:  # made on first use: it takes a second, which only constrained requests should pay
            if self._made is None:
                self._made = llguidance.hf.from_tokenizer(
                    self._tokenizer, n_vocab=self._vocab_size, eos_token=self._stop_ids
                )
        matcher = llguidance.LLMatcher(self._made, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(constraint.kind, matcher.get_error())
        return GrammarMatcher(matcher)


class GrammarMatcher:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> Tensor:
        """Return, bool [size], which token ids may come next; stop ids among them if the answer may end here."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _refused("form", self._matcher.get_error())
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:size]
        return torch.from_numpy(np.pad(bits, (0, size - len(bits))).astype(bool))

    def accept(self, token_id: int) -> None:
        """Advance by the token that was chosen."""
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
        case "call":
            return llguidance.LLMatcher.grammar_from_lark(texts[0])
        case "json":
            try:
                return llguidance.LLMatcher.grammar_from_json_schema(texts[0], defaults=_LOOSE)
            except ValueError as error:
                raise _refused("json", str(error)) from error


def _refused(kind: str, why: str) -> InferenceError:
    lines = why.strip().splitlines() or ["it cannot be read"]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return InferenceError(
        f"This {kind} cannot hold an answer: {reason.rstrip('. ')[:300]}.",
        remedy="Give a list of texts, a regular expression without look-around, or a JSON schema.",
        code="bad-constraint",
    )
