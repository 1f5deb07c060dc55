"""Where an answer ends: backend/core/templates/turn_end.py."""

from __future__ import annotations

import pytest

from backend.core.templates.answer_spans import render_answers
from backend.errors import ModelError
from tests.backend.core.chat_templates import LOOKS_BACK, NEXT_OPENS, ONE_END, TWO_ENDS, templated
from tests.backend.core.templates.test_answer_spans import CHAT, Messages, asked, of


@pytest.mark.parametrize("end", ["", "<|never_a_token|>", "\n\n"])
def test_an_answer_without_an_end_token_is_an_error(end: str) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m.content + '" + end + "' }}{% endfor %}"
    tokenizer = templated("")
    tokenizer.chat_template = template
    with pytest.raises(ModelError) as caught:
        render_answers(tokenizer, CHAT[:2])
    assert caught.value.code == "no-turn-end"


def test_the_opening_of_the_next_turn_is_not_the_end_of_an_answer() -> None:
    with pytest.raises(
        ModelError, match=r"message 2 .* What follows it, <\|user\|>, opens the next turn"
    ) as caught:
        of(ONE_END, CHAT, eos="<|im_end|>")
    assert caught.value.code == "no-turn-end"
    assert "model.chat_template" in caught.value.remedy


@pytest.mark.parametrize(
    "messages", [CHAT[:2], [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]], ids=["one", "untrained"]
)
def test_an_answer_that_has_an_end_is_trained_where_others_have_none(messages: Messages) -> None:
    assert of(ONE_END, messages, eos="<|im_end|>")[-1].endswith(".<|im_end|>")


def test_every_answer_of_a_row_is_looked_at_and_not_the_last_alone() -> None:
    with pytest.raises(ModelError, match="message 2"):
        of(ONE_END, [*CHAT, {"role": "user", "content": "Well?"}, CHAT[3]])


@pytest.mark.parametrize("eos", ["<|end_of_turn|>", "<|im_end|>"])
def test_tokens_that_stand_together_end_a_turn_up_to_the_one_that_stops_the_model(eos: str) -> None:
    assert of(TWO_ENDS, CHAT[:2], eos=eos) == ["Hello.<|end_response|><|end_of_turn|>"]
    assert of(TWO_ENDS, CHAT[:2], eos="<|end_response|>") == ["Hello.<|end_response|>"]


def test_what_a_template_prints_behind_the_last_turn_does_not_end_it() -> None:
    template = TWO_ENDS.replace(
        "{% if add", "{% if not add_generation_prompt %}{{ '\n<|over|>' }}{% endif %}{% if add"
    )
    assert of(template, CHAT, eos="<|over|>") == of(TWO_ENDS, CHAT, eos="<|over|>")


def test_a_last_answer_may_end_otherwise_than_those_before_it() -> None:
    assert of(LOOKS_BACK, CHAT) == ["<|message|>Hello.<|end|>", "<|message|>Bye.<|return|>"]


@pytest.mark.parametrize("between", ["", "\n"])
def test_the_end_of_every_turn_may_hang_on_the_generation_prompt(between: str) -> None:
    template = (
        "{% for m in messages %}{{ '<|turn>' + m.role + '\n' + m.content }}"
        "{{ '<|over|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
        + between
        + "{% endfor %}{% if add_generation_prompt %}{{ '<|turn>assistant\n' }}{% endif %}"
    )
    assert of(template, CHAT) == ["Hello.<|end|>", "Bye.<|over|>"]


def test_a_token_at_which_the_model_stops_ends_an_answer_whatever_it_opens() -> None:
    call = '\n<tool_call>weather{"city": "Rome"}</tool_call><|observation|>'
    said = of(NEXT_OPENS, [*asked(), *CHAT[2:]], stops=("<|user|>", "<|observation|>"))
    assert said == [call, "It is sunny.<|user|>", "Bye.<|user|>"]


def test_without_such_a_token_it_is_the_opening_of_the_next_turn() -> None:
    with pytest.raises(ModelError) as caught:
        of(NEXT_OPENS, CHAT)
    assert caught.value.code == "no-turn-end"
