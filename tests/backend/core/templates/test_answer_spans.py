"""What of a conversation the model writes: backend/core/templates/answer_spans.py, over a template of each kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.templates.answer_spans import RenderedChat, render_answers
from backend.core.templates.template import fresh_sentinel, render
from backend.errors import DataError, ModelError
from tests.backend.core.chat_templates import (
    LOOKS_BACK,
    NEXT_OPENS,
    RESULTS_APART,
    RESULTS_INSIDE,
    TURN_GOES_ON,
    TWO_ENDS,
    templated,
)
from tests.tiny import tiny_tokenizer

Messages = list[dict[str, Any]]

CHAT: Messages = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "Bye."},
]
WORDS = st.text("ab {}<|>\"'\n", min_size=1, max_size=8).map(str.strip).filter(bool)


def call(name: str = "weather", **arguments: object) -> dict[str, Any]:
    return {"type": "function", "id": f"{name}0001", "function": {"name": name, "arguments": arguments}}


def asked(*calls: dict[str, Any], content: str = "", results: tuple[str, ...] = ("sunny",)) -> Messages:
    """A question, the calls it leads to, their results, and the answer."""
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": content, "tool_calls": list(calls or [call(city="Rome")])},
        *({"role": "tool", "name": "weather", "content": each} for each in results),
        {"role": "assistant", "content": "It is sunny."},
    ]


def spelt(chat: RenderedChat) -> list[str]:
    return [chat.text[start:stop] for start, stop in chat.spans]


def of_family(family: str, messages: Messages) -> list[str]:
    return spelt(render_answers(tiny_tokenizer(family), messages))  # type: ignore[arg-type]


def of(template: str, messages: Messages, **options: Any) -> list[str]:
    return spelt(render_answers(templated(template, **options), messages))


class TestPlainAnswers:
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
    def test_a_span_is_the_answer_and_its_end(self, family: str, first: str, last: str) -> None:
        assert of_family(family, CHAT) == [first, last]

    def test_earlier_thinking_that_the_template_drops_is_not_searched_for(self) -> None:
        thoughtful = [
            CHAT[0],
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello."},
            CHAT[2],
            {"role": "assistant", "content": "<think>\nso\n</think>\n\nBye."},
        ]
        expected = ["Hello.<|im_end|>", "<think>\nso\n</think>\n\nBye.<|im_end|>"]
        assert of_family("qwen3", thoughtful) == expected

    def test_answers_that_repeat_each_other_and_the_question_are_told_apart(self) -> None:
        same = [{"role": message["role"], "content": "Hi"} for message in CHAT]
        chat = render_answers(tiny_tokenizer("chatml"), same)
        assert [chat.text[:start].count("Hi") for start, _ in chat.spans] == [1, 3]

    def test_an_empty_answer_is_its_end_token(self) -> None:
        assert of_family("chatml", [CHAT[0], {"role": "assistant", "content": ""}]) == ["<|im_end|>"]

    def test_an_answer_that_opens_the_conversation_is_found(self) -> None:
        assert of_family("chatml", [CHAT[1], CHAT[0]]) == ["Hello.<|im_end|>"]

    def test_an_answer_that_contains_a_mark_is_found(self) -> None:
        word = f"{fresh_sentinel('')}0Z"
        said = of_family("chatml", [CHAT[0], {"role": "assistant", "content": word}])
        assert said == [word + "<|im_end|>"]

    @pytest.mark.parametrize("mark", [{"trained": False}, {"weight": 0}, {"weight": 0.0}])
    def test_an_untrained_answer_has_no_span(self, mark: dict[str, object]) -> None:
        assert of_family("chatml", [CHAT[0], {**CHAT[1], **mark}, *CHAT[2:]]) == ["Bye.<|im_end|>"]

    def test_a_generation_marker_agrees_with_the_proof(self) -> None:
        tokenizer = tiny_tokenizer("chatml")
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
            "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
            "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        )
        out = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
        marked = [i for i, flag in zip(out["input_ids"], out["assistant_masks"], strict=True) if flag]
        assert tokenizer.decode(marked) == "".join(spelt(render_answers(tokenizer, CHAT)))

    @pytest.mark.parametrize(
        "template",
        [
            "{% for m in messages %}{{ m.content | upper }}{{ '<|im_end|>' }}{% endfor %}",
            "{% for m in messages %}{{ m.content | length }}{{ '<|im_end|>' }}{% endfor %}",
            "{% for m in messages %}{{ m.content + m.content + '<|im_end|>' }}{% endfor %}",
            "{% for m in messages if m.role == 'user' %}{{ m.content + '<|im_end|>' }}{% endfor %}",
        ],
    )
    def test_a_template_that_changes_answers_cannot_be_masked(self, template: str) -> None:
        with pytest.raises(ModelError) as caught:
            of(template, CHAT)
        assert caught.value.code == "unmaskable-template"
        assert "model.chat_template" in caught.value.remedy


class TestToolCalls:
    def test_a_call_is_part_of_the_answer(self) -> None:
        first, last = of(RESULTS_APART, asked(), eos="<|im_end|>")
        expected = '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>'
        assert (first, last) == (expected, "It is sunny.<|im_end|>")

    @pytest.mark.parametrize("arguments", [{}, {"days": 2}, {"at": [1, {"deep": None}]}, {"city": ""}])
    @pytest.mark.parametrize("content", ["", "Let me look."])
    def test_calls_without_any_text_in_their_arguments_are_found(
        self, arguments: dict[str, Any], content: str
    ) -> None:
        messages = asked(call(**arguments), content=content)
        first, _ = of(RESULTS_APART, messages, eos="<|im_end|>")
        assert first == render(templated(RESULTS_APART), messages[1:2])[len("<|im_start|>assistant\n") : -1]

    def test_arguments_as_json_text_are_found(self) -> None:
        messages = asked(
            {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        )
        assert of(RESULTS_APART, messages) == of(RESULTS_APART, asked())

    def test_an_end_that_is_not_the_tokenizers_is_the_end_of_a_call_too(self) -> None:
        assert of(RESULTS_APART, asked(), eos="<|user|>")[0].endswith("</tool_call><|im_end|>")

    def test_a_template_that_leaves_out_a_call_does_not_teach_silence(self) -> None:
        chat = [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [call()]}]
        with pytest.raises(DataError, match="leaves out the call of weather in message 2") as caught:
            of_family("chatml", chat)
        assert caught.value.code == "tool-calls-dropped"
        assert of_family("chatml", [CHAT[0], {**chat[1], "weight": 0}, *CHAT[2:]]) == ["Bye.<|im_end|>"]

    def test_a_call_whose_tool_is_named_elsewhere_counts_as_left_out(self) -> None:
        template = "{{ tools[0]['function']['name'] }}" + str(tiny_tokenizer("chatml").chat_template)
        tools = [{"type": "function", "function": {"name": "weather"}}]
        with pytest.raises(DataError) as caught:
            render_answers(templated(template), asked(), tools=tools)
        assert caught.value.code == "tool-calls-dropped"

    def test_a_template_that_looks_back_at_the_call_is_masked(self) -> None:
        expected = [
            ' to=weather<|message|>{"city": "Rome"}<|call|>',
            "<|message|>It is sunny.<|end|>",
            "<|message|>Bye.<|return|>",
        ]
        assert of(LOOKS_BACK, [*asked(), *CHAT[2:]], eos="<|return|>") == expected


class TestResultsInsideTheTurn:
    CALL = '<|tool_call>weather{"city": "Rome"}<tool_call|>'

    @pytest.mark.parametrize("stops", [(), ("<turn|>",), ("<turn|>", "<|call|>")])
    def test_a_result_is_not_trained(self, stops: tuple[str, ...]) -> None:
        said = of(RESULTS_INSIDE, asked(), stops=stops)
        assert said == [self.CALL, "It is sunny.<turn|>"]

    def test_words_behind_the_result_are_trained(self) -> None:
        said = of(RESULTS_INSIDE, asked(content="Let me look."), eos="<turn|>")
        assert said == [self.CALL, "Let me look.<turn|>", "It is sunny.<turn|>"]

    def test_the_spans_are_told_apart_by_message(self) -> None:
        chat = render_answers(templated(RESULTS_INSIDE, eos="<turn|>"), asked(content="Let me look."))
        assert [len(answer) for answer in chat.answers] == [2, 1]

    def test_several_results(self) -> None:
        calls = [call(city="Rome"), call("clock", city="Oslo")]
        said = of(RESULTS_INSIDE, [*asked(*calls, results=("sunny", "noon")), *CHAT[2:]], eos="<turn|>")
        both = self.CALL + '<|tool_call>clock{"city": "Oslo"}<tool_call|>'
        assert said == [both, "It is sunny.<turn|>", "Bye.<turn|>"]

    def test_the_opening_of_a_result_is_trained_where_the_model_stops_there(self) -> None:
        said = of(RESULTS_INSIDE, asked(), stops=("<turn|>", "<|tool_response>"))
        assert said == [self.CALL + "<|tool_response>", "It is sunny.<turn|>"]

    def test_a_call_that_ends_the_conversation(self) -> None:
        assert of(RESULTS_INSIDE, asked()[:2], eos="<turn|>") == [self.CALL]

    @given(result=WORDS, content=st.just("") | WORDS, city=WORDS)
    def test_law_no_result_is_trained_whatever_it_says(self, result: str, content: str, city: str) -> None:
        messages = asked(call(city=city), content=content, results=(result,))
        chat = render_answers(INSIDE, messages)
        begin = chat.text.index("<|tool_response>") + len("<|tool_response>")
        assert chat.text[begin:].startswith(result)
        assert not any(start < begin + len(result) and begin < stop for start, stop in chat.spans)

    def test_a_turn_that_goes_on_needs_no_end(self) -> None:
        said = of(TURN_GOES_ON, asked(content="Let me look."), eos="<turn|>")
        assert said == [self.CALL, "Let me look.", "It is sunny.<turn|>"]

    def test_a_result_inside_the_next_answer_is_refused(self) -> None:
        template = RESULTS_APART.replace(
            "{{ '<|im_start|>' + m.role + '\n' + m.content }}",
            "{{ '<|im_start|>' + m.role + '\n' }}"
            "{% if not loop.first and loop.previtem.role == 'tool' %}{{ 'Seen: ' + loop.previtem.content + '\n' }}"
            "{% endif %}{{ m.content }}",
        )
        with pytest.raises(ModelError, match="results of tools inside the model's turn") as caught:
            of(template, asked())
        assert caught.value.code == "unmaskable-template"

    def test_results_between_calls_are_refused(self) -> None:
        template = RESULTS_APART.replace(
            "{% endfor %}{{ '<|im_end|>\n' }}",
            "{{ '\nresult ' + messages[loop.index0 + 2].content }}{% endfor %}{{ '<|im_end|>\n' }}",
        )
        messages = asked(call(city="Rome"), call(city="Oslo"), results=("sunny", "rainy"))
        with pytest.raises(ModelError, match="cannot be told apart") as caught:
            of(template, messages)
        assert caught.value.code == "unmaskable-template"

    def test_another_messages_words_inside_an_answer_are_refused(self) -> None:
        template = RESULTS_APART.replace(
            "{{ '<|im_end|>\n' }}",
            "{% if m.tool_calls %}{{ '(' + messages[0].content + ')' }}{% endif %}{{ '<|im_end|>\n' }}",
        )
        with pytest.raises(ModelError, match="message 1 says inside the answer in message 2"):
            of(template, asked())


class TestEnds:
    def test_every_answer_has_both_of_two_end_tokens(self) -> None:
        expected = ["Hello.<|end_response|><|end_of_turn|>", "Bye.<|end_response|><|end_of_turn|>"]
        assert of(TWO_ENDS, CHAT, eos="<|end_of_turn|>") == expected

    def test_a_template_that_refuses_a_marked_answer_is_to_blame_and_not_the_row(self) -> None:
        template = "{% if 'Sentinel' in messages[1].content %}{{ raise_exception('No marks!') }}{% endif %}"
        with pytest.raises(ModelError, match=r"not a copy of it .* marked: No marks! Set") as caught:
            of(template + RESULTS_APART, CHAT)
        assert caught.value.code == "unmaskable-template"

    def test_a_last_answer_gets_the_token_at_which_the_model_stops(self) -> None:
        stops = ("<|user|>", "<|observation|>")
        chat = render_answers(templated(NEXT_OPENS, stops=stops), CHAT)
        assert spelt(chat) == ["Hello.<|user|>", "Bye.<|user|>"]
        assert chat.text == render(templated(NEXT_OPENS), CHAT) + "<|user|>"

    def test_no_token_is_added_behind_an_answer_that_is_not_trained(self) -> None:
        last = {**CHAT[3], "weight": 0}
        chat = render_answers(templated(NEXT_OPENS, stops=("<|user|>",)), [*CHAT[:3], last])
        assert chat.text == render(templated(NEXT_OPENS), CHAT)


INSIDE = templated(RESULTS_INSIDE, eos="<turn|>")
