import json

import pytest

from backend.data.exact_json import Spelled
from backend.data.families import FAMILIES, PARTS
from backend.data.records import Row
from backend.data.shapes import build
from backend.errors import DataError
from tests.backend.data.rows import assistant, system, user

TOOL = {"type": "function", "function": {"name": "f"}}


def row_of(shape, columns=None, **cells):
    known = [*PARTS[shape].required, *PARTS[shape].optional]
    return build(shape, cells, columns or {part: part for part in known if part in cells}, "f:1")


def test_every_family_names_the_parts_of_its_shape():
    for family in FAMILIES:
        parts = PARTS[family.shape]
        assert set(family.required) >= set(parts.required)
        assert {*family.required, *family.optional} <= {*parts.required, *parts.optional}


def test_text():
    assert row_of("text", text=" a ") == Row("f:1", text=" a ")


def test_messages_with_system_and_tools():
    row = row_of("messages", messages=[user("q"), assistant("a")], system="be kind", tools='[{"name": "f"}]')
    assert row.messages == (system("be kind"), user("q"), assistant("a"))
    assert json.loads(row.tools) == [TOOL]


@pytest.mark.parametrize("given", [[{"name": "f"}], '[{"name": "f"}]', [TOOL]])
def test_tools_are_given_as_servers_are_given_them(given):
    row = row_of("messages", messages=[user("q"), assistant("a")], tools=given)
    assert json.loads(row.tools) == [TOOL]


@pytest.mark.parametrize("given", ["", [], None, "[]"])
def test_no_tools_are_none(given):
    assert row_of("messages", messages=[user("q"), assistant("a")], tools=given).tools is None


def test_prompt_and_completion_as_texts_and_as_messages():
    assert row_of("prompt/completion", prompt="q", completion="a").messages == (user("q"), assistant("a"))
    earlier = [user("1"), assistant("2"), user("3")]
    row = row_of("prompt/completion", prompt=earlier, completion=[assistant("4")])
    assert row.messages == (user("1"), assistant("2", trained=False), user("3"), assistant("4"))


def test_context_comes_before_the_question():
    row = row_of("prompt/completion", prompt="who?", context="text", completion="she", system="s")
    assert row.messages == (system("s"), user("text\n\nwho?"), assistant("she"))


def test_squad_answers_are_read():
    row = row_of("prompt/completion", prompt="q", completion={"text": ["a", "b"], "answer_start": ["0", "1"]})
    assert row.messages[-1] == assistant("a")
    with pytest.raises(DataError, match="holds no answer"):
        row_of("prompt/completion", prompt="q", completion={"text": []})


def test_alpaca_joins_instruction_and_input_and_reads_history():
    assert row_of("alpaca", instruction="do", input="", output="a").messages == (user("do"), assistant("a"))
    row = row_of("alpaca", instruction="do", input="it", output="a", system="s", history=[["q1", "a1"]])
    assert row.messages == (system("s"), user("q1"), assistant("a1"), user("do\nit"), assistant("a"))
    assert row_of("alpaca", instruction="do", output="a", history="").messages == (user("do"), assistant("a"))
    with pytest.raises(DataError, match="pairs"):
        row_of("alpaca", instruction="do", output="a", history=["x"])


