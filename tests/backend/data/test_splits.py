from dataclasses import replace

import pytest

from backend.data.records import Row
from backend.data.splits import group_text, split_rows, split_warnings
from backend.errors import DataError


def chat(prompt, answer="a", place="f:1"):
    return Row(
        place, messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    )


ROWS = [chat(f"question {number}", place=f"f:{number}") for number in range(400)]


def test_split_rows_holds_out_about_the_share_and_keeps_every_row_once():
    train, validation = split_rows(ROWS, 0.1, seed=0)
    assert 20 <= len(validation) <= 60
    assert sorted(row.place for row in train + validation) == sorted(row.place for row in ROWS)


def test_split_rows_is_the_same_again_and_another_with_another_seed():
    assert split_rows(ROWS, 0.1, seed=3) == split_rows(ROWS, 0.1, seed=3)
    assert split_rows(ROWS, 0.1, seed=3) != split_rows(ROWS, 0.1, seed=4)


def test_adding_rows_moves_no_old_row():
    _, before = split_rows(ROWS[:200], 0.1, seed=0)
    _, after = split_rows(ROWS, 0.1, seed=0)
    assert before == [row for row in after if row in ROWS[:200]]


def test_equal_prompts_stay_together_however_they_are_spelled():
    doubled = [*ROWS, *(chat(f"  QUESTION {number}!", answer="other") for number in range(400))]
    train, validation = split_rows(doubled, 0.2, seed=1)
    assert not {group_text(row) for row in train} & {group_text(row) for row in validation}


def said(text):
    return ({"role": "assistant", "content": text},)


def pairs_of(number):
    asked = ({"role": "user", "content": f"question {number}"},)
    return [
        Row(f"p:{number}:{n}", messages=asked, chosen=said(f"good {n}"), rejected=said(f"bad {n}"))
        for n in range(3)
    ]


def judged_of(number):
    return [
        replace(chat(f"question {number}", f"reply {n}", f"j:{number}:{n}"), label=n > 0) for n in range(3)
    ]


@pytest.mark.parametrize("several", [pairs_of, judged_of])
def test_all_answers_to_one_prompt_are_on_one_side(several):
    rows = [row for number in range(200) for row in several(number)]
    train, validation = split_rows(rows, 0.2, seed=1)
    prompts = [{row.messages[0]["content"] for row in side} for side in (train, validation)]
    assert not prompts[0] & prompts[1]
    assert sum(map(len, prompts)) == 200
    assert 0.1 < len(validation) / len(rows) < 0.3
    assert split_warnings(train, validation, 0.2, "prompt") == ()


def test_pairs_judged_answers_and_plain_ones_to_one_prompt_are_one_group():
    rows = [*pairs_of(1), *judged_of(1), chat("question 1")]
    assert {group_text(row) for row in rows} == {"question 1"}


def test_pairs_may_be_split_by_the_better_answer():
    one, other, _ = pairs_of(1)
    assert group_text(one, "answer") != group_text(other, "answer") == "good 1"


def test_a_small_set_still_has_a_row_on_both_sides():
    for seed in range(20):
        train, validation = split_rows(ROWS[:3], 0.01, seed=seed)
        assert (len(train), len(validation)) == (2, 1)


def test_a_share_of_zero_holds_nothing_out():
    assert split_rows(ROWS, 0, seed=0) == (ROWS, [])


def test_rows_of_one_group_cannot_be_split():
    with pytest.raises(DataError, match="2 rows with one and the same prompt cannot be split"):
        split_rows([chat("same"), chat("same", "b")], 0.5, seed=0)


def greeted(number, place):
    more = chat(f"Explain topic {number}", f"Topic {number} is wide.", place)
    return Row(place, messages=(*chat("Hi", "Hello! How can I help?").messages, *more.messages))


def test_conversations_that_begin_alike_are_split_as_others_are():
    rows = [greeted(number, f"f:{number}") for number in range(200)]
    train, validation = split_rows(rows, 0.1, seed=0)
    assert 5 <= len(validation) <= 40
    assert split_warnings(train, validation, 0.1, "prompt") == ()


def test_a_split_that_turns_out_other_than_asked_says_so():
    same = [chat("What is it?", f"answer {number}", f"f:{number}") for number in range(180)]
    train, validation = split_rows([*same, *ROWS[:20]], 0.1, seed=1)
    (warning,) = split_warnings(train, validation, 0.1, "prompt")
    assert warning.startswith(
        f"{len(validation)} of 200 rows are held out where 20 were asked for: rows that share"
    )


def test_paraphrases_on_both_sides_are_told_and_split_by_answer_keeps_them_together():
    words = [f"How do I {verb} the {part}?" for verb in ("fix", "mend", "repair") for part in "abcdefghij"]
    rows = [chat(word, f"Turn screw {word[-2]} to the left, then press.", f"f:{word}") for word in words]
    train, validation = split_rows(rows, 0.3, seed=0)
    (warning,) = split_warnings(train, validation, 0.3, "prompt")
    assert "an answer that training rows give" in warning
    train, validation = split_rows(rows, 0.3, seed=0, by="answer")
    assert not {group_text(row, "answer") for row in train} & {
        group_text(row, "answer") for row in validation
    }
    assert split_warnings(train, validation, 0.3, "answer") == ()


def test_group_text_is_the_prompt_the_answer_the_text_or_the_group_column():
    assert group_text(chat("Hello, World", "Yes.")) == "hello world"
    assert group_text(chat("Hello", "Yes."), by="answer") == "yes"
    assert group_text(Row("f:1", text="Some  Text")) == "some text"
    assert group_text(Row("f:1", text="Some  Text"), by="answer") == "some text"
    assert group_text(Row("a/f.txt:1", text="t"), by="document") == "a/f.txt"
    assert group_text(Row("f:1", text="t", group="Doc 1")) == "Doc 1"


def test_rows_without_words_in_their_prompt_are_told_apart():
    def tokens(*ids, labels=None):
        return group_text(Row("f:1", input_ids=ids, labels=labels or ids))

    assert tokens(5, 6, 7) == tokens(5, 6, 7) != tokens(5, 6, 8)
    assert tokens(5, 6, 7, labels=(-100, -100, 7)) == tokens(5, 6, 8, labels=(-100, -100, 8)) == "5 6"
    assert group_text(Row("f:1", segments=(("Learn this.", True),))) == "Learn this."
    assert group_text(chat("😀")) == "😀" != group_text(chat("🎉"))
