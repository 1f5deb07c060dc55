"""A preview on the screen: rows token by token, the lengths as bars, and what an epoch costs."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from backend.commands.phrases import with_flags
from backend.commands.plot import bar
from backend.utils.text_utils import without_controls

if TYPE_CHECKING:
    from backend.core.encoding.preview import Preview, PreviewRow, PreviewToken
    from backend.data.records import Row

BAR_WIDTH = 40
MAX_TOKENS = 600
MAX_CHARACTERS = 400

_MARKS = {"trained": ("[", "]"), "context": ("", ""), "cut": ("~", "~")}


def print_preview(preview: Preview, console: Console | None = None) -> None:
    """Print the whole preview; without colours, brackets stand for them."""
    console = console or Console(highlight=False)
    coloured = console.color_system is not None
    console.print(_summary(preview))
    console.print(legend(coloured=coloured))
    for row in preview.rows:
        trained = sum(token.state == "trained" for token in row.tokens)
        console.print()
        place = without_controls(row.place)
        console.print(Text(f"{place} · {len(row.tokens):,} tokens, {trained:,} trained", style="bold"))
        if row.problem:
            console.print(Text(without_controls(row.problem), style="yellow" if row.fate == "cut" else "red"))
        console.print(row_text(row, coloured=coloured))
    console.print()
    for line in [*figures(preview), *varied(preview)]:
        console.print(line)


def _summary(preview: Preview) -> Text:
    read_as = without_controls(preview.read_as)
    text = Text(f"{read_as[:1].upper()}{read_as[1:]}.")
    if preview.rejected:
        refused = f" {preview.rejected:,} rows cannot be read: `tunesmith data check` names them."
        text.append(refused, style="red")
    for warning in preview.warnings:
        text.append(f"\nWarning: {without_controls(with_flags(warning))}", style="yellow")
    return text


def legend(*, coloured: bool) -> Text:
    """What the marks mean."""
    if not coloured:
        return Text(
            "[trained]  read only  ‹from the template›  ~cut off~  ■ ends the turn; tokens are parted by |"
        )
    text = Text("trained", style=_style("trained", from_template=False))
    text.append("  read only  ", style=_style("context", from_template=False))
    text.append("from the template", style=_style("context", from_template=True))
    text.append("  ")
    text.append("cut off", style=_style("cut", from_template=False))
    text.append("  ")
    text.append("ends the turn", style="bold reverse green")
    return text.append("  every other token is underlined", style="dim")


def row_text(row: PreviewRow, *, coloured: bool) -> Text:
    """The tokens of a row, in colours or in brackets; line breaks are shown as ↵."""
    shown = row.tokens[:MAX_TOKENS]
    text = _coloured(shown) if coloured else Text(_bracketed(shown))
    left = len(row.tokens) - len(shown)
    return text.append(f" … and {left:,} more tokens", style="dim") if left else text


def _coloured(tokens: tuple[PreviewToken, ...]) -> Text:
    text = Text()
    for number, token in enumerate(tokens):
        style = _style(token.state, from_template=token.from_template)
        if token.ends_turn and token.state == "trained":
            style = "bold reverse green"
        text.append(_visible(token.text), style=f"{style} underline" if number % 2 else style)
    return text


def _style(state: str, *, from_template: bool) -> str:
    if state == "cut":
        return "dim strike"
    if state == "trained":
        return "bold green" if not from_template else "green"
    return "cyan dim" if from_template else "default"


def _bracketed(tokens: tuple[PreviewToken, ...]) -> str:
    pieces = []
    for state, alike in groupby(tokens, key=lambda each: each.state):
        inside = []
        for from_template, group in groupby(alike, key=lambda each: each.from_template):
            words = "|".join(_visible(each.text) + "■" * each.ends_turn for each in group)
            inside.append(f"‹{words}›" if from_template else words)
        left, right = _MARKS[state]
        pieces.append(f"{left}{''.join(inside)}{right}")
    return "".join(pieces)


def _visible(text: str) -> str:
    """Return a text fit for a terminal: its line breaks and tabs as signs, whatever else would control it as ·."""
    return without_controls(text.replace("\r", "␍").replace("\t", "⇥")).replace("\n", "↵\n")


def figures(preview: Preview) -> list[Text]:
    """The lengths as a histogram, and the cost of an epoch in words."""
    lengths, epoch = preview.lengths, preview.epoch
    lines = [Text("Tokens a row", style="bold")]
    most = max((each.rows for each in lengths.bins), default=1)
    for each in lengths.bins:
        name = f"{each.low:,}–{each.high:,}" if each.high > each.low else f"{each.low:,}"
        line = Text(f"{name:>15}  ")
        line.append(bar(each.rows / most, BAR_WIDTH), style="cyan")
        lines.append(line.append(f" {each.rows:,}", style="default"))
    lines.append(
        Text(f"shortest {lengths.shortest:,} · median {lengths.median:,} · longest {lengths.longest:,}")
    )
    about = "about " if epoch.is_estimate else ""
    share = epoch.trained_tokens / epoch.tokens if epoch.tokens else 0.0
    lines.append(Text("An epoch", style="bold"))
    lines.append(
        Text(
            f"{about}{epoch.rows:,} rows in {epoch.steps:,} steps · {epoch.tokens:,} tokens, "
            f"{epoch.trained_tokens:,} of them trained ({share:.0%})"
        )
    )
    aside = [("cut", epoch.cut), ("left out", epoch.dropped), ("unusable", epoch.refused)]
    if any(count for _, count in aside):
        words = ", ".join(f"{count:,} {name}" for name, count in aside if count)
        lines.append(Text(f"Too long or unusable: {about}{words}", style="yellow"))
    return lines


def varied(preview: Preview) -> list[Text]:
    """The rows that augmentation changes, before and after; nothing where it changes none."""
    if not preview.varied:
        return []
    share = f"{preview.varied_share:.0%} of the training rows vary in the first epoch"
    lines = [Text(f"Augmentation: {share}; answers stay as they are", style="bold")]
    for pair in preview.varied:
        lines.append(Text(pair.before.place, style="dim"))
        lines += [
            Text(f"{mark} {_visible(_said(row))}", style=style)
            for mark, row, style in (("-", pair.before, "red"), ("+", pair.after, "green"))
        ]
    return lines


def _said(row: Row) -> str:
    """The turns of a row on one line."""
    said = " | ".join(f"{message['role']}: {message['content']}" for message in row.messages)
    return without_controls(said if len(said) <= MAX_CHARACTERS else f"{said[:MAX_CHARACTERS]}…")
