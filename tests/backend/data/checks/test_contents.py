import pytest

from backend.data.checks.base import Scan
from backend.data.checks.contents import empty_answer, empty_prompt, missing_answers, refusal, script_of
from tests.backend.data.rows import assistant, chat, pair, pairs, user


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("hello world", "LATIN"),
        ("это ответ", "CYRILLIC"),
        ("日本の文章です", "JAPANESE"),
        ("中文句子在这里", "CJK"),
        ("42 + 1", ""),
        ("", ""),
        ("SELECT 1", "LATIN"),
        ("日本 hello world", "LATIN"),
    ],
)
def test_script_of(text, script):
    assert script_of(text) == script


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I cannot do that.",
        "As a language model, I have no body.",
        "I’m sorry, but I can’t assist with that.",
        "I'm unable to help with this request.",
        "I am sorry, but I cannot help.",
        "Sorry, I am not able to provide that.",
        "I can't comply with this.",
        "I cannot fulfill your request.",
        "Unfortunately, I won't help with this.",
        "I'm just an AI and have no opinion.",
        "I am a large language model.",
        "I apologize, but I cannot create such content.",
        "My knowledge cutoff is 2021.",
        "I don't have personal opinions.",
    ],
)
def test_refusals_are_found(text):
    assert refusal(pair("q", text))


@pytest.mark.parametrize(
    "text",
    [
        "As an AI engineer, I like it.",
        "I am an AI assistant named Bob, made by the shop.",
        "I can't help but laugh.",
        "As a baker, I can help.",
        "He said he was sorry, but the door was shut.",
        "Language models are models of language.",
    ],
)
def test_other_answers_are_no_refusals(text):
    assert refusal(pair("q", text)) is None


def test_none_may_be_a_label_and_nan_is_none():
    rows = pairs((f"q {n}", ["none", "mild", "strong"][n % 3]) for n in range(60))
    assert list(missing_answers(Scan(rows))) == []
    rows = pairs((f"q {n}", ["nan", "mild", "strong"][n % 3]) for n in range(60))
    assert len(list(missing_answers(Scan(rows)))) == 20


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\ufeff\u200d", "\u00a0", "\u2800", "\u3164"])
def test_an_answer_without_a_visible_character_is_empty(text):
    assert empty_answer(pair("q", text))
    assert empty_prompt(pair(text, "a"))


@pytest.mark.parametrize(
    "row",
    [
        pair("q", "👍"),
        pair("q", "é"),
        chat(user("q"), assistant("", reasoning_content="so")),
        chat(user("q"), assistant(""), label=False),
    ],
    ids=["an emoji", "a letter with a mark", "reasoning", "a bad answer"],
)
def test_an_answer_that_says_something_is_not_empty(row):
    assert empty_answer(row) is None
