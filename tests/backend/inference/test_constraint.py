"""An answer held to a form has it, whatever the model would rather say: backend/inference/constraint.py."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any
from unittest.mock import create_autospec

import llguidance
import llguidance.hf
import pytest

from backend.core.tokenizer import decode
from backend.errors import InferenceError
from backend.inference.constraint import MAX_CHARACTERS, MAX_CHOICES, Constrainer, Constraint
from backend.inference.decoding import Decoding, Sampling
from tests.locks import Meeting, both
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
STOPS = {TOKENIZER.convert_tokens_to_ids("<|im_end|>")}
VOCABULARY = 512  # more logits than tokens, as many models have
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["meat", "fruit"]}, "ripe": {"type": "boolean"}},
    "required": ["kind", "ripe"],
    "additionalProperties": False,
}


@cache
def _constrainer() -> Constrainer:
    return Constrainer(TOKENIZER, VOCABULARY, STOPS)


def _said(constraint: Constraint, *, seed: int = 0, limit: int = 200) -> tuple[str, str]:
    """What a random model says under ``constraint``, and how it ended."""
    model = tiny_model(initializer_range=0.3)
    sampling = Sampling(max_new_tokens=limit, temperature=1.0, seed=seed)
    decoding = Decoding(model, [[5, 6]], sampling, STOPS, [_constrainer().matcher(constraint)])
    tokens = [token for _ in range(limit) for token in decoding.step()]
    return decode(TOKENIZER, [token.token_id for token in tokens]), tokens[-1].finish


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "texts", [("Meat",), ("Meat", "Meatball", "Fruit & Nuts"), ('"quoted"', "back\\slash", "two\nlines", "é")]
)
def test_one_of_some_texts(texts: tuple[str, ...], seed: int) -> None:
    said, finish = _said(Constraint.choice(*texts), seed=seed)

    assert said in texts
    assert finish == "stop"


@pytest.mark.parametrize("pattern", [r"\d{3}-\d{4}", r"(yes|no)\.", r"[a-f]{2,5}", r"ä+b?c"])
def test_a_regular_expression(pattern: str) -> None:
    said, finish = _said(Constraint.regex(pattern), limit=500)

    assert finish == "stop"
    assert re.fullmatch(pattern, said)


def test_a_schema() -> None:
    said, finish = _said(Constraint.json(SCHEMA), limit=400)

    assert finish == "stop"
    value = json.loads(said)
    assert value["kind"] in {"meat", "fruit"}
    assert isinstance(value["ripe"], bool)


def test_json_without_a_schema_is_an_object() -> None:
    said, _ = _said(Constraint.json(), limit=3)

    assert said.startswith("{")


WEIGH = {
    "type": "object",
    "properties": {"food": {"$ref": "#/$defs/food"}, "kg": {"type": "integer"}},
    "required": ["food"],
    "additionalProperties": False,
    "$defs": {"food": {"enum": ["ham", "{%"]}},
}
FUNCTIONS = {'we"igh': WEIGH, "now": {"type": "object", "properties": {}, "additionalProperties": False}}
MARKS = "<tool_call>\n", "\n</tool_call>"
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
HAM = '<tool_call>\n{"name": "we\\"igh", "arguments": {"food": "ham", "kg": 5}}\n</tool_call>'


def _fits(constraint: Constraint, text: str) -> bool:
    """Whether ``text`` may be said, and may end there."""
    matcher = _constrainer().matcher(constraint)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    steps = [bool(matcher.allowed(VOCABULARY)[token]) and matcher.accept(token) is None for token in ids]
    return all(steps) and bool(matcher.allowed(VOCABULARY)[next(iter(STOPS))])


@pytest.mark.parametrize(
    ("text", "call", "or_form", "in_text"),
    [
        (NOW, True, True, True),
        (HAM, True, True, True),
        (HAM.replace("ham", "eel"), False, False, False),
        (NOW.replace("now", "later"), False, False, False),
        (NOW.replace("}}", ', "x": 1}}'), False, False, False),
        (NOW[:-3], False, False, False),
        ('"meat"', False, True, True),
        ("Let me see.", False, False, True),
        ("a < b <tool", False, False, True),
        (f"Let me see. {NOW}\n{HAM} So.", False, False, True),
        ("", False, False, True),
    ],
)
def test_calls(text: str, call: bool, or_form: bool, in_text: bool) -> None:
    opening, closing = MARKS
    constraints = [
        Constraint.call(opening, FUNCTIONS, closing),
        Constraint.call(opening, FUNCTIONS, closing, form={"enum": ["meat"]}),
        Constraint.calls_in_text(opening, FUNCTIONS, closing),
    ]

    assert [_fits(constraint, text) for constraint in constraints] == [call, or_form, in_text]


@pytest.mark.parametrize("seed", range(3))
def test_a_call_whatever_the_model_would_rather_say(seed: int) -> None:
    said, finish = _said(Constraint.call(MARKS[0], FUNCTIONS, MARKS[1]), seed=seed, limit=400)

    assert finish == "stop"
    assert json.loads(said.removeprefix(MARKS[0]).removesuffix(MARKS[1]))["name"] in FUNCTIONS


def test_cut_off_by_the_limit_it_is_the_beginning_of_one() -> None:
    said, finish = _said(Constraint.choice("Meat and everything that goes with it"), limit=2)

    assert finish == "length"
    assert "Meat and everything that goes with it".startswith(said)


def test_matchers_share_nothing() -> None:
    first, second = (_constrainer().matcher(Constraint.choice("a", "b")) for _ in range(2))
    first.accept(TOKENIZER.encode("a", add_special_tokens=False)[0])

    assert first.allowed(VOCABULARY).nonzero().flatten().tolist() == sorted(STOPS)
    assert second.allowed(VOCABULARY).sum() >= 2


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (Constraint.regex("("), "regex cannot hold an answer: unclosed group"),
        (Constraint.regex("(?=a)b"), "look-around, including look-ahead and look-behind, is not supported"),
        (Constraint.regex(r"(a)\1"), "backreferences are not supported"),
        (Constraint.choice(), "choice"),
        (Constraint.choice("a", ""), "choice"),
        (Constraint.choice(*["a"] * (MAX_CHOICES + 1)), "too long"),
        (Constraint.regex("a" * (MAX_CHARACTERS + 1)), "too long"),
        (Constraint("json", "{"), "json"),
        (Constraint.json({"type": "nonsense"}), "json"),
        (Constraint.json([1]), "json"),
        (Constraint.call("<", {"f": {"type": "nonsense"}}, ">"), "call cannot hold .*nonsense"),
        (Constraint.calls_in_text("<", {"f": {"$ref": "#/nowhere"}}, ">"), "call cannot hold .*nowhere"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_form_that_nothing_can_have(constraint: Any, said: str) -> None:
    with pytest.raises(InferenceError, match=said) as caught:
        _constrainer().matcher(constraint)

    assert caught.value.code == "bad-constraint"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("rows", [1, 300, 399, 400, 401, 512])
def test_model_and_tokenizer_may_differ_in_size_both_ways(rows: int) -> None:
    """Padded vocabularies have rows without tokens; others have tokens (of images) without rows."""
    matcher = Constrainer(TOKENIZER, rows, STOPS).matcher(Constraint.choice("a", "b"))

    allowed = matcher.allowed(rows)

    expected = {TOKENIZER.convert_tokens_to_ids(letter) for letter in "ab"}
    assert allowed.shape == (rows,)
    assert {*allowed.nonzero().flatten().tolist()} == {each for each in expected if each < rows}


def test_the_first_two_who_ask_at_once_make_one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, real = Meeting(), llguidance.hf.from_tokenizer
    made = create_autospec(real, side_effect=meeting.within(real))
    monkeypatch.setattr("llguidance.hf.from_tokenizer", made)
    fresh = Constrainer(TOKENIZER, VOCABULARY, STOPS)
    both(*[lambda: fresh.matcher(Constraint.regex("a"))] * 2)
    assert not meeting.happened
    assert made.call_count == 1
