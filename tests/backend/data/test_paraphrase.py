import json

import pytest

from backend.data.paraphrase import (
    Proposal,
    check_place,
    propose,
    read_review,
    same_meaning_possible,
    synthetic_rows,
    write_review,
)
from backend.errors import DataError
from tests.backend.data.rows import assistant, chat, pair, pairs, system, user


@pytest.mark.parametrize(
    ("before", "after", "possible"),
    [
        ("Add 2 and 3.", "What is the sum of 2 and 3?", True),
        ("Add 2 and 3.", "What is the sum of 2 and 4?", False),
        ("It is not bad.", "It is bad.", False),
        ("It isn't bad.", "It is not terrible.", True),
        ("Hello there", "hello there!", False),
        ("short", "a far longer text than the one before", False),
    ],
)
def test_same_meaning_possible(before, after, possible):
    assert same_meaning_possible(before, after) is possible


def test_propose_rewords_the_last_user_turn_of_rows_that_pass():
    rows = [chat(system("s"), user("Add 2 and 3"), assistant("5")), pair("Take 1 away", "0", "f:2")]
    found = propose(rows, lambda asked: [each.replace("Add", "Sum up").replace("1", "one") for each in asked])
    assert found == [Proposal("f:1", "Add 2 and 3", "Sum up 2 and 3")]


def test_only_accepted_proposals_come_back_from_the_review(tmp_path):
    path = tmp_path / "review.jsonl"
    write_review([Proposal("f:1", "a\u2028b", "c"), Proposal("f:2", "d", "e")], path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert read_review(path) == []
    lines[0]["accepted"] = True
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    assert read_review(path) == [Proposal("f:1", "a\u2028b", "c", accepted=True)]


@pytest.mark.parametrize(
    "line", ["{", '{"place": "x"}', "[]", '{"place": "x", "before": "", "after": "", "more": 1}']
)
def test_a_broken_review_names_the_line(tmp_path, line):
    path = tmp_path / "review.jsonl"
    path.write_text('{"place": "x", "before": "", "after": ""}\n' + line, encoding="utf-8")
    with pytest.raises(DataError, match=r"review\.jsonl:2 is not a reviewed paraphrase"):
        read_review(path)


def test_synthetic_rows_keep_the_answer_and_name_their_source():
    rows = pairs([("Add 2 and 3", "5"), ("x", "y")])
    made = synthetic_rows(rows, [Proposal("f:1", "Add 2 and 3", "Sum up 2 and 3", accepted=True)])
    assert made == [pair("Sum up 2 and 3", "5", "f:1#paraphrase")]


def test_synthetic_rows_are_capped_and_fit_the_rows_as_they_are_now():
    rows = pairs([("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")])
    proposals = [Proposal(row.place, row.messages[0]["content"], "new", accepted=True) for row in rows]
    assert len(synthetic_rows(rows, proposals, share=0.5)) == 2
    assert synthetic_rows(rows, [Proposal("f:1", "changed since", "new"), Proposal("g:1", "a", "new")]) == []


def test_a_review_that_is_not_there_or_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_review(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be written"):
        write_review([], tmp_path / "no" / "review.jsonl")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError, match="cannot be read"):
        read_review(tmp_path / "bad.jsonl")


def test_a_review_with_decisions_is_never_written_over(tmp_path):
    (tmp_path / "review.jsonl").write_text("decided", encoding="utf-8")
    with pytest.raises(DataError, match="exists already") as caught:
        check_place(tmp_path / "review.jsonl")
    assert caught.value.code == "review-exists"
    with pytest.raises(DataError, match="folder does not exist"):
        check_place(tmp_path / "no" / "review.jsonl")
    check_place(tmp_path / "new.jsonl")
