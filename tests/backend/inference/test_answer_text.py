"""Stop strings and how an answer ended: backend/inference/answer_text.py. See also the streams of the inferencer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import InferenceError
from backend.inference.answer_text import AnswerText
from backend.inference.decoding import NewToken
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")


def _push(text: str, stop: tuple[str, ...], *, finish: str = "stop") -> tuple[list[str], AnswerText]:
    """``text`` pushed token by token, then an end token (or the last one cut by the limit)."""
    answer = AnswerText(TOKENIZER, stop)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    tokens = [NewToken(0, token, 0.0, "") for token in ids] + [NewToken(0, END, 0.0, finish)]
    shown: list[str] = []
    for token in tokens:
        shown += [] if answer.finish else [answer.push(token)]
    return shown, answer


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two", (), "one two"),
        ("one two", ("two",), "one "),
        ("one two", ("x", "ne", "o"), ""),
        ("aab", ("ab",), "a"),
        ("naïve → 日本", ("→",), "naïve "),
        ("one tw", ("two",), "one tw"),
    ],
)
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_what_shows(text: str, stop: tuple[str, ...], expected: str, finish: str) -> None:
    shown, answer = _push(text, stop, finish=finish)

    assert "".join(shown) == answer.text == expected
    assert answer.finish == ("stop" if len(expected) < len(text) else finish)


@given(st.text("ab ", max_size=12), st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3))
def test_it_is_the_text_up_to_the_first_stop_string(text: str, stops: list[str]) -> None:
    shown, answer = _push(text, tuple(stops))
    found = [text.find(stop) for stop in stops if stop in text]

    # of several, the one that is whole first counts, so no other may be whole in what shows
    assert text.startswith(answer.text)
    assert not [stop for stop in stops if stop in answer.text]
    assert (len(answer.text) < len(text)) == bool(found)
    assert "".join(shown) == answer.text


def test_the_error_of_a_token_is_raised() -> None:
    with pytest.raises(InferenceError, match="Too much"):
        AnswerText(TOKENIZER).push(
            NewToken(0, 0, 0.0, "stop", error=InferenceError("Too much.", remedy="", code="x"))
        )


def test_one_stop_string_is_whole_and_not_its_letters() -> None:
    answer = AnswerText(TOKENIZER, "two")
    ids = TOKENIZER.encode("wort two", add_special_tokens=False)
    assert "".join(answer.push(NewToken(0, token, 0.0, "")) for token in ids) == "wort "


@pytest.mark.parametrize("stop", ["", [""], ["a", 1]])
def test_a_stop_string_that_is_none_is_refused(stop: Any) -> None:
    with pytest.raises(InferenceError, match="A stop string is") as caught:
        AnswerText(TOKENIZER, stop)
    assert caught.value.code == "bad-stop"
