from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backend.core.template import (
    answer_spans,
    check_unicode,
    fresh_sentinel,
    is_trained,
    render,
    render_prompt,
    set_template_time,
    special_pattern,
    special_tokens,
)
from backend.errors import DataError, ModelError
from tests.tiny import tiny_tokenizer

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "Bye."},
]


def spelt(family: str, messages: list[dict[str, object]], **options: object) -> list[str]:
    tokenizer = tiny_tokenizer(family)
    text = render(tokenizer, messages, **options)
    return [text[start:stop] for start, stop in answer_spans(tokenizer, messages, text, **options)]


def templated(template: str, family: str = "chatml"):
    tokenizer = tiny_tokenizer(family)
    tokenizer.chat_template = template
    return tokenizer


def test_render_is_what_the_template_prints() -> None:
    expected = "<|im_start|>system\nBe brief and kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert render(tiny_tokenizer("chatml"), CHAT[:1]) == expected


def test_render_opens_the_answer_on_request() -> None:
    text = render(tiny_tokenizer("llama3"), CHAT[:1], generation_prompt=True)
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_render_hides_our_own_keys_from_the_template() -> None:
    tokenizer = templated("{% for m in messages %}{{ m.keys() | list }}{% endfor %}")
    message = {"role": "user", "content": "a", "trained": False, "weight": 0}
    assert render(tokenizer, [message]) == "['role', 'content']"


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%Y-%m-%d') }}",
        "{% macro today() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ today() }}",
        "{% set day = strftime_now('%Y-%m-%d') if strftime_now is defined else 'none' %}{{ day }}",
        '  {% if true %}{{ strftime_now( "%Y" ) }}-02{% endif %}{{ strftime_now("-%d") }}',
    ],
)
def test_a_template_prints_the_time_that_was_set(template: str) -> None:
    tokenizer = templated(template)
    set_template_time(tokenizer, datetime(2026, 2, 3, tzinfo=UTC))
    assert render(tokenizer, CHAT) == "2026-02-03"


@pytest.mark.parametrize("before", ["", "\n", "\n\n", "  ", "\n  "])
def test_a_set_time_changes_nothing_else_in_what_a_template_prints(before: str) -> None:
    template = before + "{% for m in messages %}{{ m.content }}{{ strftime_now('%%') }}{% endfor %}"
    dated, free = templated(template), templated(template)
    set_template_time(dated, datetime(2026, 2, 3, tzinfo=UTC))
    assert render(dated, CHAT) == render(free, CHAT)


def test_a_template_prints_the_present_day_where_no_time_is_set() -> None:
    tokenizer = templated("{{ strftime_now('%Y') }}")
    set_template_time(tokenizer, datetime(1999, 2, 3, tzinfo=UTC))
    set_template_time(tokenizer, None)
    assert int(render(tokenizer, CHAT)) >= 2026


def test_render_passes_tools_on() -> None:
    tokenizer = templated("{{ tools[0]['function']['name'] }}")
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert render(tokenizer, CHAT, tools=tools) == "add"


def test_render_without_a_template_says_so() -> None:
    with pytest.raises(ModelError) as caught:
        render(tiny_tokenizer("base"), CHAT)
    assert caught.value.code == "no-chat-template"


