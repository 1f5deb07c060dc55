from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backend.core.templates.template import (
    check_unicode,
    fresh_sentinel,
    is_trained,
    render,
    render_prompt,
    set_template_time,
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


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for %}", "is no Jinja: line 1: "),
        (
            "{{ 'a' }}\n{% for m in messages %}{{ m.content }}",
            "is no Jinja: line 2: Unexpected end of template",
        ),
        ("{{ 1 // 0 }}", "renders no conversation at all: "),
        ("{{ messages.clear() }}", "renders no conversation at all: "),
        ("{{ raise_exception('Never!') }}", "renders no conversation at all: Never! Set"),
        ("", "is empty. Set"),
        (" \n", "is empty. Set"),
        ("{# nothing #}", "prints nothing of a conversation. Set"),
    ],
)
def test_a_template_that_cannot_be_run_is_to_blame_and_not_the_conversation(template: str, told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        render(templated(template), CHAT)
    assert caught.value.code == "bad-template"
    assert "model.chat_template" in caught.value.remedy
    assert ".." not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "tools", "told"),
    [
        (("default", "tool_use"), None, "default: Hi"),
        (("default", "tool_use"), [{"type": "function"}], "tool_use: Hi"),
        (("default", "rag"), [{"type": "function"}], "default: Hi"),
    ],
)
def test_of_several_templates_that_for_tools_is_taken_or_the_default(
    names: tuple[str, ...], tools: list[dict[str, object]] | None, told: str
) -> None:
    tokenizer = templated("")
    tokenizer.chat_template = {name: name + ": {{ messages[0].content }}" for name in names}
    assert render(tokenizer, CHAT, tools=tools) == told


def test_several_templates_without_a_default_are_to_blame_and_not_the_conversation() -> None:
    tokenizer = templated("")
    tokenizer.chat_template = {"rag": "{{ messages }}", "tool_use": "{{ messages }}"}
    with pytest.raises(
        ModelError, match=r"\(rag, tool_use\), none of which is the default. Set model"
    ) as caught:
        render(tokenizer, CHAT)
    assert caught.value.code == "bad-template"


def test_a_row_that_the_template_refuses_for_its_tools_is_the_rows_affair() -> None:
    template = "{% if tools %}{{ raise_exception('No tools!') }}{% endif %}{{ messages[0].content }}"
    with pytest.raises(DataError, match=r"\(user\): No tools! Give"):
        render(templated(template), CHAT[:1], tools=[{"type": "function"}])


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


@pytest.mark.parametrize("mark", [{}, {"trained": True}, {"weight": 1}, {"weight": None}, {"trained": None}])
def test_an_answer_is_trained_unless_it_says_otherwise(mark: dict[str, object]) -> None:
    assert is_trained({**CHAT[1], **mark})


def test_special_tokens_are_spelt_longest_first() -> None:
    assert special_tokens(tiny_tokenizer("chatml")) == ["<|im_start|>", "<|im_end|>"]


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
