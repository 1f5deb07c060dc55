import json

import pytest

from backend.data.load import load_rows
from backend.data.padding import Padding, without_nulls, without_padding
from backend.data.records import Record
from tests.backend.data.containers import arrow_file, arrow_stream, parquet


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


ROWS = [
    {
        "messages": [
            {"role": "user", "content": "q", "tool_calls": []},
            {"role": "assistant", "content": "", "tool_calls": [call(name, **arguments)]},
        ],
        "tools": [
            tool("weather", city={"type": "string"}),
            tool("add", a={"type": "number"}, b={"type": "number"}),
        ],
    }
    for name, arguments in (("weather", {"city": "Rome"}), ("add", {"a": "1", "b": "2"}))
]


def jsonl(rows, path):
    """The rows as a file of lines that was written from an Arrow table."""
    table = parquet(rows, path.with_suffix(".pq"))
    import pyarrow.parquet as pq

    path.write_text("".join(json.dumps(row) + "\n" for row in pq.read_table(table).to_pylist()))
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(parquet, "t.parquet"), (arrow_file, "t.arrow"), (arrow_stream, "t.arrow"), (jsonl, "t.jsonl")],
)
def test_nulls_that_arrow_adds_reach_no_tool_and_no_call(tmp_path, write, name):
    loaded = load_rows(write(ROWS, tmp_path / name))
    assert [json.loads(row.tools) for row in loaded.rows] == [row["tools"] for row in ROWS]
    calls = [row.messages[-1]["tool_calls"] for row in loaded.rows]
    assert calls == [row["messages"][-1]["tool_calls"] for row in ROWS]
    assert "nulls left out of tools and calls in 2 rows, first at " in loaded.reason


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
@pytest.mark.parametrize("column", ["messages", "prompt", "completion", "chosen", "rejected"])
def test_calls_are_looked_at_in_every_part_that_holds_messages(column, key):
    given = {"name": "f", "arguments": {"a": None, "b": 1}}
    message = {"role": "assistant", "content": None, key: [given] if key == "tool_calls" else given}
    found = Padding()
    (record,) = without_padding([Record("f:1", {column: [message]})], {column: column}, found)
    clean = {"name": "f", "arguments": {"b": 1}}
    assert record.cells[column] == [{**message, key: [clean] if key == "tool_calls" else clean}]
    assert (found.rows, found.place) == (1, "f:1")


def test_what_holds_no_nulls_and_what_is_text_stays_the_same_object():
    cells = {
        "messages": [{"role": "user", "content": "q", "name": None}],
        "tools": '[{"a": null}]',
        "x": [None],
    }
    record = Record("f:1", cells)
    found = Padding()
    (same,) = without_padding([record], {"messages": "messages", "tools": "tools"}, found)
    assert same is record
    assert found.description == ""


def test_only_nulls_and_what_nulls_alone_made_are_taken_out():
    assert without_nulls({"a": None, "b": {"c": None}, "d": {}, "e": [None, {"f": None}], "g": 0}) == {
        "d": {},
        "e": [None, {}],
        "g": 0,
    }
