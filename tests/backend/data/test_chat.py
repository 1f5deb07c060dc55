import pytest

from backend.data.chat import (
    bad_row,
    cell_text,
    is_conversation,
    json_text,
    read_json_cell,
    read_message,
    read_messages,
)
from backend.data.exact_json import decode
from backend.errors import DataError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        (decode("1.10"), "1.10"),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (1.5, "1.5"),
        ("", ""),
    ],
)
def test_cell_text_gives_the_text_as_spelled(value, text):
    assert cell_text(value, "f") == text
    assert type(cell_text(value, "f")) is str


@pytest.mark.parametrize(
    ("value", "what"), [(None, "is null"), ([1], "a list"), ({"a": 1}, "an object"), (b"x", "binary data")]
)
def test_cell_text_refuses_what_is_no_text(value, what):
    with pytest.raises(DataError, match=what) as caught:
        cell_text(value, "answer")
    assert "'answer'" in caught.value.message


@pytest.mark.parametrize(
    ("given", "role"),
    [
        ("human", "user"),
        ("gpt", "assistant"),
        ("developer", "system"),
        ("observation", "tool"),
        (" User ", "user"),
    ],
)
def test_roles_come_out_in_one_spelling(given, role):
    assert read_message({"from": given, "value": "x"}, "m") == {"role": role, "content": "x"}
    assert read_message({"role": given, "content": "x"}, "m") == {"role": role, "content": "x"}


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ({"content": "x"}, "has no role"),
        ("x", "must be an object"),
        ({"role": "user"}, r"m\.content' is null"),
        ({"role": "user", "content": None}, "is null"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "of type 'image_url'; only text",
        ),
        ({"role": "user", "content": [7]}, "must be a text or an object"),
        ({"role": "assistant", "content": "x", "weight": decode("0.5")}, "weight is 0.5; only 0 and 1"),
        ({"role": "assistant", "content": None, "tool_calls": "[1"}, "not JSON"),
        ({"role": "assistant", "content": None, "tool_calls": {"a": 1}}, "must be a list"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "must hold a function with a name"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(turn, what):
    with pytest.raises(DataError, match=what):
        read_message(turn, "m")


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": "a "}, "b", {"type": "text", "value": decode("1.10")}]
    assert read_message({"role": "user", "content": parts}, "m")["content"] == "a b1.10"


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
            "a tool call; write it among the tool_calls",
        ),
        ({"type": "tool_result", "tool_use_id": "t1", "content": "3"}, "message of the role tool"),
        (
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            "reasoning; write it as the reasoning_content",
        ),
        ({"type": "tool_call", "value": "{}"}, "a tool call; write it among the tool_calls"),
        ({"type": "reasoning", "value": "hm"}, "reasoning_content"),
        ({"toolUse": {"name": "f", "input": {}}}, "of type 'toolUse': a tool call"),
        ({"toolResult": {"content": []}}, "of type 'toolResult': the result of a tool"),
        ({"reasoningContent": {"reasoningText": {"text": "hm"}}}, "reasoning"),
        ({"type": "document", "source": {}}, "no plain text; write its words"),
        ({"image": {"format": "png"}}, "of type 'image'; only text can be trained"),
        ({"type": "input_audio", "input_audio": {}}, "images, audio and video cannot"),
    ],
)
def test_a_part_of_another_kind_is_named_for_what_it_is(part, told):
    with pytest.raises(DataError, match=told) as caught:
        read_message({"role": "assistant", "content": [{"type": "text", "text": "a"}, part]}, "m")
    assert "m.content[1]" in caught.value.message


def test_parts_of_text_without_a_type_are_text():
    assert read_message({"role": "user", "content": [{"text": "a"}, {"text": "b"}]}, "m")["content"] == "ab"


@pytest.mark.parametrize("key", ["text", "parts", "message"])
def test_a_message_whose_words_stand_under_another_key_is_told_which(key):
    with pytest.raises(DataError, match=f"m has no content, but '{key}'; call it content"):
        read_message({"role": "user", key: ["hello"]}, "m")


