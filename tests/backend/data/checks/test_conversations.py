import json

import pytest

from backend.data.checks.conversations import role_order, tool_calls
from backend.data.records import Row
from tests.backend.data.rows import assistant, chat, system, user

TOOLS = json.dumps([{"type": "function", "function": {"name": "weather"}}])


def called(arguments="{}", name="weather", identity="1"):
    return assistant("", tool_calls=[{"id": identity, "function": {"name": name, "arguments": arguments}}])


def answered(identity="1"):
    return {"role": "tool", "content": "sunny", "tool_call_id": identity}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (chat(user("a"), assistant("b")), None),
        (chat(system("s"), user("a"), assistant("b")), None),
        (Row("f:1", text="plain"), None),
        (chat(assistant("b"), user("a"), assistant("c")), "begins with the assistant"),
        (chat(user("a"), user("b"), assistant("c")), "two user messages"),
        (chat(user("a")), "ends with the user"),
        (chat(user("a"), system("s"), assistant("b")), "number 2 instead of first"),
        (chat(system("s")), "nothing but a system message"),
    ],
)
def test_role_order(row, problem):
    assert (role_order(row) is None) == (problem is None)
    assert (problem or "") in (role_order(row) or "")


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_the_order_of_roles_counts_in_both_replies(side):
    replies = {"chosen": (assistant("b"),), "rejected": (assistant("c"),)}
    assert role_order(chat(user("a"), **replies)) is None
    assert "two user messages" in role_order(
        chat(user("a"), **{**replies, side: (user("x"), assistant("b"))})
    )
    assert role_order(chat(**replies)) is None  # named by another check


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ((user("a"), called(), answered(), assistant("b")), None),
        ((user("a"), called("{half"), answered()), "not JSON"),
        ((user("a"), called(name="stocks"), answered()), "'stocks' is not among"),
        ((user("a"), called(), answered("2")), "which was never made"),
        ((user("a"), {"role": "tool", "content": "sunny"}), "never called"),
    ],
)
def test_tool_calls(messages, problem):
    found = tool_calls(chat(*messages, tools=TOOLS))
    assert (found is None) == (problem is None)
    assert (problem or "") in (found or "")


def test_calls_of_answers_count_unless_they_are_the_bad_ones():
    bad = called("{half")
    assert "not JSON" in tool_calls(chat(user("a"), chosen=(bad,), rejected=(assistant("b"),), tools=TOOLS))
    assert tool_calls(chat(user("a"), chosen=(assistant("b"),), rejected=(bad,), tools=TOOLS)) is None
    assert tool_calls(chat(user("a"), bad, label=False, tools=TOOLS)) is None
