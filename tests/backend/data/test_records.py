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
        ({"messages": (ASKED,), "chosen": (SAID,), "rejected": (SAID,)}, "preference", ([ASKED], "a")),
        ({"messages": (ASKED, SAID), "label": False}, "judged", ([ASKED], "")),
        ({"messages": (ASKED, SAID), "label": True}, "judged", ([ASKED], "a")),
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


PROMPT = (
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
)
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}


class TestAnswers:
    def test_a_pair_is_two_judged_rows_with_all_else_alike(self):
        row = Row("r:1", PROMPT, tools="[]", chosen=(GOOD,), rejected=(BAD,), group="g")
        better, worse = row.answers()
        assert (better.messages[-1], better.label, worse.messages[-1], worse.label) == (
            GOOD,
            True,
            BAD,
            False,
        )
        assert better.messages[1] == {"role": "assistant", "content": "b", "trained": False}
        assert {(each.place, each.tools, each.group, each.kind) for each in (better, worse)} == {
            ("r:1", "[]", "g", "judged")
        }

    def test_of_a_judged_conversation_only_the_last_answer_is_trained(self):
        (row,) = Row("r:1", (*PROMPT, GOOD), label=False).answers()
        assert [message.get("trained", True) for message in row.messages] == [True, False, True, True]
        assert row.answers() == (row,)

    def test_an_answer_of_several_turns_with_tools_is_one_answer(self):
        turns = (GOOD, {"role": "tool", "content": "3"}, GOOD)
        (row,) = Row("r:1", (*PROMPT, *turns), label=True).answers()
        assert row.messages[3:] == turns

    def test_any_other_row_is_itself(self):
        for row in (Row("r:1", (*PROMPT, GOOD)), Row("r:1", text="x")):
            assert row.answers() == (row,)

    def test_the_expected_answer_is_the_better_one_and_never_a_bad_one(self):
        pair = Row("r:1", PROMPT, chosen=(GOOD,), rejected=(BAD,))
        assert pair.prompt_and_answer()[1] == "good"
        assert [message["content"] for message in pair.prompt_and_answer()[0]] == ["a", "b", "c"]
        assert Row("r:1", (*PROMPT, BAD), label=False).prompt_and_answer()[1] == ""
        assert Row("r:1", (*PROMPT, GOOD), label=True).prompt_and_answer()[1] == "good"