def test_parts_in_the_place_of_a_text_are_told_apart_from_lists():
    with pytest.raises(DataError, match="holds parts where a text belongs; write their words as one text"):
        cell_text([{"text": "Be brief."}], "system")


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ({"loss": False}, False),
        ({"loss": True}, True),
        ({"loss_mask": 0}, False),
        ({"loss_mask": 1.0}, True),
        ({"trainable": "False"}, False),
        ({"training": False}, False),
        ({"masked": True}, False),
        ({"masked": 0}, True),
        ({"weight": 0, "loss": False, "masked": True}, False),
        ({"weight": 1, "masked": False}, True),
        ({"loss": None}, True),
    ],
)
def test_flags_of_other_tools_say_what_is_trained(flags, trained):
    message = read_message({"role": "assistant", "content": "x", **flags}, "m")
    assert message.get("trained", True) is trained


@pytest.mark.parametrize("flags", [{"weight": 1, "loss": False}, {"weight": 0, "masked": False}])
def test_flags_that_contradict_each_other_are_refused(flags):
    with pytest.raises(
        DataError, match=f"m contradicts itself about being trained: {' and '.join(flags)} differ"
    ):
        read_message({"role": "assistant", "content": "x", **flags}, "m")


@pytest.mark.parametrize("value", [[1, 0], {"a": 1}, 0.25, "maybe"])
def test_a_flag_that_is_none_is_refused(value):
    with pytest.raises(DataError, match=r"m\.loss_mask"):
        read_message({"role": "assistant", "content": "x", "loss_mask": value}, "m")


@pytest.mark.parametrize("key", ["weight", "loss_weight", "train", "trained"])
def test_a_message_of_no_weight_is_not_trained(key):
    for spelling in ("0", "false", "0.0"):
        assert (
            read_message({"role": "assistant", "content": "x", key: decode(spelling)}, "m")["trained"]
            is False
        )
    assert "trained" not in read_message({"role": "assistant", "content": "x", key: decode("1")}, "m")


def test_tool_calls_keep_name_arguments_and_id():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1.10}'}}
    message = read_message({"role": "assistant", "content": None, "tool_calls": [call]}, "m")
    assert message == {"role": "assistant", "content": "", "tool_calls": [call]}
    answer = read_message({"role": "tool", "content": "3", "tool_call_id": "c1", "name": "f"}, "m")
    assert answer == {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "f"}


def test_older_spellings_of_tool_calls_are_read():
    expected = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    sharegpt = read_message({"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}, "m")
    assert (sharegpt["role"], sharegpt["content"], sharegpt["tool_calls"]) == ("assistant", "", expected)
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": {"x": 1}}}
    assert read_message(old, "m")["tool_calls"] == expected


@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_reasoning_is_kept(key):
    message = read_message({"role": "assistant", "content": "4", key: "2+2"}, "m")
    assert message[key] == "2+2"


@pytest.mark.parametrize(
    ("spelling", "role"), [("AI", "assistant"), ("GPT", "assistant"), ("ipython", "tool")]
)
def test_roles_have_many_names(spelling, role):
    assert read_message({"from": spelling, "value": "x"}, "m")["role"] == role


def test_messages_may_come_as_json_text():
    assert read_messages('[{"role": "user", "content": "x"}]', "m") == ({"role": "user", "content": "x"},)


@pytest.mark.parametrize(
    ("value", "what"), [([], "empty list"), ({}, "must be a list"), ("[{'role': 1}]", "not JSON")]
)
def test_what_is_no_conversation_is_refused(value, what):
    with pytest.raises(DataError, match=what):
        read_messages(value, "m")


def test_read_messages_numbers_the_turns():
    with pytest.raises(DataError, match=r"messages\[1\] has no role"):
        read_messages([{"role": "user", "content": "x"}, {"content": "y"}], "messages")


def test_structured_cells_are_parsed_once():
    assert read_json_cell("[1]", "f") == ["1"]
    assert read_json_cell([1], "f") == [1]
    assert json_text('[{"n": 1.5}]', "f") == '[{"n": 1.5}]'
    assert json_text(decode('[{"n": 1}]'), "f") == '[{"n": 1}]'
    assert json_text("", "f") is None
    assert json_text([], "f") is None


def test_is_conversation():
    assert is_conversation([{"role": "user"}, {"from": "gpt"}])
    assert not is_conversation([])
    assert not is_conversation(["x"])
    assert not is_conversation("x")


def test_bad_row_is_a_data_error_without_a_place():
    assert (bad_row("no").code, bad_row("no").message) == ("bad-row", "no")


def test_a_list_that_python_wrote_is_called_so():
    with pytest.raises(DataError, match=r"json\.dumps would do"):
        read_messages("[{'role': 'user', 'content': 'q'}]", "messages")
