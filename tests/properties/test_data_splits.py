"""The laws of splitting: disjoint, complete, grouped, stable when rows are added, decided by the seed."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backend.data.cleaning import find_leaks
from backend.data.splits import group_text, split_rows
from tests.backend.data.rows import assistant, chat, pair, user

prompts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=2, max_size=60)
shares = st.floats(0.01, 0.9)
seeds = st.integers(0, 2**32)


def rows_of(texts):
    return [pair(text, "a", f"f:{number}") for number, text in enumerate(texts)]


def places(rows):
    return [row.place for row in rows]


@settings(deadline=None)
@given(prompts, shares, seeds)
def test_every_row_stands_on_exactly_one_side_in_its_order(texts, share, seed):
    rows = rows_of(texts)
    assume(len({group_text(row) for row in rows}) > 1)
    train, validation = split_rows(rows, share, seed)
    assert sorted(places(train) + places(validation)) == sorted(places(rows))
    assert [row for row in rows if row in train] == train
    assert [row for row in rows if row in validation] == validation
    assert train
    assert validation


@settings(deadline=None)
@given(prompts, shares, seeds)
def test_no_group_stands_on_both_sides(texts, share, seed):
    rows = rows_of(texts)
    assume(len({group_text(row) for row in rows}) > 1)
    train, validation = split_rows(rows, share, seed)
    assert {group_text(row) for row in train}.isdisjoint(group_text(row) for row in validation)


turns = st.lists(
    st.tuples(st.sampled_from(["Hi", "Go on", "Why?"]), st.sampled_from("ab")), min_size=1, max_size=3
)


@settings(deadline=None)
@given(st.lists(turns, min_size=2, max_size=30), shares, seeds, st.sampled_from(["prompt", "answer"]))
def test_what_stands_before_the_last_answer_is_asked_on_one_side_only(chats, share, seed, by):
    rows = [
        chat(*(message for asked, said in each for message in (user(asked), assistant(said))))
        for each in chats
    ]
    assume(len({group_text(row, by) for row in rows}) > 1)
    train, validation = split_rows(rows, share, seed, by)
    assert {group_text(row, by) for row in train}.isdisjoint(group_text(row, by) for row in validation)
    exact = [leak for leak in find_leaks(train, validation) if leak.kind == "exact"]
    assert by == "answer" or exact == []


@settings(deadline=None)
@given(prompts, prompts, st.floats(0.2, 0.8), seeds)
def test_adding_rows_moves_none_of_the_old_ones(texts, more, share, seed):
    few, many = rows_of(texts), rows_of([*texts, *more])
    assume(len({group_text(row) for row in few}) > 5)
    _, before = split_rows(few, share, seed)
    train, after = split_rows(many, share, seed)
    moved = set(places(before)) & set(places(train))
    kept_alone = len({group_text(row) for row in before}) == 1
    assert not moved or kept_alone
    assert set(places(after)) & set(places(few)) <= set(places(before)) or len(before) == len(few) - 1


@settings(deadline=None)
@given(prompts, shares, seeds, st.randoms())
def test_a_side_does_not_depend_on_the_order_of_the_rows(texts, share, seed, chance):
    rows = rows_of(texts)
    assume(len({group_text(row) for row in rows}) > 1)
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert set(places(split_rows(rows, share, seed)[1])) == set(places(split_rows(shuffled, share, seed)[1]))
