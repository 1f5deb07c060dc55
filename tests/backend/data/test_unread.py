import json

import pytest

from backend.data.chat import MESSAGE_KEYS
from backend.data.load import load_rows
from backend.data.unread import HARMLESS, UnreadKey
from backend.errors import DataError

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weigth": 1}]


def load(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(path)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS},
        {"messages": json.dumps(TURNS)},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{"role": "assistant", "content": "B"}]},
        {"input": {"messages": TURNS}, "preferred_output": TURNS[1:], "non_preferred_output": TURNS[1:]},
    ],
)
def test_a_key_that_nobody_reads_is_counted_wherever_messages_stand(tmp_path, row):
    sound = json.loads(json.dumps(row).replace("weigth", "weight"))
    loaded = load(tmp_path, sound, row, row)
    assert loaded.unread == (UnreadKey("weigth", 2, "rows.jsonl:2", is_flag=True),)
    assert "not read in messages: weigth (2 rows)" in loaded.reason
    (warning,) = loaded.warnings
    assert "'weigth' in 2 rows, first at rows.jsonl:2 (did you mean 'weight'?)" in warning


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ((True, False), True),
        ((0, 1), True),
        ((0.0, 1.0), True),
        (("true", "False"), True),
        ((1, 2), False),
        ((False, "maybe"), False),
        ((True, [1]), False),
    ],
)
def test_a_key_is_a_flag_where_all_that_stands_under_it_says_yes_or_no(tmp_path, values, flag):
    rows = [{"messages": [TURNS[0], {"role": "assistant", "content": "A", "learned": v}]} for v in values]
    (key,) = load(tmp_path, *rows).unread
    assert (key.key, key.rows, key.is_flag) == ("learned", 2, flag)


def test_empty_and_known_keys_are_not_named(tmp_path):
    turn = {"role": "user", "content": "Q", "refusal": None, "reasoning": "", "parts": []}
    said = {"role": "assistant", "content": "A", "name": "Jo", "weight": 1, "reasoning_content": "Why"}
    assert load(tmp_path, {"messages": [turn, said]}).unread == ()


def test_what_is_kept_beside_messages_is_told_once_and_quietly(tmp_path):
    loaded = load(
        tmp_path, {"messages": [{**each, "id": 7} for each in [TURNS[0], {**TURNS[1], "weigth": 0.0}]]}
    )
    assert [each.key for each in loaded.unread] == ["id", "weigth"]
    assert [each.harmless for each in loaded.unread] == [True, False]
    assert len(loaded.warnings) == 1
    assert not HARMLESS & MESSAGE_KEYS


def test_not_more_keys_than_can_be_read(tmp_path):
    turn = {"role": "user", "content": "Q", **{f"k{number}": 1 for number in range(99)}}
    assert len(load(tmp_path, {"messages": [turn, TURNS[1]]}).unread) == 50


def test_pictures_in_a_message_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"messages\[0\].images' is filled"):
        load(tmp_path, {"messages": [{**TURNS[0], "images": ["a.png"]}, TURNS[1]]})


def test_a_broken_cell_is_refused_as_before(tmp_path):
    with pytest.raises(DataError, match="not JSON"):
        load(tmp_path, {"messages": "[{"})


@pytest.mark.parametrize("values", [("good", "bad"), (5, 1), ({"thumbs": "up"}, {"thumbs": "down"})])
def test_a_rating_of_a_message_may_say_what_is_trained(tmp_path, values):
    rows = [{"messages": [TURNS[0], {"role": "assistant", "content": "A", "rating": v}]} for v in values]
    (key,) = load(tmp_path, *rows).unread
    assert (key.key, key.rows, key.is_flag) == ("rating", 2, True)


def test_how_a_log_marks_its_messages_says_nothing_of_training(tmp_path):
    said = {"role": "assistant", "content": "A", "toxic": False, "redacted": False}
    assert all(key.harmless for key in load(tmp_path, {"messages": [TURNS[0], said]}).unread)
