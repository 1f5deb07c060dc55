import json

import pytest

from backend.data.checks.base import Scan
from backend.data.checks.conversations import (
    equal_pair,
    length_bias,
    one_sided,
    preference_prompt,
    role_order,
    tool_calls,
)
from backend.data.records import Row
from tests.backend.data.rows import assistant, chat, system, user

TOOLS = json.dumps([{"type": "function", "function": {"name": "weather"}}])


def called(arguments="{}", name="weather", identity="1"):
    return assistant("", tool_calls=[{"id": identity, "function": {"name": name, "arguments": arguments}}])


def answered(identity="1"):
    return {"role": "tool", "content": "sunny", "tool_call_id": identity}


def preferred(chosen, rejected, prompt="why?"):
    return chat(user(prompt), chosen=(assistant(chosen),), rejected=(assistant(rejected),))


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


def test_equal_pairs_are_named():
    assert "both 'yes'" in equal_pair(preferred("yes ", "yes"))
    assert equal_pair(preferred("yes", "no")) is None


def test_a_preference_needs_a_prompt():
    assert preference_prompt(preferred("yes", "no", prompt=" ")) is not None
    assert preference_prompt(preferred("yes", "no")) is None


def test_length_bias_needs_twenty_rows_of_one_mind():
    longer = [preferred("a longer reply", "short") for _ in range(20)]
    assert len(list(length_bias(Scan(longer)))) == 1
    assert list(length_bias(Scan(longer[:19]))) == []
    assert list(length_bias(Scan(longer[:10] + [preferred("a", "longer") for _ in range(10)]))) == []


def test_one_sided_ratings():
    rows = [chat(user("a"), assistant("b"), label=True) for _ in range(11)]
    assert "11 of 11" in next(iter(one_sided(Scan(rows)))).detail
    mixed = rows[:5] + [chat(user("a"), assistant("b"), label=False) for _ in range(5)]
    assert list(one_sided(Scan(mixed))) == []
    assert list(one_sided(Scan([chat(user("a"), assistant("b"))]))) == []


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
