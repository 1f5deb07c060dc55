from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from backend.core.template import render
from backend.core.template_shape import Conditions, TemplateShape, TemplateShapes
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


@pytest.mark.parametrize(
    "content",
    [
        "{{ m.content | upper }}",
        "{{ m.content.upper() }}",
        "{{ m.content | replace('a', 'b') }}",
        "{{ m.content.replace('a', 'b') }}",
        "{{ m.content | tojson }}",
        "{{ m.content[:100000] }}",
        "{{ m.content[0] }}",
        "{{ m.content if m.content < 'zzzz' else '' }}",
        "{{ m.content if m.content <= 'zzzz' else '' }}",
        "{{ m.content if m.content > '' else '' }}",
        "{{ m.content if 'zzzz' > m.content else '' }}",
        "{{ m.content if m.content | length < 100000 else '' }}",
        "{{ m.content.strip('x') }}",
        "{{ m.content.split() | first }}",
        "{{ m.content.split('') | first }}",
        "{{ m.content if '' in m.content else '' }}",
        "{{ m.content if not m.content.startswith('x', 3) else '' }}",
        "{{ m.content if not m.content.startswith(('x', 'y')) else '' }}",
        "{{ m.content if m.content not in messages[0].content else '' }}",
        "{{ m.content if m.content != messages[0].content else m.content }}",
        "{{ m.content.removesuffix('rare') }}",
        "{{ m.content }}{{ {m.content: 1}['rare'] }}",
        "{% for letter in m.content %}{{ letter }}{% endfor %}",
        "{{ m.content * 1 }}",
        "{{ m.content % () }}",
        "{{ m.content if m.content is not lower else m.content }}",
        "{{ m.content }}{{ m.content }}",
        "{{ ('x ' + m.content) | trim }}",
        "{{ (m.content + ' y').split('z')[0] }}",
        "{% if 'xy' not in 'x' + m.content %}{{ m.content }}{% endif %}",
        "{% if ('x' + m.content) != 'xy' %}{{ m.content }}{% endif %}",
        "{{ '%5s' % m.content }}",
        "{{ '%s' % m.content }}",
        "constant",
    ],
)
def test_a_template_that_looks_at_a_content_has_no_shape(content: str) -> None:
    assert shape_of(HEAD + content + TAIL) is None


@pytest.mark.parametrize(
    ("content", "conditions"),
    [
        ("{{ m.content }}", Conditions()),
        ("{{ 'a' ~ m.content ~ '' }}", Conditions()),
        ("{% if m.content is string %}{{ m.content }}{% endif %}", Conditions()),
        ("{% generation %}{{ m.content }}{% endgeneration %}", Conditions()),
        ("{% set text = m.content + '' %}{{ text }}", Conditions()),
        ("{{ m['content'] | trim }}", Conditions(settled=True)),
        ("{{ m.content.strip() }}", Conditions(settled=True)),
        ("{{ m.content.lstrip('\n') }}", Conditions(settled=True)),
        ("{{ m.content if m.content else 'nothing' }}", Conditions(nonempty=True)),
        ("{{ m.content if 'rare' not in m.content else '' }}", Conditions(frozenset({"rare"}))),
        ("{{ m.content if m.content != 'rare' else '' }}", Conditions(frozenset({"rare"}))),
        ("{{ m.content if not m.content == 'rare' else '' }}", Conditions(frozenset({"rare"}))),
        ("{{ m.content if 'rare' != m.content else '' }}", Conditions(frozenset({"rare"}))),
        ("{{ '' if m.content.startswith('rare') else m.content }}", Conditions(frozenset({"rare"}))),
        ("{{ '' if m.content.endswith('rare') else m.content }}", Conditions(frozenset({"rare"}))),
        ("{{ m.content.split('rare')[-1].strip() }}", Conditions(frozenset({"rare"}), settled=True)),
        ("{{ m.content.rsplit('rare', 1)[-1] }}", Conditions(frozenset({"rare"}))),
    ],
)
def test_a_template_that_joins_under_conditions_has_a_shape(content: str, conditions: Conditions) -> None:
    assert shape_of(HEAD + content + TAIL).conditions == conditions


@pytest.mark.parametrize(
    ("conditions", "content", "met"),
    [
        (Conditions(), " ", True),
        (Conditions(settled=True), " a", False),
        (Conditions(settled=True), "a\n", False),
        (Conditions(settled=True), "a b", True),
        (Conditions(settled=True), "", True),
        (Conditions(nonempty=True), "", False),
        (Conditions(nonempty=True), " ", True),
        (Conditions(frozenset({"x", "y"})), "ay", False),
        (Conditions(frozenset({"x", "y"})), "a", True),
    ],
)
def test_conditions_are_met_or_not(conditions: Conditions, content: str, met: bool) -> None:
    assert conditions.met_by(content) is met


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
