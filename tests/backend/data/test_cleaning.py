import pytest

from backend.data.cleaning import (
    Leak,
    exact_duplicates,
    find_leaks,
    is_damaged,
    near_duplicate_rows,
    repair_row,
    repair_text,
    row_hash,
    shared_prefix,
)
from backend.data.records import Row
from tests.backend.data.rows import assistant, chat, pair, pairs, user


@pytest.mark.parametrize(
    ("damaged", "sound"),
    [
        ("cafÃ© au lait", "café au lait"),
        ("itâ€™s fine", "it’s fine"),
        ("a\0b", "ab"),
        ("\ufeffstart é", "start é"),
    ],
)
def test_damage_is_seen_and_repaired(damaged, sound):
    assert is_damaged(damaged)
    assert repair_text(damaged) == sound


@pytest.mark.parametrize(
    "text",
    ["plain", "café ’quoted’ “x”", "ﬁne ﬂow", "Ａ", "a\r\nb", "&amp; <b>", "日本語 русский", "😀", "e\u0301"],
)
def test_sound_text_is_left_as_it_is(text):
    assert not is_damaged(text)
    assert repair_text(text) == text


def test_repair_row_mends_every_text_or_gives_the_row_back():
    assert repair_row(pair("cafÃ©", "ok")) == pair("café", "ok")
    sound = pair("café", "ok")
    assert repair_row(sound) is sound


def test_a_replacement_character_is_damage_that_cannot_be_undone():
    assert is_damaged("caf\ufffd")
    assert repair_text("caf\ufffd") == "caf\ufffd"


def test_exact_duplicates_ignore_case_spacing_and_end_marks():
    rows = pairs([("Hello, you!", "Hi"), ("other", "Hi"), ("hello,  you", "hi."), ("Hello, you!", "Bye")])
    assert exact_duplicates(rows) == {2: 0}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pair("a", "b"), pair("b", "a")),
        (pair("a + b", "x"), pair("a - b", "x")),
        (pair("?", "x"), pair("!", "x")),
        (pair("a", "b"), chat(user("a"), assistant("b", trained=False))),
        (Row("f", text="a"), pair("a", "")),
        (Row("f", input_ids=(1, 2), labels=(1, 2)), Row("f", input_ids=(1, 2), labels=(-100, 2))),
        (chat(user("a"), label=True), chat(user("a"), label=False)),
        (
            chat(user("a"), chosen=(assistant("x"),), rejected=(assistant("y"),)),
            chat(user("a"), chosen=(assistant("y"),), rejected=(assistant("x"),)),
        ),
        (Row("f", segments=(("a", True), ("b", False))), Row("f", segments=(("a", False), ("b", True)))),
    ],
)
def test_rows_that_say_something_else_have_another_hash(one, two):
    assert row_hash(one) != row_hash(two)


QUESTION = "Which store section does this food belong to? "


CHEESE = "Cheddar cheese, sharp, sliced, aged twelve months"
OTHERS = ["Miso", "Bratwurst", "Tomatoes", "Salt", "Rye bread", "Plums", "Soda", "Lentils", "Trout", "Rice"]


def test_near_duplicates_look_past_the_fixed_instruction():
    foods = [*OTHERS, CHEESE, CHEESE + "!!", CHEESE[:-1]]
    rows = pairs([(QUESTION + food, "x") for food in foods])
    assert near_duplicate_rows(rows) == {11: 10, 12: 10}


def test_near_duplicates_must_have_the_same_short_answer():
    long = "Cheddar cheese, sharp, sliced, aged twelve month"
    rows = pairs([(long, "dairy"), (long + "s", "meat"), ("something else", "dairy")])
    assert near_duplicate_rows(rows) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [("What is 2 + 2?", "What is 2 * 2?"), ("Is it -5 C?", "Is it 5 C?"), ("Is C++ old?", "Is C# old?")],
)
def test_a_sign_makes_another_question(one, other):
    assert near_duplicate_rows(pairs([(one, "4"), (other, "4")])) == {}
    assert find_leaks(pairs([(one, "4")]), pairs([(other, "4")])) == []
    (leak,) = find_leaks(pairs([(other, "4")]), pairs([(one, "4"), (other, "4")]))
    assert (leak.evaluation, leak.kind) == (1, "exact")


def test_find_leaks_tells_exact_from_near():
    evaluation = pairs([(QUESTION + "Miso", "soy"), (QUESTION + CHEESE, "dairy")])
    train = pairs(
        [(QUESTION + food, "x") for food in [*OTHERS[1:], "MISO."]] + [(QUESTION + CHEESE[:-1], "dairy")]
    )
    assert find_leaks(train, evaluation) == [Leak(9, 0, "exact"), Leak(10, 1, "near")]
    assert find_leaks(train, []) == []


MANY = [str(number) for number in range(10)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([f"say it {each}" for each in MANY], MANY),
        (["say", *(f"say {each}" for each in MANY)], ["say", *(f"say {each}" for each in MANY)]),
        ([f"x{each}" for each in MANY], [f"x{each}" for each in MANY]),
        (["say a", "say b"], ["say a", "say b"]),
        ([], []),
    ],
)
def test_the_words_that_all_begin_with(given, expected):
    assert [text[shared_prefix(iter(given)) :] for text in given] == expected
