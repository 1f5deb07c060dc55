from __future__ import annotations

import pytest

from backend.core.templates.template import render
from backend.core.templates.trace import Conditions, tracer
from tests.tiny import tiny_tokenizer

HEAD = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
TAIL = "{{ '<|im_end|>' }}{% endfor %}"
CHAT = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}]


def conditions_of(template: str) -> Conditions | None:
    """What the tracer says of a template, or None where it gives no trace."""
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = template
    trace = tracer(tokenizer) or (lambda *_: None)
    return trace(CHAT, render(tokenizer, CHAT))


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
        "{{ ('x ' + m.content) | trim }}",
        "{{ (m.content + ' y').split('z')[0] }}",
        "{% if 'xy' not in 'x' + m.content %}{{ m.content }}{% endif %}",
        "{% if ('x' + m.content) != 'xy' %}{{ m.content }}{% endif %}",
        "{{ '%5s' % m.content }}",
        "{{ '%s' % m.content }}",
        "{{ m.content | safe }}",
        "{{ m.content if m.content is eq('rare') else '' }}",
        "{{ m.content if m.content is not in('literal') else '' }}",
        "{{ m.content }}{{ messages | map(attribute='content') | first }}",
        "{{ m.content if messages | selectattr('content', 'equalto', 'rare') | list | length == 0 else '' }}",
        "{{ m.content | default('x', true) | replace(old='a', new='b') }}",
        "{{ 'literal' | replace('literal', m.content) }}",
        "{{ 'a' ~ m.content }}",
        "{{ '{}'.format(m.content) }}",
        "{{ ''.join([m.content]) }}",
        "{{ [m.content] | join }}",
        "{{ m | tojson }}",
        "{{ messages | tojson }}",
        "{{ [m.content, [m.content]] | tojson }}",
        "{{ m.content if m.content not in 'literal' else '' }}",
        "{{ m['content']['upper']() }}",
        "{% set text %}{{ m.content }}{% endset %}{{ text }}",
        "{% macro put(text) %}{{ text }}{% endmacro %}{{ put(m.content) }}",
        "{% filter trim %}{{ m.content }}{% endfilter %}",
        "{{ loop.changed(m.content) }}{{ m.content }}",
        "{{ cycler(m.content).next() }}",
    ],
)
def test_a_template_that_looks_at_a_content_has_no_conditions(content: str) -> None:
    assert conditions_of(HEAD + content + TAIL) is None


@pytest.mark.parametrize(
    ("content", "conditions"),
    [
        ("{{ m.content }}", Conditions()),
        ("{{ m.content | string }}", Conditions()),
        ("{{ m.content }}{{ ['a', 'b'] | reject('equalto', 'b') | join(', ') }}", Conditions()),
        ("{{ m.content }}{{ 'x' if 3 is odd and m.role is eq('user') }}", Conditions()),
        ("{{ m.content if m.role in ['user', 'assistant'] else '' }}", Conditions()),
        (
            "{{ m.content if m.content not in ['rare', 'odd'] else '' }}",
            Conditions(frozenset({"rare", "odd"})),
        ),
        ("{{ m.content }}{{ m.get('tools') | tojson if m.tools else '' }}", Conditions()),
        ("{{ m.content }}{{ strftime_now('') }}", Conditions()),
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
def test_a_template_that_joins_under_conditions_says_which(content: str, conditions: Conditions) -> None:
    assert conditions_of(HEAD + content + TAIL) == conditions


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


@pytest.mark.parametrize("template", [None, "{% broken", {"default": "x"}])
def test_what_is_no_template_gives_no_trace(template: object) -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = template
    assert tracer(tokenizer) is None


def test_another_text_than_expected_gives_no_conditions() -> None:
    tokenizer = tiny_tokenizer("chatml")
    assert tracer(tokenizer)(CHAT, "something else") is None


def test_the_thinking_template_excludes_thinking() -> None:
    tokenizer = tiny_tokenizer("qwen3")
    conditions = tracer(tokenizer)(CHAT, render(tokenizer, CHAT))
    assert conditions == Conditions(frozenset({"</think>"}), settled=True)
