from dataclasses import replace

import pytest

from backend.data.fixes import FIXES, mend
from backend.errors import DataError
from tests.backend.data.rows import assistant, chat, pair, pairs, system, user

LONG = "Cheddar cheese, sharp, sliced, aged twelve months"


def preference(chosen, rejected, prompt="q"):
    return chat(user(prompt), chosen=(assistant(chosen),), rejected=(assistant(rejected),))


CASES = {
    "repair-text": ([pair("cafÃ©", "ok")], [pair("café", "ok")]),
    "unescape-html": ([pair("a &amp; b", "&eacute;t&eacute;")], [pair("a & b", "été")]),
    "redact-secrets": ([pair("AKIA" + "A" * 16, "ok")], [pair("[AWS access key]", "ok")]),
    "mend-turns": (
        [chat(assistant("hi"), user("a"), user("b"), assistant("c"), system("s"), user("left over"))],
        [chat(assistant("hi"), user("a\n\nb"), assistant("c"))],
    ),
    "unify-labels": (
        pairs([(f"q{n}", ["bad", "good"][n % 2]) for n in range(20)] + [("x", "Good ")]),
        pairs([(f"q{n}", ["bad", "good"][n % 2]) for n in range(20)] + [("x", "good")]),
    ),
    "drop-empty": ([pair("a", " "), pair("b", "x")], [pair("b", "x")]),
    "strip-prompts": (
        [
            preference(f"{LONG} a", f"{LONG}\nb", LONG),
            preference(f"{LONG} a", "b", LONG),
            preference(f"{LONG} a", LONG, LONG),
            replace(pair(LONG, f"{LONG} a"), label=False),
        ],
        [
            preference("a", "b", LONG),
            preference(f"{LONG} a", "b", LONG),
            preference(f"{LONG} a", LONG, LONG),
            replace(pair(LONG, "a"), label=False),
        ],
    ),
    "drop-conflicting-pairs": (
        [preference("a", "b"), preference("b", "a"), preference("a", "c")],
        [preference("a", "c")],
    ),
    "drop-equal-pairs": ([preference("a", "a"), preference("a", "b")], [preference("a", "b")]),
    "drop-duplicates": (
        [pair("a", "x"), pair("a", "x", "f:2"), pair("A", "x")],
        [pair("a", "x"), pair("A", "x")],
    ),
    "drop-near-duplicates": ([pair(LONG, "x"), pair(LONG[:-1], "x")], [pair(LONG, "x")]),
    "drop-leaks": ([pair("held out", "x"), pair("b", "x")], [pair("b", "x")]),
    "drop-near-leaks": ([pair(LONG[:-1], "x"), pair("b", "x")], [pair("b", "x")]),
    "drop-rejected": ([pair("a", "x")], [pair("a", "x")]),
}
HELD_OUT = [pair("Held out?", "x"), pair(LONG, "x")]


@pytest.mark.parametrize("fix", CASES)
def test_the_fix_mends_what_it_is_for(fix):
    before, after = CASES[fix]
    mended = mend(before, [fix], HELD_OUT)
    assert list(mended.rows) == after
    assert {change.fix for change in mended.changes} <= {fix}
    assert len(mended.changes) == sum(row not in after for row in before)


@pytest.mark.parametrize("fix", CASES)
def test_the_fix_leaves_sound_rows_alone(fix):
    sound = [
        pair("a question", "an answer"),
        preference("a", "b"),
        chat(system("s"), user("q"), assistant("a")),
    ]
    mended = mend(sound, [fix], [pair("something else", "y")])
    assert (list(mended.rows), mended.changes) == (sound, ())


def test_every_fix_has_a_case():
    assert set(CASES) == set(FIXES)


def test_fixes_follow_each_other_and_each_change_names_its_place():
    rows = [
        pair("cafÃ©", "x", "f:1"),
        pair("café", "x", "f:2"),
        pair("b", "", "f:3"),
        pair("café", "x", "f:4"),
    ]
    mended = mend(rows, ["drop-empty", "drop-duplicates", "repair-text"])
    assert [row.place for row in mended.rows] == ["f:1", "f:2"]
    assert [(change.fix, change.place, change.after is None) for change in mended.changes] == [
        ("repair-text", "f:1", False),
        ("drop-empty", "f:3", True),
        ("drop-duplicates", "f:4", True),
    ]


def test_an_unknown_fix_is_an_error():
    with pytest.raises(DataError, match="no fix called 'magic'") as caught:
        mend([], ["magic"])
    assert "drop-duplicates" in caught.value.remedy