@pytest.mark.parametrize(
    ("family", "messages"),
    [
        ("gemma", [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        ("gemma", [{"role": "system", "content": "a"}]),
        ("mistral", [{"role": "tool", "content": "a"}]),
        ("chatml", [{"role": "user", "content": None}]),
        ("chatml", [{"role": "user"}]),
        ("chatml", [{"role": "user", "content": ["a"]}]),
        ("chatml", [{"content": "a"}]),
        ("chatml", []),
        ("qwen3", [{"role": "user", "content": "a"}, {"role": "assistant", "content": 5}]),
    ],
)
def test_a_refused_conversation_is_a_data_error(family: str, messages: list[dict[str, object]]) -> None:
    with pytest.raises(DataError) as caught:
        render(tiny_tokenizer(family), messages)
    assert caught.value.code == "template-refused"
    assert "refuses this conversation" in caught.value.message


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9 \U0001f389", "\ufffd"])
def test_unicode_passes(text: str) -> None:
    assert check_unicode(text) is None


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc00\ud800"])
def test_half_a_character_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError) as caught:
        render(tiny_tokenizer("chatml"), [{"role": "user", "content": text}])
    assert caught.value.code == "not-unicode"


@pytest.mark.parametrize("template", ["{% for %}", "{{ 1 // 0 }}", "{{ messages.clear() }}"])
def test_a_broken_template_is_reported_not_raised_raw(template: str) -> None:
    with pytest.raises(DataError, match="refuses"):
        render(templated(template), CHAT)


@pytest.mark.parametrize(
    ("family", "opening"),
    [
        ("chatml", "<|im_start|>assistant\n"),
        ("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("gemma", "<start_of_turn>model\n"),
        ("mistral", "Hi [/INST]"),
        ("qwen3", "<|im_start|>assistant\n"),
    ],
)
def test_prompt_ends_where_the_answer_begins(family: str, opening: str) -> None:
    assert render_prompt(tiny_tokenizer(family), CHAT[:1]).endswith(opening)


def test_prompt_of_a_template_without_generation_prompt_opens_the_turn_itself() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
    )
    assert (
        render_prompt(templated(template), CHAT[:1]) == "<|im_start|>user:Hi<|im_end|><|im_start|>assistant:"
    )


def test_prompt_stays_when_the_template_does_not_print_a_further_answer() -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    assert render_prompt(templated(template), CHAT[:1]) == "Hi<|im_end|>"


@pytest.mark.parametrize(
    ("family", "first", "last"),
    [
        ("chatml", "Hello.<|im_end|>", "Bye.<|im_end|>"),
        ("llama3", "Hello.<|eot_id|>", "Bye.<|eot_id|>"),
        ("gemma", "Hello.<end_of_turn>", "Bye.<end_of_turn>"),
        ("mistral", " Hello.</s>", " Bye.</s>"),
        ("qwen3", "Hello.<|im_end|>", "<think>\n\n</think>\n\nBye.<|im_end|>"),
    ],
)
def test_spans_hold_each_answer_and_its_end(family: str, first: str, last: str) -> None:
    assert spelt(family, CHAT) == [first, last]


def test_earlier_thinking_that_the_template_drops_is_not_searched_for() -> None:
    thoughtful = [
        CHAT[0],
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello."},
        CHAT[2],
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nBye."},
    ]
    assert spelt("qwen3", thoughtful) == ["Hello.<|im_end|>", "<think>\nso\n</think>\n\nBye.<|im_end|>"]


def test_a_tool_call_is_part_of_the_answer() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        CHAT[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        CHAT[3],
    ]
    first, last = spelt("qwen3", messages)
    assert first.endswith('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>')
    assert last.endswith("Bye.<|im_end|>")


def test_a_template_that_leaves_out_a_tool_call_does_not_teach_silence() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    chat = [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(DataError, match="leaves out the call of weather in message 2") as caught:
        spelt("chatml", chat)
    assert caught.value.code == "tool-calls-dropped"
    assert spelt("chatml", [CHAT[0], {**chat[1], "weight": 0}, *CHAT[2:]]) == ["Bye.<|im_end|>"]


def test_answers_that_repeat_each_other_and_the_question_are_told_apart() -> None:
    same = [{"role": message["role"], "content": "Hi"} for message in CHAT]
    tokenizer = tiny_tokenizer("chatml")
    text = render(tokenizer, same)
    (first, _), (second, _) = answer_spans(tokenizer, same, text)
    assert [text[:first].count("Hi"), text[:second].count("Hi")] == [1, 3]


def test_an_empty_answer_is_its_end_token() -> None:
    assert spelt("chatml", [CHAT[0], {"role": "assistant", "content": ""}]) == ["<|im_end|>"]


def test_an_answer_that_opens_the_conversation_is_found() -> None:
    assert spelt("chatml", [CHAT[1], CHAT[0]]) == ["Hello.<|im_end|>"]


def test_an_answer_that_contains_the_sentinel_is_found() -> None:
    word = fresh_sentinel("")
    assert spelt("chatml", [CHAT[0], {"role": "assistant", "content": word}]) == [word + "<|im_end|>"]


def test_a_generation_marker_agrees_with_the_proof() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = templated(template)
    text = render(tokenizer, CHAT)
    out = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, flag in zip(out["input_ids"], out["assistant_masks"], strict=True) if flag]
    spans = answer_spans(tokenizer, CHAT, text)
    assert tokenizer.decode(marked) == "".join(text[start:stop] for start, stop in spans)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | upper }}{{ '<|im_end|>' }}{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}{{ '<|im_end|>' }}{% endfor %}",
        "{% for m in messages %}{{ m.content + m.content + '<|im_end|>' }}{% endfor %}",
        "{% for m in messages if m.role == 'user' %}{{ m.content + '<|im_end|>' }}{% endfor %}",
    ],
)
def test_a_template_that_changes_answers_cannot_be_masked(template: str) -> None:
    tokenizer = templated(template)
    with pytest.raises(ModelError) as caught:
        answer_spans(tokenizer, CHAT, render(tokenizer, CHAT))
    assert caught.value.code == "unmaskable-template"


