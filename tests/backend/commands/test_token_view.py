"""A preview on the screen: backend/commands/token_view.py."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from backend.commands.token_view import MAX_TOKENS, figures, legend, print_preview, row_text
from backend.core.encoding.preview import Epoch, LengthBin, Lengths, Preview, PreviewRow, PreviewToken
from backend.data.augmentation import Pair
from backend.data.records import Row

TOKENS = (
    PreviewToken(1, "<user>", "context", from_template=True, ends_turn=False),
    PreviewToken(2, "a ~~b~~\n", "context", from_template=False, ends_turn=False),
    PreviewToken(3, "yes", "trained", from_template=False, ends_turn=False),
    PreviewToken(4, " no", "trained", from_template=False, ends_turn=False),
    PreviewToken(5, "<end>", "trained", from_template=True, ends_turn=True),
    PreviewToken(6, "rest", "cut", from_template=False, ends_turn=False),
)
ROW = PreviewRow("x.jsonl:1", "cut", TOKENS, "It is too long.")
PREVIEW = Preview(
    read_as="read as chat because",
    train_rows=12,
    validation_rows=0,
    rejected=2,
    rows=(ROW,),
    lengths=Lengths(5, 6, 20, (LengthBin(5, 12, 10), LengthBin(13, 20, 2))),
    epoch=Epoch(12, 3, 100, 25, cut=1, dropped=0, refused=2, is_estimate=True),
    warnings=("The chat template leaves out parts.",),
)


def printed(preview: Preview, *, coloured: bool) -> str:
    console = Console(
        width=100, file=io.StringIO(), force_terminal=coloured, color_system="truecolor" if coloured else None
    )
    with console.capture() as capture:
        print_preview(preview, console)
    return capture.get()


def styles(text: Text) -> dict[str, str]:
    return {text.plain[span.start : span.end]: str(span.style) for span in text.spans}


def test_brackets_stand_for_colours() -> None:
    assert row_text(ROW, coloured=False).plain == "‹<user>›a ~~b~~↵\n[yes| no‹<end>■›]~rest~"


@pytest.mark.parametrize("coloured", [False, True])
def test_controls_in_what_others_wrote_are_shown_and_never_reach_the_terminal(coloured: bool) -> None:
    control = "a\x1b[31mb\x07\t\x9b2Jc"
    tokens = tuple(replace(token, text=control) for token in TOKENS)
    row = replace(ROW, place=control, problem=control, tokens=tokens)
    shown = printed(replace(PREVIEW, read_as=control, rows=(row,), warnings=(control,)), coloured=coloured)
    assert not set("\x07\t\x9b") & set(shown)
    assert "\x1b[31mb" not in shown
    assert shown.count("·[31mb") >= 4


def test_colours_stand_for_brackets() -> None:
    text = row_text(ROW, coloured=True)
    assert text.plain == "<user>a ~~b~~↵\nyes no<end>rest"
    assert styles(text) == {
        "<user>": "cyan dim",
        "a ~~b~~↵\n": "default underline",
        "yes": "bold green",
        " no": "bold green underline",
        "<end>": "bold reverse green",
        "rest": "dim strike underline",
    }


@pytest.mark.parametrize("coloured", [True, False])
def test_the_legend_uses_the_marks_it_explains(coloured: bool) -> None:
    words = legend(coloured=coloured).plain
    assert [
        word for word in ("trained", "read only", "template", "cut off", "ends the turn") if word not in words
    ] == []


def test_a_long_row_is_shown_in_part_and_says_so() -> None:
    row = PreviewRow("x.jsonl:1", "whole", TOKENS[2:3] * (MAX_TOKENS + 1234))
    assert row_text(row, coloured=True).plain.endswith("yes … and 1,234 more tokens")


def test_bars_and_words() -> None:
    lines = [line.plain for line in figures(PREVIEW)]
    assert lines[1].split() == ["5–12", "█" * 40, "10"]
    assert lines[2].split() == ["13–20", "█" * 8, "2"]
    assert "shortest 5 · median 6 · longest 20" in lines
    assert "about 12 rows in 3 steps · 100 tokens, 25 of them trained (25%)" in lines
    assert lines[-1] == "Too long or unusable: about 1 cut, 2 unusable"


def test_a_whole_preview() -> None:
    screen = printed(PREVIEW, coloured=False)
    assert "Read as chat because. 2 rows cannot be read" in screen
    assert "x.jsonl:1 · 6 tokens, 3 trained" in screen
    assert "It is too long." in screen
    assert "\x1b" not in screen
    assert "\x1b[1;32myes" in printed(PREVIEW, coloured=True)


def test_rows_before_and_after_augmentation() -> None:
    before = Row(
        "x:1", ({"role": "user", "content": "a b\nc"}, {"role": "assistant", "content": "yes " * 200})
    )
    after = replace(before, messages=({"role": "user", "content": "a  b\nc"}, before.messages[1]))
    screen = printed(replace(PREVIEW, varied=(Pair(before, after),), varied_share=0.25), coloured=False)
    assert "25% of the training rows vary" in screen
    assert "- user: a b↵\nc | assistant: yes" in screen
    assert "+ user: a  b↵\nc | assistant: yes" in screen
    assert screen.count("…") >= 2
    assert "Augmentation" not in printed(PREVIEW, coloured=False)


def test_what_the_template_does_unseen_stands_first() -> None:
    lines = printed(PREVIEW, coloured=False).splitlines()
    assert "Warning: The chat template leaves out parts." in lines[:3]