def test_preference_in_its_spellings():
    expected = ((user("q"),), (assistant("good"),), (assistant("bad"),))

    def parts(row):
        return row.messages, row.chosen, row.rejected

    assert parts(row_of("preference", prompt="q", chosen="good", rejected="bad")) == expected
    assert (
        parts(
            row_of("preference", prompt=[user("q")], chosen=[assistant("good")], rejected=[assistant("bad")])
        )
        == expected
    )
    full = {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]}
    assert parts(row_of("preference", **full)) == expected
    assert parts(row_of("preference", prompt="q", **full)) == expected
    turns = [{"from": "human", "value": "q"}]
    replies = {"chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}}
    assert parts(row_of("preference", prompt=turns, **replies)) == expected


def test_preference_as_the_hosted_services_write_it():
    row = row_of(
        "preference",
        prompt={"messages": [user("q")], "tools": [{"name": "f"}]},
        chosen=[assistant("good")],
        rejected=[assistant("bad")],
    )
    assert (row.messages, row.chosen) == ((user("q"),), (assistant("good"),))
    assert json.loads(row.tools) == [TOOL]


def test_ratings():
    assert row_of("unpaired preference", prompt="q", completion="a", label=True).label is True
    assert row_of("rated messages", messages=[user("q"), assistant("a")], label="False").label is False
    with pytest.raises(DataError, match="must be true or false"):
        row_of("unpaired preference", prompt="q", completion="a", label="maybe")


def test_tokens():
    row = row_of("tokens", input_ids=["1", 2], labels="[-100, 2]")
    assert (row.input_ids, row.labels) == ((1, 2), (-100, 2))
    assert row_of("tokens", input_ids=[5]).labels == (5,)


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ({"input_ids": []}, "empty list"),
        ({"input_ids": [1], "labels": [1, 2]}, "1 input_ids but 2 labels"),
        ({"input_ids": [-1]}, "not a token id"),
        ({"input_ids": ["x"]}, "not a token id"),
        ({"input_ids": [True]}, "not a token id"),
        ({"input_ids": [2**31]}, "not a token id"),
        ({"input_ids": "text"}, "not JSON"),
        ({"input_ids": {"a": 1}}, "must be a list"),
    ],
)
def test_what_is_wrong_with_tokens_is_named(cells, what):
    with pytest.raises(DataError, match=what):
        row_of("tokens", **cells)


def test_segments():
    row = row_of("segments", segments=[{"label": False, "text": "q"}, {"label": True, "text": "a"}])
    assert row.segments == (("q", False), ("a", True))
    with pytest.raises(DataError, match="list of objects"):
        row_of("segments", segments=[])


def test_prompt_only():
    assert row_of("prompt", prompt="q").messages == (user("q"),)


def test_a_missing_field_is_named():
    with pytest.raises(DataError, match="the field 'A' is missing"):
        build("prompt/completion", {"Q": "q"}, {"prompt": "Q", "completion": "A"}, "f:1")


@pytest.mark.parametrize("field", ["image", "images", "audio", "videos"])
def test_pictures_and_sounds_are_refused_by_name(field):
    with pytest.raises(DataError, match=f"'{field}' is filled; only text"):
        row_of("text", text="x", **{field: ["a.png"]})
    assert row_of("text", text="x", **{field: []}).text == "x"


CHOICES = "Which?\nA. cat\nB. dog"


@pytest.mark.parametrize(
    ("choices", "answer", "learned"),
    [
        (["cat", "dog"], Spelled("1"), "B"),
        (["cat", "dog"], 0, "A"),
        (["cat", "dog"], "1", "B"),
        ('["cat", "dog"]', "A", "A"),
        (["cat", "dog"], "dog", "dog"),
        (["cat", "dog"], "the dog", "the dog"),
        ({"text": ["cat", "dog"], "label": ["A", "B"]}, "B", "B"),
        ({"A": "cat", "B": "dog"}, "B", "B"),
        (["cat", "dog"], True, "true"),
    ],
)
def test_choices_stand_under_the_question_and_a_number_becomes_their_letter(choices, answer, learned):
    row = row_of("prompt/completion", prompt="Which?", choices=choices, completion=answer)
    assert row.messages == (user(CHOICES), assistant(learned))


def test_labels_of_choices_that_are_numbers_are_kept():
    choices = {"text": ["cat", "dog"], "label": ["1", "2"]}
    row = row_of("prompt/completion", prompt="Which?", choices=choices, completion="1")
    assert row.messages == (user("Which?\n1. cat\n2. dog"), assistant("1"))


@pytest.mark.parametrize(
    ("choices", "answer", "said"),
    [
        (["cat", "dog"], "2", "counted from 0, there are 2 choices"),
        (["0", "1"], "1", "write a letter"),
        (["x"] * 27, "1", "up to 26 choices"),
        ({"text": ["cat"], "label": ["A", "B"]}, "A", "up to 26 choices"),
        ("cat or dog", "A", "not JSON"),
        (Spelled("3"), "A", "up to 26 choices"),
    ],
)
def test_choices_that_cannot_be_told_apart_are_refused(choices, answer, said):
    with pytest.raises(DataError, match=said):
        row_of("prompt/completion", prompt="Which?", choices=choices, completion=answer)


