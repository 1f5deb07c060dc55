from backend.data.records import Row
from backend.data.texts import answer_text, answers, map_texts, prompt_text, texts
from tests.backend.data.rows import assistant, chat, pair, system, user

LONG = chat(
    system("s"), user("q1"), assistant("a1", trained=False), user("q2"), assistant("a2"), assistant("a3")
)


def test_the_prompt_is_what_comes_before_the_first_answer():
    assert prompt_text(LONG) == "s\nq1"
    assert prompt_text(Row("f", text="t")) == "t"
    assert prompt_text(Row("f", segments=(("q", False), ("a", True)))) == "q"


def test_answers_are_what_is_trained():
    assert answers(LONG) == ["a2", "a3"]
    assert answer_text(LONG) == "a2\na3"
    assert answers(Row("f", text="t")) == ["t"]
    assert answers(Row("f", segments=(("q", False), ("a", True)))) == ["a"]
    assert answers(chat(user("q"), chosen=(assistant("good"),), rejected=(assistant("bad"),))) == ["good"]
    assert answers(chat(user("q"))) == []


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
