from backend.data.records import Row
from backend.data.texts import (
    answer_text,
    answers,
    last_reply,
    map_texts,
    prompt_messages,
    prompt_text,
    question_text,
    texts,
    wanted,
)
from tests.backend.data.rows import assistant, chat, pair, system, user

LONG = chat(
    system("s"), user("q1"), assistant("a1", trained=False), user("q2"), assistant("a2"), assistant("a3")
)


CALL = {
    "id": "c7",
    "type": "function",
    "function": {"name": "add", "arguments": {"x": "one", "y": [2, "two"]}},
}


def test_the_prompt_is_what_comes_before_the_last_trained_answer():
    assert prompt_text(LONG) == "s\nq1\na1\nq2\na2"
    assert prompt_messages(chat(user("q"), assistant("a"), user("left over"))) == (user("q"),)
    assert prompt_messages(chat(user("q"), assistant("a"), assistant("b", trained=False))) == (user("q"),)
    assert prompt_messages(chat(user("q"), assistant("a", trained=False))) == (user("q"),)
    assert prompt_messages(chat(user("p"), assistant("a"), user("q"), chosen=(assistant("c"),)))[-1] == user(
        "q"
    )
    assert prompt_text(Row("f", text="t")) == "t"
    assert prompt_text(Row("f", segments=(("q", False), ("a", True)))) == "q"


def test_answers_are_what_is_trained():
    assert answers(LONG) == ["a2", "a3"]
    assert answer_text(LONG) == "a2\na3"
    assert answers(Row("f", text="t")) == ["t"]
    assert answers(Row("f", segments=(("q", False), ("a", True)))) == ["a"]
    assert answers(chat(user("q"), chosen=(assistant("good"),), rejected=(assistant("bad"),))) == ["good"]
    assert answers(chat(user("q"))) == []


def test_calls_belong_to_what_is_said():
    row = chat(user("q"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "3"}, assistant("a"))
    called = '[{"arguments": {"x": "one", "y": [2, "two"]}, "name": "add"}]'
    assert prompt_text(row) == f"q\n{called}\n3"
    assert answer_text(row) == f"{called}\na"
    assert last_reply(row) == "a"
    assert last_reply(chat(user("q"), assistant("so", tool_calls=[CALL]))) == f"so\n{called}"


def test_a_question_has_its_tools_and_a_row_that_asks_nothing_is_its_own():
    assert question_text(chat(user("q"), assistant("a"), tools="[1]")) == "q\n[1]"
    assert question_text(pair(" ", "a")) == "a"
    assert question_text(Row("f", input_ids=(5, 6, 7), labels=(-100, -100, 7))) == "5 6"
    assert question_text(Row("f", input_ids=(5, 6), labels=(5, 6))) == "5 6"


def test_reasoning_and_arguments_are_texts():
    row = chat(user("q"), assistant("a", reasoning_content="r", thinking="t", tool_calls=[CALL]))
    assert list(texts(row)) == ["q", "a", "r", "t", "one", "two"]
    mapped = map_texts(row, str.upper)
    assert list(texts(mapped)) == ["Q", "A", "R", "T", "ONE", "TWO"]
    assert mapped.messages[1]["tool_calls"][0]["function"]["arguments"] == {"x": "ONE", "y": [2, "TWO"]}
    assert mapped.messages[1]["tool_calls"][0]["id"] == "c7"


def test_texts_are_all_of_them():
    row = chat(user("q"), chosen=(assistant("c"),), rejected=(assistant("r"),))
    assert list(texts(row)) == ["q", "c", "r"]
    assert list(texts(Row("f", text="t", segments=(("s", True),)))) == ["t", "s"]


def test_map_texts_changes_every_text_or_gives_the_row_back():
    row = chat(user("q"), chosen=(assistant("c"),), rejected=(assistant("r"),))
    assert list(texts(map_texts(row, str.upper))) == ["Q", "C", "R"]
    assert map_texts(row, str.lower) is row
    assert map_texts(Row("f", segments=(("s", True),)), str.upper).segments == (("S", True),)
    assert map_texts(pair("q", "a"), str.upper).messages == (user("Q"), assistant("A"))


def test_bad_answers_are_not_wanted():
    row = chat(user("q"), chosen=(assistant("c"),), rejected=(assistant("r"),))
    assert list(texts(wanted(row))) == ["q", "c"]
    assert list(texts(wanted(chat(user("q"), assistant("a"), label=False)))) == ["q"]
    assert wanted(chat(user("q"), assistant("a"), label=True)).messages == (user("q"), assistant("a"))
    assert answers(chat(user("q"), assistant("a"), label=False)) == []
