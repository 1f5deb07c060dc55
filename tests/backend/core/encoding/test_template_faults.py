"""What a template does to rows unseen. The law: a row goes on where it is asked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from backend.core.encoding.row import encode_row
from backend.core.encoding.template_faults import seen_by, template_faults, template_warnings, token_options
from backend.core.templates.named import set_chat_template
from backend.core.tokenizer import encode_messages, encode_prompt
from backend.data.checks.base import Scan
from backend.data.checks.tokens import TOKEN_CHECKS
from backend.data.doctor import run_checks
from backend.data.records import Row
from backend.errors import DataError
from backend.run.config import DataConfig, TrainingConfig
from tests.backend.core.chat_templates import (
    LOOKS_BACK,
    RESULTS_APART,
    RESULTS_INSIDE,
    TURN_GOES_ON,
    TWO_ENDS,
    templated,
)
from tests.backend.core.templates.test_answer_spans import CHAT, asked
from tests.tiny import tiny_tokenizer

# Opens a thinking block unless told not to, as Qwen 3.5 does; every answer shows one.
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
# Opens one that no row ever has, and cuts the reasoning out of an answer, as DeepSeek's distilled models do.
DISTILLED = (
    "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
TOOLS = '[{"type": "function", "function": {"name": "clock"}}]'
CALL = {"type": "function", "function": {"name": "clock", "arguments": {}}}


def speaking(template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer("qwen3")
    tokenizer.chat_template = template
    return tokenizer


def row(answer: str = "Hello.", *, system: str = "", tools: str | None = None, **more: Any) -> Row:
    first = ({"role": "system", "content": system},) if system else ()
    asked = {"role": "user", "content": "Hi"}
    return Row("f:1", (*first, asked, {"role": "assistant", "content": answer, **more}), tools=tools)


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "mistral"])
def test_a_template_that_does_as_it_is_told_has_no_fault(family: str) -> None:
    assert template_faults(tiny_tokenizer(family))(row()) == {}


@pytest.mark.parametrize(
    "other",
    [Row("f:1", text="Hi"), Row("f:1", input_ids=(1, 2), labels=(1, 2)), Row("f:1", segments=(("a", True),))],
)
def test_what_needs_no_template_has_none(other: Row) -> None:
    assert template_faults(tiny_tokenizer())(other) == {}


def test_without_a_template_there_is_nothing_to_look_at() -> None:
    assert template_faults(tiny_tokenizer("base"))(row()) == {}


@pytest.mark.parametrize(
    ("template", "given", "slug", "said"),
    [
        (
            THINKS,
            row(),
            "asked-otherwise",
            r"asked for with .*<think>\\n' where the row has .*<think>\\n\\n<",
        ),
        (DISTILLED, row(), "asked-otherwise", r"<think>\\n' where the row has '.*Hello"),
        (DISTILLED, row("<think>Why</think>Hi"), "lost-parts", "left out: the reasoning of the last answer"),
        (DISTILLED, row(reasoning_content="Why"), "lost-parts", "left out: the reasoning of the last answer"),
        (DISTILLED, row(system="Be kind."), "lost-parts", "left out: the system's text"),
        (DISTILLED, row(tools=TOOLS), "lost-parts", "left out: the tools"),
        (
            DISTILLED,
            row(tools=TOOLS, tool_calls=[CALL], trained=False),
            "lost-parts",
            "the tools, a tool call",
        ),
    ],
)
def test_faults_by_name(template: str, given: Row, slug: str, said: str) -> None:
    assert re.search(said, template_faults(speaking(template))(given)[slug])


def test_a_block_that_the_model_must_write_itself_is_told() -> None:
    found = template_faults(tiny_tokenizer("qwen3"))(row())
    assert found == {"added-words": r"each answer begins with '<think>\n\n</think>'"}


@pytest.mark.parametrize(
    ("form", "given"), [("no-thinking", row()), ("thinking", row(reasoning_content="They greet."))]
)
def test_the_form_that_suits_the_rows_has_no_fault(form: str, given: Row) -> None:
    tokenizer = speaking(THINKS)
    assert template_faults(tokenizer)(row()) != {}
    set_chat_template(tokenizer, form)
    assert template_faults(tokenizer)(given) == {}


def test_reasoning_for_a_model_told_not_to_think_is_refused_by_name() -> None:
    tokenizer = speaking(THINKS)
    set_chat_template(tokenizer, "no-thinking")
    with pytest.raises(DataError, match="message 2 has reasoning") as caught:
        encode_row(row(reasoning_content="They greet."), tokenizer)
    assert caught.value.code == "template-refused"
    assert template_faults(tokenizer)(row(reasoning_content="They greet.")) == {}


def test_reasoning_is_trained_where_a_template_prints_its_block_otherwise_without() -> None:
    """As Nemotron's does: an answer without reasoning shows a block on one line."""
    block = "'<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n'"
    tokenizer = speaking(THINKS.replace(block, f"({block}) if m.reasoning_content else '<think></think>'"))
    encoded = encode_row(row(reasoning_content="Why."), tokenizer)
    taught = [token for token, trained in zip(encoded.input_ids, encoded.trained, strict=True) if trained]
    assert tokenizer.decode(taught) == "Why.\n</think>\n\nHello.<|im_end|>"
    assert template_faults(tokenizer)(row(reasoning_content="Why.")) == {}
    assert "asked-otherwise" in template_faults(tokenizer)(row())


