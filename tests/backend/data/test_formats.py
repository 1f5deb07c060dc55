import pytest

from backend.data.formats import Shape, detect, how_to_use, shape_from_columns, to_row
from backend.data.records import Record
from backend.data.unused import UnusedColumns
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
        ({"prompt": "q", "answer_0": "a", "answer_1": "b", "label": 1}, "two answers"),
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
    assert caught.value.remedy.startswith("If these are not names but a row, write a line of names above it.")


def test_no_rows_and_unknown_columns_are_errors():
    with pytest.raises(DataError, match="no row"):
        detect([])
    with pytest.raises(DataError, match="f: No known shape has the columns a, b") as caught:
        detect(records({"a": "1", "b": "2"}))
    assert "`columns.prompt=Question`" in caught.value.remedy
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
        "read as prompt/completion as asked: prompt from 'Q', completion from 'A'; not used: doc"
    )


def test_a_column_that_is_not_there_gets_the_likeliest_one():
    with pytest.raises(DataError, match="names 'Qestion' for prompt") as caught:
        shape_from_columns(
            {"prompt": "Qestion", "completion": "Answer"}, records({"Question": "q", "Answer": "a"})
        )
    assert caught.value.remedy == "Did you mean 'Question'? The columns are: Question, Answer."


def test_parts_that_make_up_no_shape_are_an_error():
    with pytest.raises(DataError, match="completion, text, which are no known shape") as caught:
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
    with pytest.raises(DataError, match="one object with all rows inside it") as caught:
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


