"""A look inside an answer on the screen: the exact prompt, and each token with its likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from backend.commands.output import say
from backend.commands.tables import table
from backend.utils.text_utils import without_controls

Look = Mapping[str, Any]


def print_look(look: Look) -> None:
    """Print what ``view_tokens`` found."""
    prompt = look["prompt"]
    say(f"Prompt, {len(prompt['tokens'])} tokens:")
    say(_visible(prompt["text"]))
    if "answer" in look:
        table(["#", "token", "probability", "likelier or next"], _rows(look["answer"]), title="Answer")
        return
    tuned, base = look["tuned"], look["base"]
    say(f"Tuned: {_visible(tuned['text'])}")
    say(f"Base:  {_visible(base['text'])}")
    say(_parting(look))
    rows = [
        [*row[:3], f"{math.exp(place['base_logprob']):.1%}", f"{place['kl']:.3f}", row[3]]
        for row, place in zip(_rows(tuned), look["divergence"], strict=True)
    ]
    columns = ["#", "token", "tuned", "base", "KL, nats", "likelier or next"]
    table(columns, rows, title=f"What the tuned model said (mean KL {look['mean_kl']:.3f} nats)")
    table(["#", "token", "base", "likelier or next"], _rows(base), title="What the base said")


def _parting(look: Look) -> str:
    """Where the two answers part, in words."""
    place = look["first_difference"]
    if place is None:
        return "Both say the same."
    said = (look[side]["tokens"] for side in ("tuned", "base"))
    one, other = (repr(tokens[place]["text"]) if place < len(tokens) else "the end" for tokens in said)
    return f"They part at token {place}: {one} (tuned), {other} (base)."


def _rows(side: Look) -> list[list[str]]:
    """Number, text, probability, and the likeliest other token of each place."""
    rows = []
    for number, token in enumerate(side["tokens"]):
        other = next((each for each in token["top"] if each["id"] != token["id"]), None)
        beside = f"{_visible(other['text'])} {other['probability']:.1%}" if other else ""
        rows.append([str(number), _visible(token["text"]), f"{token['probability']:.1%}", beside])
    return rows


def _visible(text: str) -> str:
    return without_controls(text.replace("\n", "↵"))