def test_no_choices_change_nothing():
    row = row_of("prompt/completion", prompt="q", choices=[], completion="1")
    assert row.messages == (user("q"), assistant("1"))


@pytest.mark.parametrize(
    "shape", ["prompt/completion", "alpaca", "unpaired preference", "preference", "prompt"]
)
def test_all_that_belongs_to_a_question_stands_in_one_order(shape):
    names = {
        "alpaca": ("instruction", "output"),
        "preference": ("prompt", "chosen"),
        "prompt": ("prompt", "-"),
    }
    asked, answer = names.get(shape, ("prompt", "completion"))
    cells = {asked: "ask", answer: "a", "rejected": "b", "label": True, "input": "in", "context": "ctx"}
    row = row_of(shape, **cells, choices=["x"], history=[["1", "2"]], system="sys")
    earlier = {"role": "assistant", "content": "2", **row.messages[2]}
    assert row.messages[:4] == (system("sys"), user("1"), earlier, user("ctx\n\nask\nin\nA. x"))


def test_history_may_be_messages():
    row = row_of("prompt/completion", prompt="q", completion="a", history=[user("1"), assistant("2")])
    assert row.messages == (user("1"), assistant("2"), user("q"), assistant("a"))


def test_reasoning_goes_before_the_answer():
    row = row_of("prompt/completion", prompt="q", completion="a", reasoning="so")
    assert row.messages[-1] == assistant("a", reasoning_content="so")


@pytest.mark.parametrize("part", ["prompt", "completion", "chosen", "rejected"])
def test_messages_as_json_text_are_read_in_any_cell(part):
    shape = "prompt/completion" if part in ("prompt", "completion") else "preference"
    others = {"prompt": "q", "completion": "a", "chosen": "a", "rejected": "a"}
    said = {"prompt": user("m")}.get(part, assistant("m"))
    row = row_of(shape, **{**others, part: f" {json.dumps([said])}"})
    assert said in (*row.messages, *row.chosen, *row.rejected)
    row = row_of(shape, **{**others, part: said})
    assert said in (*row.messages, *row.chosen, *row.rejected)


def test_plain_text_that_is_nothing_but_messages_is_a_chat():
    turns = [user("q"), assistant("a")]
    assert row_of("text", text=json.dumps(turns)).messages == tuple(turns)


@pytest.mark.parametrize(
    "text", ['[{"a": 1}]', '[{"role": "user"', '{"role": 3', "['a']", '{"name": "from"}', "[1]"]
)
def test_json_that_holds_no_messages_is_text(text):
    assert row_of("prompt/completion", prompt="q", completion=text).messages[-1] == assistant(text)
    assert row_of("text", text=text).text == text


@pytest.mark.parametrize("part", ["prompt", "completion"])
def test_messages_that_python_wrote_are_refused_by_name(part):
    cells = {"prompt": "q", "completion": "a", part: str([user("it's"), assistant("m")])}
    with pytest.raises(DataError, match=r"Python's str\(\) wrote them"):
        row_of("prompt/completion", **cells)


def test_a_flag_is_no_worse_answer():
    with pytest.raises(DataError, match="'rejected' is false where an answer belongs"):
        row_of("preference", prompt="q", chosen="a", rejected=False)


@pytest.mark.parametrize("rejected", ["b", [user("q"), assistant("b")], assistant("b")])
def test_a_worse_answer_beside_messages_shares_their_beginning(rejected):
    row = row_of("preference", chosen=[user("q"), assistant("a")], rejected=rejected)
    assert (row.messages, row.chosen, row.rejected) == ((user("q"),), (assistant("a"),), (assistant("b"),))


def test_earlier_answers_of_a_prompt_are_not_repeated_in_the_replies():
    earlier = [user("1"), assistant("2"), user("3")]
    row = row_of(
        "preference", prompt=earlier, chosen=[*earlier, assistant("a")], rejected=[*earlier, assistant("b")]
    )
    assert row.messages == (user("1"), assistant("2", trained=False), user("3"))
    assert (row.chosen, row.rejected) == ((assistant("a"),), (assistant("b"),))