CALL = {"type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    "row",
    [
        chat(user("a"), assistant("b"), user("c"), chosen=(assistant("d"),), rejected=(assistant("e"),)),
        chat(user("a"), assistant("b"), user("c"), label=True),
        chat(
            user("a"),
            assistant("", tool_calls=[CALL, CALL]),
            *({"role": "tool", "content": text} for text in "12"),
            assistant("3"),
        ),
        chat(user("a"), assistant("", tool_calls=[CALL]), assistant("", tool_calls=[CALL]), assistant("3")),
    ],
    ids=["a preference", "a rating", "answers of two tools", "two calls"],
)
def test_turns_that_have_their_reason_are_left_as_they_are(row):
    assert mend([row], ["mend-turns"]).changes == ()


@pytest.mark.parametrize(
    "row",
    [
        chat(user("q"), assistant("good"), assistant("BAD", trained=False)),
        chat(user("q"), assistant("BAD", trained=False), assistant("good")),
        chat(user("q"), assistant("a", reasoning_content="r1"), assistant("b", reasoning_content="r2")),
        chat(user("q"), {**user("p"), "name": "Ann"}, assistant("a")),
        chat(user("q"), assistant("a"), system("now be brief"), user("p"), assistant("b")),
        chat(system("s"), assistant("Welcome! I am Bob."), user("hi"), assistant("x")),
    ],
    ids=[
        "untrained last",
        "untrained first",
        "reasoning",
        "another name",
        "a later system message",
        "a greeting",
    ],
)
def test_turns_that_differ_in_more_than_words_are_not_joined_and_nothing_is_lost(row):
    assert mend([row], ["mend-turns", "drop-empty"]).changes == ()


def test_an_empty_answer_among_others_is_trained_no_more():
    row = chat(user("a"), assistant("b"), user("c"), assistant("\u200b"))
    (mended,) = mend([row], ["drop-empty"]).rows
    assert mended.messages == (user("a"), assistant("b"), user("c"), assistant("\u200b", trained=False))


@pytest.mark.parametrize(
    "row",
    [
        chat(user("a"), assistant("b", trained=False)),
        chat(user("a"), assistant("", reasoning_content="so it is")),
        chat(user("a"), assistant(""), label=False),
        chat(user("a"), assistant("", tool_calls=[CALL])),
    ],
    ids=["nothing trained", "reasoning", "a bad answer", "a call"],
)
def test_a_row_that_another_reading_may_want_is_kept(row):
    assert mend([row], ["drop-empty"]).rows == (row,)


SOUND_MARKUP = [
    pair("Give the URL", "curl 'https://api.example.org/report?year=2024&region=eu&section=2&copy=1'"),
    pair("Bitwise and of mask and notify in C?", "int x = mask&notify; y = a&ltd;"),
    pair("How do I show <b> in HTML?", "Write &lt;b&gt; in the source."),
    pair("Which sign?", "Use `&amp;` there, or https://a.example/?b=1&amp;c=2 as it is"),
    pair("What is it?", "```\n&lt;p&gt;\n```"),
    pair("Who is it?", "AT&T; and R&D; and &nothing;"),
]


@pytest.mark.parametrize("row", SOUND_MARKUP, ids=lambda row: row.messages[0]["content"])
def test_entities_in_code_addresses_and_words_about_markup_stay(row):
    mended = mend([pair("Who makes it?", "Smith &amp; Sons"), row], ["unescape-html"])
    assert mended.rows == (pair("Who makes it?", "Smith & Sons"), row)


def test_two_secrets_that_are_redacted_make_no_duplicates():
    rows = [pair("q", f"ghp_{letter}1" + "b2" * 17, f"f:{letter}") for letter in "ab"]
    assert len(mend(rows, ["redact-secrets", "drop-duplicates"]).rows) == 2


def test_secrets_in_calls_reasoning_and_tools_are_redacted():
    key = "ghp_" + "a1B2" * 9
    call = {"type": "function", "function": {"name": "log_in", "arguments": {"token": key}}}
    row = chat(
        user("q"),
        assistant("", tool_calls=[call], reasoning_content=f"use {key}"),
        tools=f'[{{"d": "{key}"}}]',
    )
    (mended,) = mend([row], ["redact-secrets"]).rows
    assert key not in repr(mended)


def test_a_label_that_is_as_common_in_both_spellings_is_left_alone():
    rows = pairs([(f"q{n}", ["US", "us"][n % 2]) for n in range(60)])
    assert mend(rows, ["unify-labels"]).changes == ()


def test_mojibake_in_code_is_left_alone():
    row = pair("What prints `cafÃ©`?", "```\nprint('cafÃ©')\n```")
    assert mend([row], ["repair-text"]).changes == ()
