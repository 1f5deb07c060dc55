import pytest

from backend.data.formats import Shape, detect, shape_from_columns, to_row
from backend.data.records import Record
from backend.errors import DataError


def records(*cells):
    return [Record(f"f:{number}", each) for number, each in enumerate(cells, 1)]


MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("cells", "shape"),
    [
        ({"prompt": "q", "completion": "a"}, "prompt/completion"),
        ({"Question": "q", "Answer": "a"}, "prompt/completion"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"instruction": "q", "context": "c", "response": "a"}, "prompt/completion"),
        ({"messages": MESSAGES}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "messages"),
        ({"prompt": "q", "messages": MESSAGES}, "messages"),
        ({"text": "t"}, "text"),
        ({"text": "t", "label": "1"}, "prompt/completion"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        (
            {"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "b"}]},
            "preference",
        ),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired preference"),
        ({"prompt": "q", "completion": "a", "label": "sports"}, "prompt/completion"),
        ({"messages": MESSAGES, "kto_tag": "true"}, "rated messages"),
        ({"input_ids": ["1", "2"], "labels": ["-100", "2"]}, "tokens"),
        ({"segments": [{"label": True, "text": "a"}]}, "segments"),
        ({"prompt": "q"}, "prompt"),
    ],
)
def test_the_shape_is_detected(cells, shape):
    assert detect(records(cells)).name == shape


def test_detection_says_why_how_many_fit_and_what_is_not_used():
    shape = detect(records({"id": "1", "prompt": "q", "completion": "a"}, {"id": "2", "prompt": "q"}))
    assert shape.share == 0.5
    assert shape.reason == (
        "read as prompt/completion because of the columns 'prompt' and 'completion'; "
        "fits 50% of 2 sampled rows; not used: id"
    )


def test_of_many_columns_that_are_not_used_the_first_are_named():
    cells = {"prompt": "q", "completion": "a", "\x1b[31m": "x", **{f"c{number}": "x" for number in range(25)}}
    reason = detect(records(cells)).reason
    assert "; not used: ·[31m, c0," in reason
    assert reason.endswith("c17, c18 and 6 more")


def test_a_shape_that_fits_few_rows_yields_to_one_that_fits_more():
    cells = [{"messages": [], "prompt": "q", "completion": "a"}] * 3 + [{"messages": MESSAGES}]
    assert detect(records(*cells)).name == "prompt/completion"


def test_prompts_alone_are_a_shape_only_where_no_row_has_an_answer():
    cells = [{"prompt": "q", "completion": None}] * 3 + [{"prompt": "q", "completion": "a"}]
    assert detect(records(*cells)).name == "prompt/completion"
    assert detect(records(*cells[:3])).name == "prompt"


def test_rows_whose_answers_cannot_be_read_are_no_prompts_alone():
    cells = [{"prompt": "q", "completion": ["a", "b"]}, {"prompt": "q", "completion": None}]
    with pytest.raises(DataError, match="the field 'completion' holds a list where a text belongs"):
        detect(records(*cells))


def test_a_table_that_may_lack_its_line_of_names_is_told_so():
    with pytest.raises(DataError) as caught:
        detect([Record("t.csv:2", {"What is up?": "b", "Not much.": "c"})])
    assert caught.value.remedy.startswith("If these are no names but a row, write a line of names above it.")


def test_no_rows_and_unknown_columns_are_errors():
    with pytest.raises(DataError, match="no row"):
        detect([])
    with pytest.raises(DataError, match="f: No known shape has the columns a, b") as caught:
        detect(records({"a": "1", "b": "2"}))
    assert "--columns.prompt Question" in caught.value.remedy
    assert "data.columns" in caught.value.remedy


def test_a_single_column_of_another_name_asks_for_a_header():
    with pytest.raises(DataError, match="f has one column only, '# zones'") as caught:
        detect(records({"# zones": "1"}))
    assert "first line" in caught.value.remedy


def test_rows_that_look_right_but_cannot_be_read_say_why():
    with pytest.raises(DataError, match="look like messages, but none can be read so: f:1"):
        detect(records({"messages": []}))


