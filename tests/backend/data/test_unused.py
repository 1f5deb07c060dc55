import pytest

from backend.data.records import Record
from backend.data.unused import (
    COMPARED_ROWS,
    JUDGED_ROWS,
    MAX_COLUMNS,
    UnusedColumns,
    text_columns,
)

FOODS = (
    "rye bread",
    "oat milk",
    "blue cheese",
    "green tea",
    "plum jam",
    "goat curd",
    "leek soup",
    "fish pie",
)


def beside(values, name="note", shape="prompt/completion", taken=()):
    """What is found in a column with these values."""
    columns = UnusedColumns(taken)
    for number, value in enumerate(values, 1):
        columns.note(Record(f"f:{number}", {name: value}))
    return [(each.name, each.holds, each.rows) for each in columns.found(shape)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("note", [f"Goes well with {food} in winter" for food in FOODS]),
        ("note", ["A sentence that is long enough to matter though it stands in every single row"] * 8),
        ("word", FOODS),
        ("model_answer", FOODS),
        ("source_text", FOODS),
        ("answer_key", FOODS),
        ("name", FOODS),
        ("note", [[f"one test of {food}", "and another"] for food in FOODS]),
        ("note", ["", None, *(f"and then {food} too" for food in FOODS)]),
        ("note", ["北京今天的天气怎么样", "明天会下雨吗我想知道"]),
        ("explanation", ["because"] * 8),
        ("option_a", ["cat"] * 8),
        ("ending1", ["he left"] * 8),
    ],
)
def test_words_that_are_long_or_vary_are_found(name, values):
    assert beside(values, name) == [(name, "text", sum(value not in ("", None) for value in values))]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "row_id",
            [f"food {number} of the list" for number in "abcdefgh"][:0] or [f"a{n}" for n in range(8)],
        ),
        ("source", ["the open food list"] * 8),
        ("price", [str(number) for number in range(8)]),
        ("seen", [f"2024-05-0{number}T10:00:00" for number in range(1, 9)]),
        ("page", [f"https://example.org/{number}" for number in range(8)]),
        ("sha", [f"9f86d081884c7d659a2feaa0c55ad01{number}" for number in range(8)]),
        ("level", ["easy", "hard"] * 40),
        ("author", FOODS),
        ("data_source", FOODS),
        ("model_name", FOODS),
        ("created_at", FOODS),
        ("meta", [{"said": f"Goes well with {food} in winter"} for food in FOODS]),
        ("gone", [None, "", []] * 3),
        ("mask", [[1, 0, True] * number for number in range(8)]),
        ("logits", [{"a": 1.5, "b": number} for number in range(8)]),
    ],
)
def test_numbers_dates_addresses_names_of_sources_and_labels_are_left_in_peace(name, values):
    assert beside(values, name) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("label", [1, 0] * 4),
        ("label", ["good", "bad"] * 4),
        ("score", [0.25] * 8),
        ("Rating", ["5", "4"] * 4),
        ("quality_score", [3] * 8),
        ("thumbs_up", [True, False] * 4),
        ("rejected_response", ["no"] * 8),
        ("human_preference", ["a", "b"] * 4),
        ("upvotes", [12, 0] * 4),
    ],
)
@pytest.mark.parametrize("shape", ["messages", "alpaca", "prompt/completion"])
def test_ratings_by_name_and_value_are_found_where_all_answers_are_taken_for_good(name, values, shape):
    assert beside(values, name, shape) == [(name, "rating", 8)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("verdict", ["approved", "rejected"] * 4),
        ("human_review", ["OK", "not ok"] * 4),
        ("helpful", [True, False] * 4),
        ("passed", ["yes", "no"] * 4),
        ("anything", ["accept", "reject"] * 4),
        ("Bewertung", ["gut", "schlecht"] * 4),
        ("calificación", [1, 5] * 4),
        ("评分", [1, 0] * 4),
        ("incorrect_answer", FOODS),
        ("wrong answer", FOODS),
    ],
)
def test_ratings_are_found_under_other_names_and_in_other_languages(name, values):
    assert beside(values, name) == [(name, "rating", 8)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("score", [0.91, 0.95] * 4),
        ("quality", ["high"] * 8),
        ("metadata", [{"rating": each} for each in (1, 0)] * 4),
    ],
)
def test_judgements_by_which_no_answer_is_bad_stop_nothing(name, values):
    assert [holds for _, holds, _ in beside(values, name)] == ["scores"]


