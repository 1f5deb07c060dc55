import pytest

from backend.data.records import EXCERPT_CHARACTERS, Row, excerpt


def test_excerpt_keeps_short_texts_and_cuts_long_ones():
    assert excerpt("a" * EXCERPT_CHARACTERS) == "a" * EXCERPT_CHARACTERS
    cut = excerpt("a" * (EXCERPT_CHARACTERS + 1))
    assert len(cut) == EXCERPT_CHARACTERS
    assert cut.endswith("a…")


def test_excerpt_can_always_be_written():
    assert excerpt("é\udce9\ud800") == "é\\udce9\\ud800"


ASKED = {"role": "user", "content": "q"}
SAID = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("parts", "kind", "asked"),
    [
        ({"messages": (ASKED, SAID)}, "chat", ([ASKED], "a")),
        ({"messages": (ASKED,)}, "chat", ([ASKED], "")),
        ({"text": "t"}, "text", ("t", "")),
        ({"text": ""}, "text", ("", "")),
        ({"messages": (ASKED,), "chosen": (SAID,), "rejected": (SAID,)}, "preference", ([ASKED], "")),
        ({"messages": (ASKED, SAID), "label": False}, "judged", ([ASKED], "a")),
        ({"input_ids": (1,), "labels": (1,)}, "tokens", None),
        ({"segments": (("t", True),)}, "segments", None),
        ({}, "chat", None),
    ],
)
def test_a_row_says_what_it_is_and_what_it_asks(parts, kind, asked):
    row = Row("f:1", **parts)
    assert (row.kind, row.prompt_and_answer()) == (kind, asked)


def test_tools_are_given_as_a_template_takes_them():
    assert Row("f:1", tools='[{"name": "f"}]').tool_list() == [{"name": "f"}]
    assert Row("f:1").tool_list() is None
