import pytest

from backend.data.column_words import (
    is_judgement,
    is_praise,
    is_sentence,
    is_verdict,
    is_worded,
    lowered,
    may_name_rating,
    names_mark,
    names_metadata,
    names_metadata_object,
    names_rating,
    names_split,
    names_worse,
)


@pytest.mark.parametrize(
    ("test", "names", "others"),
    [
        (
            names_rating,
            ["Rating", " quality_score ", "thumbs_up", "reward"],
            ["language_score", "underrated", ""],
        ),
        (may_name_rating, ["verdict", "is_valid", "Bewertung", "评分"], ["rating", "invalidated", ""]),
        (names_worse, ["rejected", "Rejected_Response"], ["chosen", "incorrect", ""]),
        (names_split, ["Split", "fold"], ["splits", "train", ""]),
        (names_mark, ["exclude", "is_train", "weight", "masked"], ["include_all", "label", ""]),
        (
            names_metadata,
            ["prompt_id", "data_source", "model_name", "created_at"],
            ["id_card", "first_name", ""],
        ),
        (names_metadata_object, ["Meta", "extra_info"], ["metadata_v2", "row", ""]),
    ],
)
def test_names_are_known_by_their_words(test, names, others):
    assert [test(name) for name in names] == [True] * len(names)
    assert [test(name) for name in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("test", "texts", "others"),
    [
        (is_verdict, ["Good", "desirable", "好"], ["yes", "-1", "t", "a good one", ""]),
        (is_judgement, ["good", "yes", "-0.5", "80%", "HIGH"], ["a good one", "1.2.3", ""]),
        (is_praise, ["Excellent", "1", "yes"], ["low", "0", ""]),
        (is_sentence, ["Rye bread is dark", "明天会下雨"], ["rye bread", "3 of 12 on 2024", ""]),
        (is_worded, ["rye bread", "bread7"], ["a1b2c3", "data/bread.txt", "2024-01-02", ""]),
    ],
)
def test_texts_are_told_apart(test, texts, others):
    assert [test(text) for text in texts] == [True] * len(texts)
    assert [test(text) for text in others] == [False] * len(others)


def test_names_are_compared_in_lower_case_without_spaces_around():
    assert lowered(" Prompt ID ") == "prompt id"
    assert lowered("") == ""
