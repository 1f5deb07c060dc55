from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from backend.core.template import render
from backend.core.template_shape import TemplateShape, TemplateShapes
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
        strip=False,
        leads={1: 0},
    )


def test_a_lead_counts_what_the_model_writes_before_the_answer() -> None:
    assert TemplateShapes(tiny_tokenizer("mistral")).get(ROLES).leads == {1: 1, 3: 1}


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "mistral"])
@given(contents=st.lists(texts, min_size=4, max_size=4))
def test_joining_is_rendering(family: str, contents: list[str]) -> None:
    tokenizer, shape = known(family)
    messages = [{"role": role, "content": text} for role, text in zip(ROLES, contents, strict=True)]
    assert shape.join(contents) == render(tokenizer, messages)


@pytest.mark.parametrize(
    "content",
    [
        "{{ m.content.split('x')[0] }}",
        "{{ m.content | upper }}",
        "{{ m.content | replace('a', 'b') }}",
        "{{ m.content | tojson }}",
        "{{ m.content[:100000] }}",
        "{{ m.content if 'rare' not in m.content else '' }}",
        "{{ m.content if m.content != 'rare' else '' }}",
        "{{ m.content if 'rare' != m.content else '' }}",
        "{{ m.content if not m.content == 'rare' else '' }}",
        "{{ m.content if m.content < 'zzzz' else '' }}",
        "{{ m.content if m.content <= 'zzzz' else '' }}",
        "{{ m.content if m.content > '' else '' }}",
        "{{ m.content if 'zzzz' > m.content else '' }}",
        "{{ m.content if m.content else 'nothing' }}",
        "{{ m.content if m.content | length < 100000 else '' }}",
        "{{ m.content.strip('x') }}",
        "{{ m.content.removesuffix('rare') }}",
        "{{ m.content }}{{ {m.content: 1}['rare'] }}",
        "{% for letter in m.content %}{{ letter }}{% endfor %}",
        "{{ m.content * 1 }}",
        "{{ m.content % () }}",
        "{{ m.content if m.content is not lower else m.content }}",
        "{{ m.content }}{{ m.content }}",
        "{{ ('x ' + m.content) | trim }}",
        "{{ '%s' % m.content }}",
        "constant",
    ],
)
def test_a_template_that_looks_at_a_content_has_no_shape(content: str) -> None:
    assert shape_of(HEAD + content + TAIL) is None


@pytest.mark.parametrize(
    "content",
    [
        "{{ m.content }}",
        "{{ m['content'] | trim }}",
        "{{ m.content.strip() }}",
        "{{ 'a' ~ m.content ~ '' }}",
        "{% if m.content is string %}{{ m.content }}{% endif %}",
        "{% generation %}{{ m.content }}{% endgeneration %}",
        "{% set text = m.content + '' %}{{ text }}",
    ],
)
def test_a_template_that_only_prints_has_a_shape(content: str) -> None:
    assert isinstance(shape_of(HEAD + content + TAIL), TemplateShape)


def test_strip_is_known_from_plain_printing() -> None:
    shapes = [shape_of(HEAD + content + TAIL) for content in ("{{ m.content | trim }}", "{{ m.content }}")]
    assert [shape.strip for shape in shapes] == [True, False]


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
