"""Write an Ollama Modelfile for a GGUF file: a Go template, end tokens, greedy parameters.

Ollama does not read Jinja. The text that a chat template prints around each role is found by rendering, and a Go
template is written from it. If the two differ on any usual conversation, no template is written, with a note.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from backend.core.templates.template import render, render_prompt
from backend.errors import DataError, ModelError

MODELFILE = "Modelfile"
_SYSTEM, _USER, _ANSWER, _NEXT = "Zsystemz", "Zuserz", "Zanswerz", "Znextz"


@dataclass(frozen=True)
class Turns:
    """The texts that a template prints: (before, after) the content of each role, and around the conversation.

    ``opening`` begins a conversation without a system message, ``prompt`` begins the next answer; ``system`` is None
    if the template refuses system messages.
    """

    opening: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    system: tuple[str, str] | None
    prompt: str

    def text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return a conversation as the Go template prints it."""
        around = {"user": self.user, "assistant": self.assistant, "system": self.system or ("", "")}
        parts = [] if messages[0]["role"] == "system" and self.system else [self.opening]
        for message in messages:
            before, after = around[message["role"]]
            parts += [before, message["content"], after]
        return "".join([*parts, self.prompt])

    def go_template(self, *, without: str = "") -> str:
        """Return the template in Go's language, ``without`` the BOS token at its beginning, which Ollama adds."""
        opening = self.opening.removeprefix(without)
        first = '(ne (index .Messages 0).Role "system")'
        lines = [
            f"{{{{- if {first} }}}}{_literal(opening)}{{{{- end }}}}" if self.system else _literal(opening)
        ]
        lines.append("{{- range .Messages }}")
        roles = [("user", self.user), ("assistant", self.assistant)]
        if self.system:
            before, after = self.system
            roles.insert(0, ("system", (before.removeprefix(without), after)))
        for number, (role, (before, after)) in enumerate(roles):
            test = "else if" if number else "if"
            lines.append(
                f'{{{{- {test} eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{_literal(after)}'
            )
        return "\n".join(
            [*(line for line in lines if line), "{{- end }}", f"{{{{- end }}}}{_literal(self.prompt)}"]
        )


def _literal(text: str) -> str:
    """Return a Go template action that prints ``text``; plain text would be trimmed by ``{{-``."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def find_turns(tokenizer: PreTrainedTokenizerBase) -> Turns | None:
    """Return the texts that this tokenizer's chat template prints around each role; None if it does more."""
    system, user = ({"role": role, "content": text} for role, text in (("system", _SYSTEM), ("user", _USER)))
    answer, more = {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _NEXT}
    try:
        question, one = render(tokenizer, [user]), render_prompt(tokenizer, [user])
        exchange, long = render(tokenizer, [user, answer]), render_prompt(tokenizer, [user, answer, more])
        head, user_after = question.split(_USER)
        assistant_before = exchange.removeprefix(question).split(_ANSWER)[0]
        assistant_after = exchange.split(_ANSWER)[1]
        user_before = long.removeprefix(exchange).split(_NEXT)[0]
        turns = Turns(
            head.removesuffix(user_before),
            (user_before, user_after),
            (assistant_before, assistant_after),
            _system_turn(tokenizer, [system, user], user_before),
            one.removeprefix(question),
        )
    except (DataError, ModelError, ValueError, IndexError):
        return None
    shapes = [[user], [user, answer, more], [user, answer, more, answer, user]]
    shapes += [[system, *shape] for shape in shapes] if turns.system else []
    try:
        return (
            turns if all(turns.text(shape) == render_prompt(tokenizer, shape) for shape in shapes) else None
        )
    except (DataError, ModelError):
        return None


def _system_turn(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], user_before: str
) -> tuple[str, str] | None:
    try:
        before, after = render(tokenizer, messages).split(_SYSTEM)
    except (DataError, ModelError):
        return None
    return before, after.split(_USER)[0].removesuffix(user_before)


def write_modelfile(
    folder: Path,
    gguf_name: str,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: set[int],
    *,
    context_length: int,
    adds_bos: bool,
) -> list[str]:
    """Write ``Modelfile`` beside the GGUF file; return a sentence for each thing that it cannot express."""
    turns = find_turns(tokenizer)
    lines = [f"FROM ./{gguf_name}"]
    notes = list(_notes(tokenizer, turns))
    lines += [f"# {note}" for note in notes]
    if turns:
        bos = str(tokenizer.bos_token) if adds_bos else ""
        lines.append(f'TEMPLATE """{turns.go_template(without=bos)}"""')
    ends = [
        json.dumps(token, ensure_ascii=False) for token in tokenizer.convert_ids_to_tokens(sorted(end_ids))
    ]
    lines += [f"PARAMETER stop {end}" for end in ends]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {context_length}"]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return notes


def _notes(tokenizer: PreTrainedTokenizerBase, turns: Turns | None) -> list[str]:
    if tokenizer.chat_template is None:
        return ["This model has no chat template: Ollama continues the text it is given."]
    if turns is None:
        why = "The chat template cannot be written for Ollama: it does more than print text around each role."
        return [f"{why} No TEMPLATE is written; use the GGUF file with llama-server --jinja."]
    notes = (
        ["Tools are not supported: this Modelfile's template prints messages only."]
        if "tools" in tokenizer.chat_template
        else []
    )
    padded = [{"role": "user", "content": f" {_USER} "}]
    if turns.text(padded) != render_prompt(tokenizer, padded):
        notes.append("The chat template trims white space around contents; Ollama does not.")
    return notes