def kept(shape, cells):
    """What stands in the row that comes of these cells: its messages or text, and its rating."""
    row = to_row(Record("f:1", cells), shape)
    words = [message["content"] for message in (*row.messages, *row.chosen, *row.rejected)]
    return "\n".join([*words, row.text or "", row.tools or ""])


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ({"id": "1", "title": "T", "context": "c1", "question": "q1", "answers": {"text": ["a1"]}}, "SQuAD"),
        ({"question": "q1", "passage": "c1", "answer": True, "idx": "3"}, "BoolQ"),
        ({"question": "q1", "subject": "law", "choices": ["c1", "c2"], "answer": "1"}, "MMLU"),
        (
            {"article": "c1", "question": "q1", "options": ["c2", "c3"], "answer": "A", "example_id": "x"},
            "RACE",
        ),
        ({"question": "q1", "choices": {"text": ["c1"], "label": ["A"]}, "answerKey": "A"}, "ARC"),
        ({"id": "1", "dialogue": "Ann: c1", "summary": "a1"}, "SAMSum"),
        ({"document": "c1", "summary": "a1", "id": "2"}, "XSum"),
        ({"article": "c1", "highlights": "a1", "id": "x"}, "CNN/DailyMail"),
        ({"text": "c1", "summary": "a1"}, "BillSum"),
        ({"task_id": "1", "text": "q1", "code": "a1"}, "MBPP"),
        ({"task_id": "x/1", "prompt": "q1", "canonical_solution": "a1"}, "HumanEval"),
        ({"question": "q1", "answer": "a1"}, "GSM8K"),
        ({"problem": "q1", "solution": "a1", "source": "olympiads"}, "NuminaMath"),
        ({"instruction": "q1", "context": "c1", "response": "a1", "category": "open_qa"}, "Dolly"),
        ({"id": "x", "system_prompt": "c1", "question": "q1", "response": "a1"}, "OpenOrca"),
        ({"query": "q1", "response": "a1", "history": [["c1", "c2"]], "system": "c3"}, "ms-swift"),
        ({"instruction": "q1", "input": "c1", "output": "a1", "history": [["c2", "c3"]]}, "LLaMA-Factory"),
        ({"prompt": [{"role": "user", "content": "q1"}], "solution": "a1"}, "TRL, with a solution"),
        ({"inputs": "q1", "targets": "a1"}, "FLAN"),
        ({"sentence": "q1", "label": "1", "idx": "0"}, "GLUE SST-2"),
        ({"question": "q1", "passage": "c1", "label": "1", "idx": "0"}, "SuperGLUE BoolQ"),
        ({"question": "q1", "sentence": "c1", "label": "1", "idx": "0"}, "GLUE QNLI"),
        ({"text": "q1", "label": "1", "label_text": "a1"}, "SetFit"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_public_layouts_keep_question_context_choices_and_answer(cells, name):
    shape = detect([Record("f:1", cells)])
    assert shape.name in ("prompt/completion", "alpaca"), name
    read = kept(shape, cells)
    assert all(each in read for each in ("q1", "c1", "c2", "c3", "a1") if each in str(cells))


PAIRS = [("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("query", "response")]


@pytest.mark.parametrize("asked", ["prompt", "question", "query", "instruction", "problem"])
@pytest.mark.parametrize("answer", ["completion", "response", "answer", "output", "target", "reply"])
@pytest.mark.parametrize(
    "beside", ["input", "context", "passage", "document", "choices", "history", "system_prompt", "functions"]
)
def test_what_belongs_to_a_question_is_used_beside_any_names(asked, answer, beside):
    values = {
        "choices": ["the part beside", "y"],
        "history": [["the part beside", "y"]],
        "functions": [{"name": "the part beside"}],
    }
    cells = {asked: "q1", answer: "a1", beside: values.get(beside, "the part beside")}
    assert "the part beside" in kept(detect([Record("f:1", cells)]), cells)


@pytest.mark.parametrize("asked", PAIRS)
@pytest.mark.parametrize("name", ["label", "kto_tag", "rating", "score", "thumbs", "liked", "is_correct"])
@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("1", "0"),
        ("1.0", "0.0"),
        ("True", "False"),
        ("good", "bad"),
        ("desirable", "undesirable"),
        ("up", "down"),
    ],
)
def test_a_rating_beside_any_pair_makes_rated_rows(asked, name, good, bad):
    cells = [{asked[0]: "q", asked[1]: "a", name: value} for value in (good, bad)]
    shape = detect(records(*cells))
    assert shape.name == "unpaired preference"
    assert [to_row(each, shape).label for each in records(*cells)] == [True, False]


@pytest.mark.parametrize("messages", ["messages", "conversations"])
@pytest.mark.parametrize("name", ["label", "kto_tag", "rating", "thumbs_up", "feedback"])
@pytest.mark.parametrize("value", ["0", "no", "bad", False, 0])
def test_a_rating_beside_messages_makes_rated_rows(messages, name, value):
    cells = {messages: MESSAGES, name: value}
    shape = detect(records(cells))
    assert (shape.name, to_row(records(cells)[0], shape).label) == ("rated messages", False)


@pytest.mark.parametrize(
    "cells",
    [
        {"messages": MESSAGES, "rejected_response": "b"},
        {"messages": MESSAGES, "rejected_messages": [MESSAGES[0], {"role": "assistant", "content": "b"}]},
        {"query": "q", "response": "a", "rejected_response": "b"},
        {"instruction": "q", "output": "a", "rejected": "b"},
        {
            "chosen_messages": MESSAGES,
            "rejected_messages": [MESSAGES[0], {"role": "assistant", "content": "b"}],
        },
        {"input": "q", "chosen": "a", "rejected": "b"},
        {"conversations": [MESSAGES[0]], "chosen": MESSAGES[1], "rejected": {"from": "gpt", "value": "b"}},
        {"prompt": "q", "chosen_response": "a", "rejected_response": "b"},
        {
            "input": {"messages": [MESSAGES[0]]},
            "preferred_output": [MESSAGES[1]],
            "non_preferred_output": "b",
        },
    ],
)
def test_a_worse_answer_beside_a_good_one_makes_a_preference_row(cells):
    row = to_row(Record("f:1", cells), detect(records(cells)))
    assert [[each["content"] for each in side] for side in (row.messages, row.chosen, row.rejected)] == [
        ["q"],
        ["a"],
        ["b"],
    ]


@pytest.mark.parametrize(
    ("cells", "flags"),
    [
        ({"prompt": "Sum up.", "text": "A story"}, "`columns.prompt=prompt` `columns.completion=text`"),
        ({"content": "A story", "title": "Of a fox"}, "`columns.prompt=content` `columns.completion=title`"),
        ({"text": "A story", "translation": "Eine Geschichte"}, "or `columns.text=text`"),
        (
            {"prompt": "Sum up.", "my reply": "It is so"},
            "`columns.prompt=prompt` `columns.completion=my reply`",
        ),
        (
            {"ctx": "He opens the door", "endings": ["a", "b"], "label": "1"},
            "`columns.prompt=ctx` `columns.completion=label`",
        ),
        ({"text": "A story", "prompt": "x", "input_ids": None}, "`columns.prompt=prompt`"),
        ({"Frage": "Was ist das hier?", "Antwort": "Das ist ein Fuchs"}, "`columns.prompt=Frage`"),
        ({"id": 1, "thread": MESSAGES}, "`columns.messages=thread`"),
    ],
)
def test_one_column_is_not_read_where_another_could_be_meant(cells, flags):
    with pytest.raises(DataError, match="No known shape") as caught:
        detect(records(cells))
    assert flags in caught.value.remedy


@pytest.mark.parametrize(
    "beside",
    [
        {"id": "17", "url": "https://example.org/a", "source": "the open web crawl"},
        {"date": "2024-05-06", "tokens": 12, "language": "en", "score": 0.9},
        {"meta": {"title": "A title that is long enough"}, "kind": "news"},
    ],
)
def test_plain_text_is_read_beside_what_says_nothing(beside):
    assert detect(records({"text": "A story", **beside}, {"text": "Another", **beside})).name == "text"


@pytest.mark.parametrize("speaker", ["role", "from"])
@pytest.mark.parametrize("words", ["content", "text", "value"])
def test_one_message_a_row_is_refused_by_name(speaker, words):
    cells = [{"id": n // 2, speaker: ("user", "assistant")[n % 2], words: f"line {n}"} for n in range(6)]
    with pytest.raises(DataError, match="holds one message a row") as caught:
        detect(records(*cells))
    assert caught.value.code == "foreign-format"


def test_speakers_that_come_again_are_one_message_a_row_too():
    cells = [
        {"speaker": ("Ann", "Bob")[n % 2], "utterance": f"line {n}", "text": f"line {n}"} for n in range(6)
    ]
    with pytest.raises(DataError, match="holds one message a row"):
        detect(records(*cells))


def test_a_role_beside_question_and_answer_is_no_message_a_row():
    assert detect(records({"role": "user", "prompt": "q", "completion": "a"})).name == "prompt/completion"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            {"question": "q", "answer": "a", "score": 4},
            "`columns.prompt=question` `columns.completion=answer`",
        ),
        ({"question": "q", "answer": "a", "rejected_by": "Ann"}, "`columns.chosen`"),
        ({"instruction": "q", "output": "a", "rating": 4}, "`columns.label=rating`"),
        ({"question": "q", "answer": "a", "notes": "some words here"}, "`columns.context=notes`"),
        ({"question": "q", "answer": "a", "rationale": "it is so"}, "`columns.reasoning=rationale`"),
        ({"question": "q", "answer": "a", "option_a": "a cat"}, "a list in one column, named choices"),
        (
            {"question": "q", "context": "c", "answer": "a", "notes": "some words here"},
            "`columns.input=notes`",
        ),
        ({"messages": MESSAGES, "persona": "You are a pirate today"}, "`columns.system=persona`"),
        ({"text": "t", "kind": "food"}, "`columns.prompt=text` `columns.completion=kind`"),
    ],
)
def test_what_is_not_used_comes_with_the_flags_that_would_use_it(cells, said):
    sample = records(cells, *([{**cells, "kind": "drink"}] * 19 * ("kind" in cells)))
    shape = detect(sample)
    columns = UnusedColumns(shape.columns.values())
    assert list(columns.watch(sample)) == sample
    (unused,) = columns.found(shape.name)
    assert said in how_to_use(unused, shape)


