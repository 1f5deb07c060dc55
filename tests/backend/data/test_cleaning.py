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
    shared_answers,
    shared_prefix,
)
from backend.data.records import Row
from tests.backend.data.rows import assistant, chat, pair, pairs, system, user


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


@pytest.mark.parametrize(
    ("text", "encoding"), [("Как называется столица?", "cp1251"), ("Ποια είναι η πρωτεύουσα", "cp1253")]
)
def test_another_script_read_as_latin_is_damage_that_cannot_be_undone(text, encoding):
    read = text.encode(encoding).decode("latin-1")
    assert is_damaged(read)
    assert repair_text(read) == read


@pytest.mark.parametrize(
    "text", ["À É È Ù", "Où êtes-vous né, Zoé ? À Orléans, l’été dernier", "Tiếng Việt có dấu ở âàá"]
)
def test_accents_of_a_language_are_no_damage(text):
    assert not is_damaged(text)


def test_a_replacement_character_is_damage_that_cannot_be_undone():
    assert is_damaged("caf\ufffd")
    assert repair_text("caf\ufffd") == "caf\ufffd"


def test_exact_duplicates_are_equal_to_the_character():
    rows = pairs([("Hello, you!", "Hi"), ("other", "Hi"), ("hello,  you", "Hi "), ("Hello, you!", "Hi")])
    assert exact_duplicates(rows) == {3: 0}
    assert near_duplicate_rows(rows) == {2: 0, 3: 0}


def call(city, call_id="c1"):
    function = {"name": "weather", "arguments": {"city": city}}
    return assistant("", tool_calls=[{"id": call_id, "type": "function", "function": function}])


ALARM = "Please set an alarm for the early train that I must not miss tomorrow morning"
CODE = "Fix this function for me, please:\nfor each in range(3):\n    print(each)\n"
PASSAGE = " ".join(
    f"The {name} stands {number} steps from the gate." for number, name in enumerate("abcdefghijkl")
)
DIFFERENT = {
    "other calls": (chat(user(ALARM), call("Berlin")), chat(user(ALARM), call("Paris"))),
    "other tools": (
        chat(user(ALARM), assistant("ok"), tools='[{"name": "a"}]'),
        chat(user(ALARM), assistant("ok"), tools='[{"name": "b"}]'),
    ),
    "other rejected replies": (
        chat(user(ALARM), chosen=(assistant("ok"),), rejected=(assistant("no"),)),
        chat(user(ALARM), chosen=(assistant("ok"),), rejected=(assistant("never"),)),
    ),
    "another system message": (
        chat(system("Be a pirate."), user(ALARM), assistant("ok")),
        chat(system("Be a clerk."), user(ALARM), assistant("ok")),
    ),
    "another last question": (
        chat(user(PASSAGE), assistant("Noted."), user("How far is a?"), assistant("ok")),
        chat(user(PASSAGE), assistant("Noted."), user("How far is l?"), assistant("ok")),
    ),
    "other indents": (pair(CODE + "    print(1)", "ok"), pair(CODE + "print(1)", "ok")),
    "other questions about a passage": (
        pair(f"{PASSAGE}\nIs the third tower older than the others?", "yes"),
        pair(f"{PASSAGE}\nDoes anybody guard the bridge at night?", "yes"),
    ),
    "another end mark of a short answer": (pair(f"{ALARM}: a", "Done?"), pair(f"{ALARM}: b", "Done.")),
    "another number": (pair(f"{ALARM} at 7", "ok"), pair(f"{ALARM} at 8", "ok")),
    "other reasoning": (
        chat(user("q"), assistant("a", reasoning_content="so")),
        chat(user("q"), assistant("a", reasoning_content="or so")),
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_rows_that_differ_in_more_than_words_are_no_duplicates(kind):
    assert exact_duplicates(DIFFERENT[kind]) == {}


@pytest.mark.parametrize("kind", [kind for kind in DIFFERENT if kind != "other reasoning"])
def test_rows_that_differ_in_more_than_words_are_no_near_duplicates(kind):
    assert near_duplicate_rows(DIFFERENT[kind]) == {}


def greeted(number):
    return chat(
        user("Hi"),
        assistant("Hello! How can I help?"),
        user(f"Explain topic {number}"),
        assistant(f"It is {number}"),
    )


def test_conversations_that_begin_alike_are_no_leaks():
    assert find_leaks([greeted(number) for number in range(20)], [greeted(20), greeted(21)]) == []
    assert find_leaks([greeted(3)], [greeted(3)]) == [Leak(0, 0, "exact")]


def test_a_question_that_was_asked_at_an_earlier_turn_is_a_near_leak():
    assert find_leaks([greeted(1), pair("Hi there", "Hello")], [pair("Hi!", "Hello")]) == [Leak(0, 0, "near")]


def test_token_rows_are_no_leaks_of_each_other():
    rows = [Row("f", input_ids=(number, 2), labels=(number, 2)) for number in (1, 3)]
    assert find_leaks(rows[:1], rows[1:]) == []


SHARED = "Please restart the router and wait for two minutes."


@pytest.mark.parametrize(
    ("answer", "known_again"),
    [
        (SHARED, True),
        ("保修期为两年。", True),
        ("word " * 20, True),
        ("Dairy and eggs", False),
        ("Yes.", False),
    ],
)
def test_a_full_answer_under_two_questions_is_shared_and_a_label_is_not(answer, known_again):
    rows = [pair("Why is the net down?", answer), pair("My connection broke, what now?", answer)]
    assert shared_answers(rows[1:], rows[:1]) == ({0: 0} if known_again else {})
    assert shared_answers(rows[:1], rows[:1]) == {}


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
