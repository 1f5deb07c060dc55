"""Tiny chat templates, one of each kind that real models bring, and tokenizers whose special tokens they print."""

from __future__ import annotations

import re

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from backend.core.templates.template import set_end_tokens
from tests.tiny import tiny_tokenizer

_SPECIAL = re.compile(r"<\|?/?[a-z_]+\|>|<\|[a-z_]+>")

# Gemma 4: the results of the tools that a message calls stand behind its calls, in the model's own turn, before its
# words; the answer to them goes on in that turn.
RESULTS_INSIDE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|turn>user\n' + m.content + '<turn|>\n' }}"
    "{% elif m.role == 'assistant' %}"
    "{% if loop.first or loop.previtem.role != 'tool' %}{{ '<|turn>model\n' }}{% endif %}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '<|tool_call>' + c.function.name + c.function.arguments | tojson + '<tool_call|>' }}{% endfor %}"
    "{% set ns = namespace(on=m.tool_calls, shown=false) %}"
    "{% for r in messages[loop.index:] %}{% if r.role != 'tool' %}{% set ns.on = false %}{% endif %}"
    "{% if ns.on %}{% set ns.shown = true %}{{ '<|tool_response>' + r.content + '<tool_response|>' }}{% endif %}"
    "{% endfor %}"
    "{% if m.tool_calls and not ns.shown %}{{ '<|tool_response>' }}{% endif %}"
    "{{ m.content }}{% if m.content or not m.tool_calls %}{{ '<turn|>\n' }}{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}{{ '<|turn>model\n' }}{% endif %}"
)
# The same, but words before the results' answer do not end the turn.
TURN_GOES_ON = RESULTS_INSIDE.replace(
    "{% if m.content or not m.tool_calls %}", "{% if not m.tool_calls or loop.last %}"
)
# Command R7B: two tokens end an answer, and the second of them every turn.
TWO_ENDS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% else %}{{ '<|bot|><|start_response|>' + m.content + '<|end_response|>' }}{% endif %}"
    "{{ '<|end_of_turn|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|bot|><|start_response|>' }}{% endif %}"
)
# Metharme: only the last answer has an end.
ONE_END = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% if loop.last and m.role == 'assistant' %}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# GLM 4: an answer has no end at all; the model stops when it opens the turn of another.
NEXT_OPENS = (
    "{% for m in messages %}{{ '<|observation|>' if m.role == 'tool' else '<|' + m.role + '|>' }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '\n<tool_call>' + c.function.name + c.function.arguments | tojson + '</tool_call>' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# gpt-oss: a result looks back at its call; the last answer ends otherwise than those before it.
LOOKS_BACK = (
    "{% set last = namespace(name=none) %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant' }}"
    "{% if m.tool_calls %}{% set last.name = m.tool_calls[0].function.name %}"
    "{{ ' to=' + last.name + '<|message|>' + m.tool_calls[0].function.arguments | tojson + '<|call|>' }}"
    "{% else %}{{ '<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}"
    "{% elif m.role == 'tool' %}"
    "{% if last.name is none %}{{ raise_exception('A result without a call!') }}{% endif %}"
    "{{ '<|start|>' + last.name + '<|message|>' + m.content | tojson + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# ChatML with tools, as Qwen prints them: the results are a turn of their own.
RESULTS_APART = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '\n<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def templated(
    template: str, *, eos: str | None = None, stops: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A tiny tokenizer with this template, which knows its special tokens; the model stops at ``stops`` too."""
    tokenizer = tiny_tokenizer("chatml")
    found = sorted(set(_SPECIAL.findall(template)) | {"<|system|>", "<|user|>", "<|assistant|>", *stops})
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in found])
    tokenizer.chat_template = template
    if eos is not None:
        tokenizer.eos_token = eos
    set_end_tokens(tokenizer, tokenizer.convert_tokens_to_ids(list(stops)))
    return tokenizer