@pytest.mark.parametrize(
    ("ask", "say"), [("instruction", "output"), ("prompt", "completion"), ("question", "answer")]
)
def test_a_text_that_is_the_whole_row_once_more_is_no_context(ask, say):
    cells = {
        ask: "Name a colour.",
        say: "Red.",
        "text": "### Instruction:\nName a colour.\n\n### Response:\nRed.",
    }
    row = to_row(Record("f:1", cells), detect(records(cells)))
    assert [each["content"] for each in row.messages] == ["Name a colour.", "Red."]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            {
                "question": "q",
                "good_answer": "It is on the Hull",
                "bad_answer": "There is no port",
            },
            "`columns.completion=good_answer`",
        ),
        (
            {
                "prompt": "Where is the harbour of Hull?",
                "reply_a": "It is on the Hull",
                "reply_b": "There is no port",
            },
            "`columns.prompt=prompt` `columns.chosen=reply_a` `columns.rejected=reply_b`",
        ),
        (
            {"text_1": "It is on the Hull", "text_2": "There is no port"},
            "`columns.chosen=text_1` `columns.rejected=text_2`",
        ),
    ],
)
def test_no_way_out_trains_a_worse_answer(cells, said):
    with pytest.raises(DataError) as refused:
        detect(records(cells))
    assert said in refused.value.remedy