@pytest.mark.parametrize("shape", ["messages", "prompt/completion", "text", "tokens"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("split", ["train"] * JUDGED_ROWS + ["test"]),
        ("Subset", ["train", "dev"] * 4),
        ("train", [1, 0] * 4),
        ("exclude", [True, False] * 4),
    ],
)
def test_marks_of_rows_that_are_not_for_training_are_found(name, values, shape):
    assert beside(values, name, shape) == [(name, "marks", len(values))]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("split", ["train"] * 8),
        ("split", ["math", "code"] * 4),
        ("weight", [0.5, 1.5] * 4),
        ("deleted", [False] * 8),
    ],
)
def test_what_is_the_same_for_all_rows_or_says_no_split_marks_none(name, values):
    assert beside(values, name) == []


def test_a_long_number_with_words_behind_it_is_text():
    assert beside(["1" * 400 + " and more words than that"] * 8) == []


def test_ratings_that_turn_bad_after_the_rows_that_are_judged_are_found():
    assert beside(["good"] * JUDGED_ROWS + ["bad"], "quality") == [("quality", "rating", JUDGED_ROWS + 1)]


@pytest.mark.parametrize(("name", "values"), [("label_text", ["World", "Sports"] * 4), ("label", [0, 1] * 4)])
def test_other_spellings_of_the_classes_rate_nothing(name, values):
    columns = UnusedColumns(["text", "labels"])
    for number, value in enumerate(values, 1):
        columns.note(Record(f"f:{number}", {"text": FOODS[number - 1], "labels": 1, name: value}))
    assert columns.found("prompt/completion") == ()


def test_a_column_that_is_the_whole_row_once_more_says_nothing_new():
    columns = UnusedColumns(["prompt", "completion"])
    for number, food in enumerate(FOODS):
        cells = {"prompt": f"Which is food {number}?", "completion": f"It is {food}."}
        columns.note(
            Record(
                f"f:{number}", {**cells, "note": "### Ask: {prompt} ### Say: {completion}".format(**cells)}
            )
        )
    assert columns.found("prompt/completion") == ()


@pytest.mark.parametrize("shape", ["preference", "unpaired preference", "rated messages"])
def test_scores_beside_rows_that_are_rated_already_say_nothing_new(shape):
    assert beside([0.5] * 8, "score_chosen", shape) == []


@pytest.mark.parametrize(
    ("name", "values"), [("label", ["sports", "food"] * 40), ("language_score", [0.9] * 8)]
)
def test_what_is_called_like_a_rating_and_is_none_is_left_in_peace(name, values):
    assert beside(values, name) == []


def test_labels_matter_beside_plain_text_alone():
    assert beside(["food", "drink"] * 40, "kind", "text") == [("kind", "labels", 80)]
    assert beside(["food", "drink"] * 40, "source", "text") == []
    assert beside([3, 4] * 8, "stars", "text") == [("stars", "labels", 16)]


def test_words_that_are_read_already_are_not_found_again():
    columns = UnusedColumns(["messages"])
    for number in range(COMPARED_ROWS):
        said = f"What goes well with number {number}?"
        turns = [{"role": "user", "content": said}]
        columns.note(Record(f"f:{number}", {"messages": turns, "prompt": said, "hint": f"It is not {said}"}))
    assert [each.name for each in columns.found("messages")] == ["hint"]


def test_a_column_is_judged_by_its_first_rows_and_counted_to_the_end():
    assert beside([*["yes"] * JUDGED_ROWS, *["a sentence of five words"] * 5], "note") == []
    assert (
        beside(["a sentence of %d words"] * 3 + [f"words and so on {n}" for n in "ab" * JUDGED_ROWS], "note")
        == []
    )
    found = beside([f"words and so on {chr(0x61 + n % 26) * (n % 97 + 1)}" for n in range(JUDGED_ROWS + 9)])
    assert found == [("note", "text", JUDGED_ROWS + 9)]


def test_of_very_many_columns_the_first_are_looked_at():
    columns = UnusedColumns([])
    cells = {f"c{number}": "what it says here" for number in range(MAX_COLUMNS + 5)}
    assert list(columns.watch([Record("f:1", cells)])) == [Record("f:1", cells)]
    assert len(columns.found("text")) == MAX_COLUMNS


def test_where_a_column_stands_first_and_what_it_says_is_kept():
    records = [Record("f:1", {"q": "a"}), Record("f:2", {"q": "b", "n": "A note\nof \x1bsome words"})]
    (found,) = text_columns(records, ["q"])
    assert (found.place, found.sample, found.rows) == ("f:2", "A note of ·some words", 1)
    assert found.description == "'n' (1 row, first at f:2)"