def test_a_column_map_is_taken_as_it_is():
    sample = records({"Q": "q", "A": "a", "doc": "d"})
    shape = shape_from_columns({"prompt": "Q", "completion": "A", "group": "doc"}, sample)
    assert (shape.name, shape.share) == ("prompt/completion", 1.0)
    assert to_row(sample[0], shape).group == "d"
    assert detect(sample, {"prompt": "Q", "completion": "A"}).reason == (
        "read as prompt/completion as asked: prompt from 'Q', completion from 'A'"
    )


def test_a_column_that_is_not_there_gets_the_likeliest_one():
    with pytest.raises(DataError, match="names 'Qestion' for prompt") as caught:
        shape_from_columns(
            {"prompt": "Qestion", "completion": "Answer"}, records({"Question": "q", "Answer": "a"})
        )
    assert caught.value.remedy == "Did you mean 'Question'? The columns are: Question, Answer."


def test_parts_that_make_up_no_shape_are_an_error():
    with pytest.raises(DataError, match="completion, text, which make up no shape") as caught:
        shape_from_columns({"text": "a", "completion": "b"}, records({"a": "1", "b": "2"}))
    assert "prompt/completion: prompt, completion" in caught.value.remedy


def test_to_row_names_the_place_and_the_field():
    shape = Shape("text", {"text": "text"}, "", 1.0)
    assert to_row(Record("f:1", {"text": "x"}), shape).text == "x"
    with pytest.raises(DataError) as caught:
        to_row(Record("f:2", {}), shape)
    assert (caught.value.message, caught.value.code) == ("f:2: the field 'text' is missing.", "bad-row")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"id": "1", "data": {"text": "a"}, "annotations": []}, "Label Studio"),
        ({"fields": {}, "responses": []}, "Argilla"),
        ({"title": "t", "create_time": "1", "mapping": {}}, "ChatGPT"),
        ({"contents": [{"role": "user", "parts": []}]}, "Gemini"),
        ({"title": "t", "paragraphs": []}, "SQuAD"),
        ({"message_tree_id": "1", "prompt": {"text": "a"}}, "OASST trees"),
        ({"parent_id": "1", "role": "prompter", "text": "a"}, "single messages of OASST"),
    ],
)
def test_what_others_export_is_called_by_its_name(cells, said):
    with pytest.raises(DataError, match=said) as caught:
        detect([Record("f.json:1", cells)])
    assert caught.value.code == "foreign-format"
    assert caught.value.remedy


def test_columns_of_others_beside_ours_do_no_harm():
    cells = {"prompt": "q", "completion": "a", "data": "1", "annotations": "2", "contents": "3"}
    assert detect([Record("f.json:1", cells)]).name == "prompt/completion"


def test_what_lies_deeper_than_a_column_is_named():
    with pytest.raises(DataError, match="No known shape") as caught:
        detect([Record("f.json:1", {"id": "1", "body": {"messages": []}, "empty": []})])
    assert "lists or objects (body) must become" in caught.value.remedy


@pytest.mark.parametrize(
    "cells",
    [
        {"prompt": {"0": "q", "1": "p"}, "completion": {"0": "a", "1": "b"}},
        {"prompt": ["q", "p"], "completion": ["a", "b"]},
        {"r1": {"prompt": "q", "completion": "a"}, "r2": {"prompt": "p", "completion": "b"}},
    ],
)
def test_one_object_that_holds_all_rows_is_called_so(cells):
    with pytest.raises(DataError, match="one object, and its rows stand inside it") as caught:
        detect([Record("f.json:1", cells)])
    assert "orient='records'" in caught.value.remedy


def test_one_row_of_lists_is_no_such_object():
    replies = {
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    with pytest.raises(DataError, match="there is no prompt"):
        detect([Record("f.json:1", replies)])


@pytest.mark.parametrize(
    ("cells", "part", "column"),
    [
        ({"question": "q", "response": "a", "system_prompt": "s"}, "system", "system_prompt"),
        ({"messages": [{"role": "assistant", "content": "a"}], "functions": []}, "tools", "functions"),
        ({"prompt": "q", "completion": "a", "system": "s", "system_prompt": "t"}, "system", "system"),
    ],
)
def test_other_names_of_optional_parts_are_known(cells, part, column):
    assert detect([Record("f.json:1", cells)]).columns[part] == column
