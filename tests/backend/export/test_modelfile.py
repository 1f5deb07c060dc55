"""Ollama Modelfiles: backend/export/modelfile.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.core.templates.template import render_prompt
from backend.export.modelfile import MODELFILE, find_turns, write_modelfile
from tests.tiny import FAMILIES, Family, tiny_tokenizer

TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes?"},
    {"role": "user", "content": 'say "no"\n'},
]


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "mistral"])
def test_what_a_template_prints_is_found(family: Family) -> None:
    tokenizer = tiny_tokenizer(family)
    turns = find_turns(tokenizer)
    assert turns is not None
    talk = [{**message, "content": message["content"].strip()} for message in TALK]
    assert turns.text(talk) == render_prompt(tokenizer, talk)


@pytest.mark.parametrize("family", ["chatml", "llama3"])
def test_a_system_message_takes_the_openings_place(family: Family) -> None:
    tokenizer = tiny_tokenizer(family)
    turns = find_turns(tokenizer)
    talk = [{"role": "system", "content": "Be terse."}, *TALK[:1]]
    assert turns is not None
    assert turns.text(talk) == render_prompt(tokenizer, talk)


def test_a_template_that_refuses_system_messages_has_none() -> None:
    turns = find_turns(tiny_tokenizer("mistral"))
    assert turns is not None
    assert turns.system is None


@pytest.mark.parametrize("family", ["qwen3", "base"])
def test_what_is_more_than_text_around_contents_is_not_pretended(family: Family) -> None:
    assert find_turns(tiny_tokenizer(family)) is None


def go(template: str, messages: list[dict[str, str]]) -> str:
    """The few words of Go's text/template that ours uses, as Go prints them."""
    head, body, tail = re.split(r"\{\{- range \.Messages \}\}|\n\{\{- end \}\}\n?\{\{- end \}\}", template)
    condition = re.match(
        r'\{\{- if \(ne \(index \.Messages 0\)\.Role "system"\) \}\}(.*)\{\{- end \}\}', head, re.DOTALL
    )
    opening = condition[1] if condition else head
    shown = "" if condition and messages[0]["role"] == "system" else literal(opening)
    turns = dict(re.findall(r'if eq \.Role "(\w+)" \}\}(.*?)(?=\n\{\{- else|$)', body, re.DOTALL))
    for message in messages:
        before, after = turns[message["role"]].split("{{ .Content }}")
        shown += literal(before) + message["content"] + literal(after)
    return shown + literal(tail)


def literal(action: str) -> str:
    import json

    return "".join(json.loads(text) for text in re.findall(r'\{\{ ("(?:[^"\\]|\\.)*") \}\}', action))


@pytest.mark.parametrize("family", ["chatml", "llama3"])
@pytest.mark.parametrize("start", [0, 1])
def test_the_go_template_prints_what_jinja_prints(family: Family, start: int) -> None:
    tokenizer = tiny_tokenizer(family)
    turns = find_turns(tokenizer)
    talk = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "hi"}][start:]
    assert turns is not None
    assert go(turns.go_template(), talk) == render_prompt(tokenizer, talk)


def test_a_bos_that_ollama_adds_is_left_out() -> None:
    turns = find_turns(tiny_tokenizer("llama3"))
    assert turns is not None
    assert "<|begin_of_text|>" in turns.go_template()
    assert "<|begin_of_text|>" not in turns.go_template(without="<|begin_of_text|>")


def written(family: Family, folder: Path) -> tuple[str, list[str]]:
    tokenizer = tiny_tokenizer(family)
    notes = write_modelfile(
        folder, "x.gguf", tokenizer, {tokenizer.eos_token_id}, context_length=512, adds_bos=True
    )
    return (folder / MODELFILE).read_text("utf-8"), notes


def test_the_file_names_model_ends_and_greedy_parameters(tmp_path: Path) -> None:
    text, notes = written("chatml", tmp_path)
    assert text.startswith('FROM ./x.gguf\nTEMPLATE """{{- if')
    assert '\nPARAMETER stop "<|im_end|>"\n' in text
    assert "\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\nPARAMETER num_ctx 512\n" in text
    assert text.count('"""') == 2
    assert notes == []


# Ollama's documentation, docs/modelfile.md: INSTRUCTION arguments, # for comments, """ around several lines
GRAMMAR = re.compile(
    r'(# [^\n]*\n|FROM \./\S+\n|TEMPLATE """((?!""")[\s\S])*"""\n|PARAMETER stop "[^"\n]+"\n'
    r"|PARAMETER (temperature|repeat_penalty|num_ctx) \d+\n)+"
)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_of_ollamas_grammar(family: Family, tmp_path: Path) -> None:
    assert GRAMMAR.fullmatch(written(family, tmp_path)[0])


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("qwen3", "cannot be written for Ollama"),
        ("base", "no chat template"),
        ("llama3", "trims white space"),
    ],
)
def test_what_cannot_be_expressed_is_said(family: Family, said: str, tmp_path: Path) -> None:
    text, notes = written(family, tmp_path)
    assert said in " ".join(notes)
    assert f"# {notes[0]}" in text
    assert ("TEMPLATE" in text.replace("No TEMPLATE", "")) == (family == "llama3")