@pytest.mark.parametrize("end", ["", "<|never_a_token|>", "\n\n"])
def test_an_answer_without_an_end_token_is_an_error(end: str) -> None:
    tokenizer = templated(
        "{% for m in messages %}{{ '<|im_start|>' + m.content + '" + end + "' }}{% endfor %}"
    )
    with pytest.raises(ModelError) as caught:
        answer_spans(tokenizer, CHAT[:2], render(tokenizer, CHAT[:2]))
    assert caught.value.code == "no-turn-end"


@pytest.mark.parametrize("mark", [{"trained": False}, {"weight": 0}, {"weight": 0.0}])
def test_an_untrained_answer_has_no_span(mark: dict[str, object]) -> None:
    assert not is_trained({**CHAT[1], **mark})
    assert spelt("chatml", [CHAT[0], {**CHAT[1], **mark}, *CHAT[2:]]) == ["Bye.<|im_end|>"]


@pytest.mark.parametrize("mark", [{}, {"trained": True}, {"weight": 1}, {"weight": None}, {"trained": None}])
def test_an_answer_is_trained_unless_it_says_otherwise(mark: dict[str, object]) -> None:
    assert is_trained({**CHAT[1], **mark})


def test_special_tokens_are_spelt_longest_first() -> None:
    assert special_tokens(tiny_tokenizer("chatml")) == ["<|im_start|>", "<|im_end|>"]


def test_special_pattern_is_literal() -> None:
    pattern = special_pattern(tiny_tokenizer("mistral"))
    assert pattern.match(" \n[/INST]x").group() == " \n[/INST]"
    assert pattern.match("I") is None


def test_a_fresh_sentinel_is_not_in_the_text() -> None:
    word = fresh_sentinel("")
    assert fresh_sentinel(f"a {word}{word}Q b") not in f"a {word}{word}Q b"


@pytest.mark.parametrize("arguments", [{"city": "Köln", "days": 2}, '{"city": "Köln", "days": 2}'])
@pytest.mark.parametrize(
    "printed", ["{{ call.function.arguments | tojson }}", "{{ '' + call.function.arguments }}"]
)
def test_arguments_of_a_tool_call_are_printed_as_json_however_they_are_spelled(
    printed: str, arguments: object
) -> None:
    tokenizer = templated(
        "{% for m in messages %}{% for call in m.tool_calls %}" + printed + "{% endfor %}{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert render(tokenizer, [message]) == '{"city": "Köln", "days": 2}'
    assert call["function"]["arguments"] is arguments


def test_arguments_that_are_no_object_stay_as_they_are() -> None:
    tokenizer = templated("{{ messages[0].tool_calls[0].function.arguments | tojson }}")
    for arguments, shown in (("{nonsense", '"{nonsense"'), ("5", '"5"'), ([1], "[1]")):
        call = {"function": {"name": "f", "arguments": arguments}}
        assert render(tokenizer, [{"role": "assistant", "content": "", "tool_calls": [call]}]) == shown
