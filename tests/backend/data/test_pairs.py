"""Preference rows in the layouts that people publish, each rebuilt here, and how their texts are split."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.data.formats import detect, to_row
from backend.data.pairs import (
    after_cue,
    dialogue,
    judged,
    require_answers,
    split_given,
    split_shared,
    split_texts,
    winner,
    without_cue,
)
from backend.data.records import Record
from backend.errors import DataError
from tests.backend.data.rows import assistant, system, user

BLUE, GREEN, ASKED = assistant("It is blue."), assistant("It is green."), user("What colour is the sky?")
EARLIER = (user("Hi"), assistant("Hello!"))
UNTRAINED = (user("Hi"), assistant("Hello!", trained=False))
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
CALL = assistant(
    "", tool_calls=[{"type": "function", "function": {"name": "look_up", "arguments": "{}"}, "id": "c1"}]
)
RESULT = {"role": "tool", "content": "blue", "tool_call_id": "c1"}
HH = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: What colour is the sky?\n\nAssistant:"


def said(speaker, text):
    return {"from": speaker, "value": text}


def read(cells):
    record = Record("f:1", cells)
    return to_row(record, detect([record]))


# For each layout: the cells, then prompt, chosen and rejected as they are read.
PAIRS = {
    "TRL, explicit": (
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        (user("The sky is"),),
        (assistant(" blue."),),
        (assistant(" green."),),
    ),
    "TRL, implicit": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        (user("The sky is"),),
        (assistant(" blue."),),
        (assistant(" green."),),
    ),
    "TRL, explicit chat": (
        {"prompt": [*EARLIER, ASKED], "chosen": [BLUE], "rejected": [GREEN]},
        (*UNTRAINED, ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "TRL, implicit chat": (
        {"chosen": [*EARLIER, ASKED, BLUE], "rejected": [*EARLIER, ASKED, GREEN]},
        (*UNTRAINED, ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "answers of several turns": (
        {"prompt": [ASKED], "chosen": [CALL, RESULT, BLUE], "rejected": [GREEN], "tools": [TOOL]},
        (ASKED,),
        (CALL, RESULT, BLUE),
        (GREEN,),
    ),
    "tools as text": (
        {"prompt": [ASKED], "chosen": [CALL], "rejected": [GREEN], "tools": json.dumps([TOOL])},
        (ASKED,),
        (CALL,),
        (GREEN,),
    ),
    "UltraFeedback": (
        {
            "prompt": ASKED["content"],
            "prompt_id": "ab12",
            "chosen": [ASKED, BLUE],
            "rejected": [ASKED, GREEN],
            "messages": [ASKED, BLUE],
            "score_chosen": 8.5,
            "score_rejected": 6.0,
        },
        (ASKED,),
        (BLUE,),
        (GREEN,),
    ),
    "Tulu, with the first question as prompt": (
        {"prompt": "Hi", "chosen": [*EARLIER, ASKED, BLUE], "rejected": [*EARLIER, ASKED, GREEN]},
        (*UNTRAINED, ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "with the last question as prompt": (
        {
            "prompt": ASKED["content"],
            "chosen": [*EARLIER, ASKED, BLUE],
            "rejected": [*EARLIER, ASKED, GREEN],
        },
        (*UNTRAINED, ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "with a system message that the prompt lacks": (
        {
            "prompt": ASKED["content"],
            "chosen": [system("Be brief."), ASKED, BLUE],
            "rejected": [system("Be brief."), ASKED, GREEN],
        },
        (system("Be brief."), ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "Intel": (
        {
            "system": "Be brief.",
            "question": ASKED["content"],
            "chosen": "It is blue.",
            "rejected": "It is green.",
        },
        (system("Be brief."), ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "Argilla": (
        {
            "instruction": ASKED["content"],
            "chosen_response": "It is blue.",
            "rejected_response": "It is green.",
            "chosen_avg_rating": 4.5,
        },
        (ASKED,),
        (BLUE,),
        (GREEN,),
    ),
    "LLaMA-Factory, alpaca": (
        {
            "instruction": "Answer.",
            "input": "What colour?",
            "chosen": "It is blue.",
            "rejected": "It is green.",
            "system": "Be brief.",
            "history": [["Hi", "Hello!"]],
        },
        (system("Be brief."), *UNTRAINED, user("Answer.\nWhat colour?")),
        (BLUE,),
        (GREEN,),
    ),
    "LLaMA-Factory, sharegpt": (
        {
            "conversations": [said("human", ASKED["content"])],
            "chosen": said("gpt", "It is blue."),
            "rejected": said("gpt", "It is green."),
            "system": "Be brief.",
        },
        (system("Be brief."), ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "OpenAI, Together, Fireworks, Azure": (
        {
            "input": {"messages": [ASKED], "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": [CALL, RESULT, BLUE],
            "non_preferred_output": [GREEN],
        },
        (ASKED,),
        (CALL, RESULT, BLUE),
        (GREEN,),
    ),
    "HH-RLHF": (
        {"chosen": f"{HH} It is blue.", "rejected": f"{HH} It is green."},
        (*UNTRAINED, ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "HH-RLHF, with a prompt": (
        {"prompt": HH, "chosen": " It is blue.", "rejected": " It is green."},
        (*UNTRAINED, ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "HH-RLHF, with a prompt and whole texts": (
        {"prompt": HH, "chosen": f"{HH} It is blue.", "rejected": f"{HH} It is green."},
        (*UNTRAINED, ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "axolotl, chat_template.default": (
        {"messages": [ASKED], "chosen": BLUE, "rejected": GREEN},
        (ASKED,),
        (BLUE,),
        (GREEN,),
    ),
    "axolotl, chat_template.argilla_chat": (
        {"chosen": [ASKED, BLUE], "rejected": [ASKED, GREEN]},
        (ASKED,),
        (BLUE,),
        (GREEN,),
    ),
    "axolotl, chatml.icr": (
        {
            "system": "Be brief.",
            "input": ASKED["content"],
            "chosen": "It is blue.",
            "rejected": "It is green.",
        },
        (system("Be brief."), ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "axolotl, chatml.ultra": (
        {
            "system": "Be brief.",
            "prompt": ASKED["content"],
            "chosen": [ASKED, BLUE],
            "rejected": [ASKED, GREEN],
        },
        (system("Be brief."), ASKED),
        (BLUE,),
        (GREEN,),
    ),
    "ms-swift": (
        {"messages": [ASKED, BLUE], "rejected_response": "It is green."},
        (ASKED,),
        (BLUE,),
        (GREEN,),
    ),
}


@pytest.mark.parametrize("layout", PAIRS)
def test_pairs_in_every_published_layout(layout):
    cells, prompt, chosen, rejected = PAIRS[layout]
    row = read(cells)
    assert (row.kind, row.messages, row.chosen, row.rejected) == ("preference", prompt, chosen, rejected)


@pytest.mark.parametrize(
    "layout", ["answers of several turns", "tools as text", "OpenAI, Together, Fireworks, Azure"]
)
def test_tools_are_read_beside_pairs(layout):
    assert read(PAIRS[layout][0]).tool_list() == [TOOL]


# For each layout: the cells, then messages and label as they are read.
JUDGED = {
    "TRL, a truth value": (
        {"prompt": "The sky is", "completion": " blue.", "label": True},
        (user("The sky is"), assistant(" blue.")),
        True,
    ),
    "TRL, a chat": (
        {"prompt": [*EARLIER, ASKED], "completion": [GREEN], "label": False},
        (*UNTRAINED, ASKED, GREEN),
        False,
    ),
    "a number": (
        {"prompt": "The sky is", "completion": " green.", "label": 0},
        (user("The sky is"), assistant(" green.")),
        False,
    ),
    "a word": (
        {"prompt": "The sky is", "completion": " green.", "label": "False"},
        (user("The sky is"), assistant(" green.")),
        False,
    ),
    "LLaMA-Factory, messages": (
        {"messages": [*EARLIER, ASKED, BLUE], "kto_tag": "true"},
        (*UNTRAINED, ASKED, BLUE),
        True,
    ),
    "LLaMA-Factory, alpaca": (
        {"instruction": "Answer.", "input": "What colour?", "output": "It is blue.", "kto_tag": True},
        (user("Answer.\nWhat colour?"), BLUE),
        True,
    ),
    "a call and its answer": (
        {"messages": [ASKED, CALL, RESULT, BLUE], "label": True},
        (ASKED, CALL, RESULT, BLUE),
        True,
    ),
    "a dialogue in one text": (
        {"prompt": HH, "completion": " It is green.", "label": 0},
        (*UNTRAINED, ASKED, GREEN),
        False,
    ),
}


@pytest.mark.parametrize("layout", JUDGED)
def test_judged_answers_in_every_published_layout(layout):
    cells, messages, label = JUDGED[layout]
    row = read(cells)
    assert (row.kind, row.messages, row.label) == ("judged", messages, label)


def test_a_dialogue_in_one_text_is_named_in_the_reason():
    record = Record("f:1", PAIRS["HH-RLHF"][0])
    assert "are read as turns" in detect([record]).reason
    assert "turns" not in detect([Record("f:1", PAIRS["Intel"][0])]).reason


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"chosen": "blue", "rejected": "green"}, "there is no prompt"),
        ({"chosen": "天空是蓝色的", "rejected": "天空是绿色的"}, "there is no prompt"),
        ({"chosen": [BLUE], "rejected": [GREEN]}, "there is no prompt"),
        ({"chosen": [ASKED, BLUE], "rejected": [user("Why?"), GREEN]}, "there is no prompt"),
        (
            {"chosen": [system("s"), ASKED, BLUE], "rejected": [system("s"), user("Why?"), GREEN]},
            "there is no prompt",
        ),
        ({"prompt": "q", "chosen": [ASKED], "rejected": [GREEN]}, "'chosen' holds no answer"),
    ],
)
def test_rows_without_a_shared_question_or_an_answer_are_refused(cells, reason):
    with pytest.raises(DataError, match=reason):
        read(cells)


def test_ranked_lists_are_refused_with_what_to_write():
    answers = [{"answer": "It is blue.", "rank": 1.0}, {"answer": "It is green.", "rank": 2.0}]
    with pytest.raises(DataError, match="lists of ranked answers in 'answers'") as caught:
        read({"prompt": HH, "answers": answers, "turns": 2, "num_responses": 2})
    assert "chosen (the better answer)" in caught.value.remedy


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "rest"),
    [
        ("It is blue", "It is brown", "It is", " blue"),  # not "It is b"
        ("The sky is", "The skyline is", "The", " sky is"),
        ("Q: why?\nBecause so.", "Q: why?\nNo.", "Q: why?\n", "Because so."),
        ("The sky is blue.", "The sky is blue.", "The sky is", " blue."),  # equal ones are another check's
        ("The sky is blue today.", "The sky is blue", "The sky is", " blue today."),
        ("The sky is ", "The sky is blue", "The sky", " is "),  # neither answer becomes empty
        ("Two  spaces here", "Two  spaces there", "Two  spaces", " here"),
    ],
)
def test_texts_are_split_between_words(chosen, rejected, prompt, rest):
    assert split_texts(chosen, rejected)[:2] == ((user(prompt),), (assistant(rest),))


@given(*[st.text(alphabet="ab \n.", min_size=1, max_size=20)] * 3)
def test_a_split_loses_nothing_and_leaves_no_answer_empty(shared, one, other):
    chosen, rejected = f"so {shared}{one}.", f"so {shared}{other}."
    prompt, left, right = split_texts(chosen, rejected)
    assert [f"{prompt[0]['content']}{side[0]['content']}" for side in (left, right)] == [chosen, rejected]
    assert left[0]["content"].strip()
    assert right[0]["content"].strip()


def test_replies_that_differ_in_a_result_keep_its_call():
    other = {**RESULT, "content": "green"}
    found = split_shared((ASKED, CALL, RESULT, BLUE), (ASKED, CALL, other, GREEN))
    assert found == ((ASKED,), (CALL, RESULT, BLUE), (CALL, other, GREEN))


def test_a_prompt_is_kept_beside_replies_that_do_not_repeat_it():
    whole, asked = (system("s"), ASKED), (ASKED,)
    assert split_given(whole, asked, (BLUE,), (GREEN,)) == (whole, (BLUE,), (GREEN,))
    other = (user("Why?"),)
    assert split_given(whole, asked, (*other, BLUE), (*other, GREEN)) == (
        whole,
        (*other, BLUE),
        (*other, GREEN),
    )
    assert split_given(whole, asked, (ASKED, BLUE), (GREEN,)) == (whole, (BLUE,), (GREEN,))


def test_dialogues_keep_their_words():
    assert dialogue("\n\nHuman:  two\n\n\n\nAssistant: a\nb ") == (user(" two\n\n"), assistant("a\nb "))
    assert dialogue("Human: q\n\nAssistant: a") == (user("q"), assistant("a"))


@pytest.mark.parametrize(
    "value", ["Human: only one", "A play.\n\nHuman: q\n\nAssistant: a", "Human: q Assistant: a", "", None, 3]
)
def test_other_texts_are_no_dialogue(value):
    assert dialogue(value) == ()


def test_the_cue_for_an_answer_is_left_out():
    assert without_cue(dialogue(HH)) == (*EARLIER, ASKED)
    assert without_cue((ASKED, BLUE)) == (ASKED, BLUE)
    assert after_cue((assistant(" It"), BLUE)) == (assistant("It"), BLUE)


def test_only_what_follows_the_last_question_is_judged():
    assert judged((*EARLIER, ASKED, CALL, RESULT, BLUE)) == (
        *UNTRAINED,
        ASKED,
        CALL,
        RESULT,
        BLUE,
    )
    with pytest.raises(DataError, match="without an answer"):
        judged((*EARLIER, ASKED))


def test_replies_need_an_answer():
    require_answers(("chosen",), ((RESULT, BLUE),))
    with pytest.raises(DataError, match="'rejected' holds no answer"):
        require_answers(("chosen", "rejected"), ((BLUE,), (RESULT,)))


@pytest.mark.parametrize(
    ("value", "columns", "better"),
    [
        ("model_a", ("response_a", "response_b"), 0),
        ("B", ("conversation_a", "conversation_b"), 1),
        ("response_b", ("response_a", "response_b"), 1),
        (0, ("answer_0", "answer_1"), 0),
        ("1", ("response_0", "response_1"), 1),
        (2, ("output_1", "output_2"), 1),
        ("Assistant B", ("response_a", "response_b"), 1),
    ],
)
def test_the_winner_is_the_end_of_a_columns_name(
    value: object, columns: tuple[str, str], better: int
) -> None:
    assert winner(value, columns, "winner") == better


@pytest.mark.parametrize(
    ("value", "told"),
    [("tie", "a tie"), ("tie (bothbad)", "a tie"), ("both", "a tie"), ("c", "write a or b"), (0, "write a or b"),
     (True, "write a or b"), (None, "write a or b"), ("", "write a or b")],
)  # fmt: skip
def test_a_tie_and_what_names_neither_answer_is_refused(value: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        winner(value, ("response_a", "response_b"), "winner")


@pytest.mark.parametrize(
    ("cells", "better", "worse"),
    [
        ({"prompt": "q", "response_a": "x", "response_b": "y", "winner": "model_b"}, "y", "x"),
        ({"prompt": "q", "answer_0": "x", "answer_1": "y", "label": 0}, "x", "y"),
        ({"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 1}, "y", "x"),
        ({"model_a": "m", "model_b": "n", "winner": "a", "conversation_a": [user("q"), assistant("x")],
          "conversation_b": [user("q"), assistant("y")]}, "x", "y"),
    ],
)  # fmt: skip
def test_two_answers_of_which_a_column_names_the_better(cells, better, worse):
    row = read(cells)
    assert [message["content"] for message in row.messages] == ["q"]
    assert (row.chosen[-1]["content"], row.rejected[-1]["content"]) == (better, worse)


def test_a_tie_is_refused_with_its_place():
    cells = {"prompt": "q", "response_a": "x", "response_b": "y", "winner": "a"}
    shape = detect([Record("f:1", cells)])
    with pytest.raises(DataError, match=r"f:2: the field 'winner' is 'tie', a tie"):
        to_row(Record("f:2", {**cells, "winner": "tie"}), shape)
