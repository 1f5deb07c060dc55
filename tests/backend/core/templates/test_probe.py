"""Conversations rendered again with marks: backend/core/templates/probe.py."""

from __future__ import annotations

import pytest

from backend.core.templates.probe import Chat, Marks, common, mark, opening, printed, whole_tokens
from backend.core.templates.template import end_tokens, render
from tests.backend.core.chat_templates import RESULTS_APART, TWO_ENDS, templated
from tests.backend.core.templates.test_answer_spans import CHAT, asked, call


def chat(template: str, messages: list[dict[str, object]]) -> Chat:
    tokenizer = templated(template)
    return Chat(tokenizer, messages, None, render(tokenizer, messages), end_tokens(tokenizer))


def test_marks_are_found_in_their_order_with_what_follows_them() -> None:
    marks = Marks.of("a W2Z b W0Z c", "W")
    assert (marks.numbers, marks.tail, marks.behind(2), marks.behind(0), marks.behind(7)) == (
        [2, 0],
        " c",
        " b ",
        " c",
        "",
    )


def test_every_text_in_a_message_gets_a_mark_and_its_reasoning_goes() -> None:
    message = {
        "role": "assistant",
        "content": "Look.",
        "thinking": "hm",
        "tool_calls": [call(city="Rome", at=[{"hour": "noon", "day": 2}])],
    }
    marked, loose = mark(message, "W")
    assert marked == {
        "role": "assistant",
        "content": "W0Z",
        "tool_calls": [call(city="W1Z", at=[{"hour": "W2Z", "day": 2}])],
    }
    assert not loose


@pytest.mark.parametrize("arguments", [{}, {"days": 2}, {"city": ""}])
def test_a_last_call_without_text_gets_an_argument_of_its_own(arguments: dict[str, object]) -> None:
    marked, loose = mark({"role": "assistant", "content": "", "tool_calls": [call(**arguments)]}, "W")
    assert marked == {"role": "assistant", "content": "", "tool_calls": [call(**arguments, W="W1Z")]}
    assert loose


def test_an_empty_answer_without_calls_gets_a_mark() -> None:
    assert mark({"role": "assistant", "content": ""}, "W") == ({"role": "assistant", "content": "W0Z"}, False)


def test_where_a_content_is_printed_however_it_is_spelt_and_however_often() -> None:
    template = "{% for m in messages %}{{ m.content | tojson }}|{{ m.content | tojson }}\n{% endfor %}"
    messages = [{"role": "user", "content": 'a "quoted" word'}, CHAT[1]]
    found = chat(template, messages)
    assert [found.text[start:stop] for start, stop in printed(found, 0) or ()] == ['a \\"quoted\\" word'] * 2


def test_a_content_that_is_not_printed_is_nowhere() -> None:
    assert printed(chat("{{ messages[1].content }}", CHAT[:2]), 0) == []


def test_where_a_content_decides_what_is_printed_its_place_is_not_known() -> None:
    assert printed(chat("{{ messages[0].content | length }}{{ messages[0].content }}", CHAT[:2]), 0) is None


def test_results_are_where_tools_speak() -> None:
    found = chat(RESULTS_APART, asked(results=("one", "two")))
    assert [found.text[start:stop] for start, stop in found.results] == ["one", "two"]


def test_the_opening_is_what_the_generation_prompt_adds() -> None:
    assert opening(chat(TWO_ENDS, CHAT), CHAT[:1]) == "<|bot|><|start_response|>"
    assert opening(chat("{% for m in messages %}{{ m.content }}{% endfor %}", CHAT), CHAT[:1]) == ""


@pytest.mark.parametrize(
    ("one", "other", "length"), [("", "a", 0), ("ab", "ab", 2), ("abc", "abd", 2), ("a", "ab", 1)]
)
def test_common(one: str, other: str, length: int) -> None:
    assert common(one, other) == length


def test_a_place_inside_a_special_token_moves_to_its_beginning_or_end() -> None:
    found = chat(TWO_ENDS, CHAT)
    assert [
        whole_tokens(found, "a<|bot|>b", place, up=up) for place in (0, 1, 3) for up in (False, True)
    ] == [
        *(0, 0),
        *(1, 1),
        *(1, 8),
    ]
