import json

import pytest

from backend.data.exact_json import (
    MAX_DEPTH,
    ExactDecoder,
    MalformedJsonError,
    Spelled,
    decode,
    depth,
    find_surrogate,
    plain,
    surrogate_reason,
)


@pytest.mark.parametrize("number", ["1.10", "0e7", "-0", "1e400", "123456789012345678901234567890", "NaN"])
def test_numbers_keep_their_spelling(number):
    value = decode(f'{{"a": {number}}}')["a"]
    assert value == number
    assert isinstance(value, Spelled)


def test_texts_and_constants_are_what_they_are():
    assert decode(' {"a": "007", "b": true, "c": null, "d": ["x"]}\n') == {
        "a": "007",
        "b": True,
        "c": None,
        "d": ["x"],
    }
    assert not isinstance(decode('"007"'), Spelled)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1,}', "{'a': 1}", '{"a": 1} x', '{"a": "tab\there"}'])
def test_what_is_not_json_says_where(text):
    with pytest.raises(MalformedJsonError, match="at character"):
        decode(text)


def test_a_key_that_stands_twice_is_refused_at_any_depth():
    with pytest.raises(ValueError, match="the key 'b' stands twice"):
        decode('{"a": [{"b": 1, "b": 2}]}')


def test_a_decoder_forgets_the_faults_of_the_value_before():
    decoder = ExactDecoder()
    with pytest.raises(ValueError, match="twice"):
        decoder.decode('{"b": 1, "b": 2}')
    assert decoder.decode('{"b": 1}') == {"b": "1"}


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 10_000])
def test_nesting_beyond_the_limit_is_refused(levels):
    with pytest.raises(ValueError, match=f"deeper than {MAX_DEPTH}"):
        decode("[" * levels + "]" * levels)


def test_nesting_up_to_the_limit_is_read():
    assert depth(decode("[" * MAX_DEPTH + "]" * MAX_DEPTH)) == MAX_DEPTH


def test_many_brackets_are_not_deep():
    assert depth(decode(json.dumps([[{}] * 200]))) == 3


def test_half_a_character_is_refused_and_a_whole_one_read():
    with pytest.raises(ValueError, match=r"half a character \(\\ud83d\)"):
        decode('{"a": ["\\ud83d"]}')
    assert decode('"\\ud83d\\ude00"') == "😀"


def test_find_surrogate_looks_into_keys_and_values():
    assert find_surrogate({"\ud800": "x"}) is not None
    assert find_surrogate([{"a": ["\udfff"]}]) is not None
    assert find_surrogate({"a": [1, None, "é"]}) is None


def test_surrogate_reason_tells_a_wrong_encoding_from_half_a_character():
    assert "0xE9 at character 2" in surrogate_reason("a\udce9")
    assert "half a character" in surrogate_reason("\ud800")
    assert surrogate_reason("é€😀") is None
    assert surrogate_reason("abc") is None


def test_plain_turns_spelled_numbers_into_numbers_anywhere():
    assert plain(decode('{"a": [1, 2.5, "3"], "b": {"c": -1}}')) == {"a": [1, 2.5, "3"], "b": {"c": -1}}
