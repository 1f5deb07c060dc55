from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from backend.core.templates import shape as template_shape
from backend.core.templates.shape import TemplateShape, TemplateShapes
from backend.core.templates.template import render
from backend.core.templates.trace import Conditions
from tests.backend.core.chat_templates import NEXT_OPENS, ONE_END, TWO_ENDS, templated
from tests.tiny import tiny_tokenizer

ROLES = ("user", "assistant", "user", "assistant")
HEAD = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
TAIL = "{{ '<|im_end|>' }}{% endfor %}"
fragments = st.sampled_from(
    [
        "<|im_end|>",
        "[INST]",
        "</think>",
        "{{ x }}",
        "{%",
        " ",
        "\n",
        "\t",
        "\u00a0",
        "\x1c",
        "word",
        "é",
        "漢",
        "'",
        '"',
    ]
)
texts = st.lists(fragments | st.text(max_size=5), max_size=6).map("".join)


def shape_of(template: str, roles: tuple[str, ...] = ROLES) -> TemplateShape | None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = template
    return TemplateShapes(tokenizer).get(roles)


@cache
def known(family: str) -> tuple[PreTrainedTokenizerFast, TemplateShape]:
    tokenizer = tiny_tokenizer(family)
    return tokenizer, TemplateShapes(tokenizer).get(ROLES)


def test_a_shape_is_the_fixed_text_around_the_contents() -> None:
    shape = TemplateShapes(tiny_tokenizer("chatml")).get(("user", "assistant"))
    assert shape == TemplateShape(
        (
            "<|im_start|>system\nBe brief and kind.<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>\n",
        ),
        {1: 0},
        {1: 1},
        Conditions(),
    )


def test_a_lead_counts_what_the_model_writes_before_the_answer() -> None:
    assert TemplateShapes(tiny_tokenizer("mistral")).get(ROLES).leads == {1: 1, 3: 1}


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "mistral", "qwen3"])
@given(data=st.data())
def test_joining_is_rendering(family: str, data: st.DataObject) -> None:
    tokenizer, shape = known(family)
    contents = data.draw(st.lists(texts.filter(shape.conditions.met_by), min_size=4, max_size=4))
    messages = [{"role": role, "content": text} for role, text in zip(ROLES, contents, strict=True)]
    assert shape.join(contents) == render(tokenizer, messages)


def test_a_template_that_looks_at_a_content_has_no_shape() -> None:
    assert shape_of(HEAD + "{{ m.content[:100000] }}" + TAIL) is None


def test_a_template_that_prints_a_content_twice_has_no_shape() -> None:
    assert shape_of(HEAD + "{{ m.content }}{{ m.content }}" + TAIL) is None


def test_a_template_that_prints_no_content_has_no_shape() -> None:
    assert shape_of(HEAD + "constant" + TAIL) is None


def test_conditions_go_with_the_shape() -> None:
    shape = shape_of(HEAD + "{{ m.content | trim }}" + TAIL)
    assert shape.conditions == Conditions(settled=True)


def test_probes_refute_what_the_trace_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_shape, "tracer", lambda _: lambda *_: Conditions())
    assert shape_of(HEAD + "{{ m.content | trim }}" + TAIL) is None


@pytest.mark.parametrize("family", ["gemma", "mistral"])
def test_refused_roles_have_no_shape(family: str) -> None:
    assert TemplateShapes(tiny_tokenizer(family)).get(("system", "user")) is None


def test_messages_out_of_order_have_no_shape() -> None:
    template = "{% for m in messages | reverse %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    assert shape_of(template) is None


def test_an_answer_without_an_end_has_no_shape() -> None:
    assert shape_of("{% for m in messages %}{{ m.content }}{% endfor %}") is None


@pytest.mark.parametrize("template", [None, "{% broken", {"default": "x"}])
def test_what_is_no_template_has_no_shape(template: object) -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = template
    assert TemplateShapes(tokenizer).get(ROLES) is None


def test_no_roles_have_no_shape() -> None:
    assert TemplateShapes(tiny_tokenizer("chatml")).get(()) is None


@pytest.mark.parametrize(
    ("template", "stops", "ends"),
    [(TWO_ENDS, (), {1: 2, 3: 2}), (NEXT_OPENS, ("<|user|>",), {1: 1, 3: 1})],
    ids=["two tokens", "the next turn's token"],
)
def test_a_shape_knows_how_many_tokens_end_an_answer(
    template: str, stops: tuple[str, ...], ends: dict[int, int]
) -> None:
    shape = TemplateShapes(templated(template, stops=stops)).get(ROLES)
    assert shape is not None
    assert shape.ends == ends


def test_a_template_that_ends_only_the_last_answer_has_no_shape() -> None:
    assert TemplateShapes(templated(ONE_END)).get(ROLES) is None