answers = st.lists(st.sampled_from(["word", " ", "\n", "\n\n", "  ", "5", ".", "é"]), max_size=4).map("".join)


@pytest.mark.parametrize("family", ["chatml", "llama3", "qwen3"])
@given(said=st.lists(answers, min_size=1, max_size=6))
def test_rows_are_named_that_do_not_go_on_where_they_are_asked(family: str, said: list[str]) -> None:
    tokenizer = tiny_tokenizer(family)
    look = template_faults(tokenizer)
    for given_row in map(row, said):
        prompt = encode_prompt(tokenizer, given_row.messages[:1])
        goes_on = encode_messages(tokenizer, given_row.messages).input_ids[: len(prompt)] == prompt
        assert ("asked-otherwise" not in look(given_row)) == goes_on


def test_warnings_count_and_say_what_to_do() -> None:
    rows = [row(), row(), row(reasoning_content="They greet.")]
    (warning,) = template_warnings(rows, speaking(THINKS))
    assert "asked in another way than it is trained, in 2 of 3 rows (f:1: an answer" in warning
    assert "no-thinking" in warning
    assert template_warnings(rows[:2], tiny_tokenizer()) == ()


@pytest.mark.parametrize(
    ("template", "eos"),
    [
        (RESULTS_INSIDE, "<turn|>"),
        (TURN_GOES_ON, "<turn|>"),
        (RESULTS_APART, "<|im_end|>"),
        (LOOKS_BACK, "<|return|>"),
        (TWO_ENDS, "<|end_of_turn|>"),
    ],
    ids=["results inside", "turn goes on", "results apart", "looks back", "two ends"],
)
def test_rows_of_every_kind_of_template_end_and_train_no_result(template: str, eos: str) -> None:
    tokenizer = templated(template, eos=eos)
    rows = [Row(f"r:{number}", tuple(messages)) for number, messages in enumerate(CONVERSATIONS[template])]
    sets = {name: frozenset(seen_by(tokenizer)[name]) for name in ("end_ids", "special_ids")}
    scan = Scan(rows, **{**seen_by(tokenizer), **sets})
    findings, _ = run_checks(scan, [each for each in TOKEN_CHECKS if each.needs == "encoder"])
    assert [each.check for each in findings] == []


CALLS = [asked(), [*asked(content="Let me look."), *CHAT[2:]]]
CONVERSATIONS = {
    **dict.fromkeys((RESULTS_INSIDE, TURN_GOES_ON, RESULTS_APART, LOOKS_BACK), CALLS),
    TWO_ENDS: [CHAT, CHAT[:2]],
}


@pytest.mark.parametrize(("given", "used"), [(None, DataConfig.model_fields["max_length"].default), (7, 7)])
def test_options_of_a_check_without_a_run_are_those_of_a_run_by_default(given: int | None, used: int) -> None:
    tokenizer = tiny_tokenizer()
    options = token_options(tokenizer, given)
    assert options["max_length"] == used
    assert options["epochs"] == TrainingConfig.model_fields["num_train_epochs"].default
    assert options.keys() - seen_by(tokenizer).keys() == {"max_length", "epochs"}
