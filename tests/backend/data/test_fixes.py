import hashlib
import json

import pytest

from backend.data.fixes import FIXES, mend, write_copy
from backend.data.load import load_rows
from backend.errors import DataError
from tests.backend.data.rows import assistant, chat, pair, pairs, system, user

LONG = "Cheddar cheese, sharp, sliced, aged twelve months"


def preference(chosen, rejected):
    return chat(user("q"), chosen=(assistant(chosen),), rejected=(assistant(rejected),))


CASES = {
    "repair-text": ([pair("cafÃ©", "ok")], [pair("café", "ok")]),
    "unescape-html": ([pair("a &amp; b", "&lt;")], [pair("a & b", "<")]),
    "redact-secrets": ([pair("AKIA" + "A" * 16, "ok")], [pair("[AWS access key]", "ok")]),
    "mend-turns": (
        [chat(assistant("hi"), user("a"), user("b"), assistant("c"), system("s"), user("left over"))],
        [chat(system("s"), user("a\n\nb"), assistant("c"))],
    ),
    "unify-labels": (
        pairs([(f"q{n}", ["bad", "good"][n % 2]) for n in range(20)] + [("x", "Good ")]),
        pairs([(f"q{n}", ["bad", "good"][n % 2]) for n in range(20)] + [("x", "good")]),
    ),
    "drop-empty": ([pair("a", " "), pair("b", "x")], [pair("b", "x")]),
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
    rows = [pair("cafÃ©", "x", "f:1"), pair("café", "x", "f:2"), pair("b", "", "f:3")]
    mended = mend(rows, ["drop-empty", "drop-duplicates", "repair-text"])
    assert [row.place for row in mended.rows] == ["f:1"]
    assert [(change.fix, change.place, change.after is None) for change in mended.changes] == [
        ("repair-text", "f:1", False),
        ("drop-empty", "f:3", True),
        ("drop-duplicates", "f:2", True),
    ]


def test_an_unknown_fix_is_an_error():
    with pytest.raises(DataError, match="no fix called 'magic'") as caught:
        mend([], ["magic"])
    assert "drop-duplicates" in caught.value.remedy


def test_a_copy_is_a_new_version_with_its_lineage(tmp_path):
    mended = mend([pair("cafÃ©", "x", "f:1"), pair("b", "", "f:2")], ["repair-text", "drop-empty"])
    first = write_copy(mended, tmp_path / "out", source="tr\udce9in.jsonl", sha256="abc")
    second = write_copy(mended, tmp_path / "out", source="train.jsonl", sha256="abc")
    assert (first.name, second.name) == ("v001", "v002")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["v001", "v002"]
    lineage = json.loads((first / "lineage.json").read_text(encoding="utf-8"))
    assert lineage == {
        "source": "tr\\udce9in.jsonl",
        "source_sha256": "abc",
        "version": 1,
        "rows": 1,
        "rows_sha256": hashlib.sha256((first / "rows.jsonl").read_bytes()).hexdigest(),
        "fixes": {"drop-empty": 1, "repair-text": 1},
        "left_out": 1,
    }
    changes = [
        json.loads(line) for line in (first / "changes.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert changes[0]["before"]["messages"][0]["content"] == "cafÃ©"
    assert changes[0]["after"]["messages"][0]["content"] == "café"
    assert changes[1]["after"] is None
    assert load_rows(first / "rows.jsonl").rows[0].messages == mended.rows[0].messages


def test_a_copy_is_not_written_over_a_file(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="is a file"):
        write_copy(mend([], []), tmp_path / "out", source="s", sha256="0")


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written") as caught:
        write_copy(mend([], []), tmp_path / "file" / "out", source="s", sha256="0")
    assert caught.value.code == "unwritable-file"


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
