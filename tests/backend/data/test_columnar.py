import datetime
import decimal
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.data import archives, columnar
from backend.data.archives import Allowance
from backend.data.columnar import columnar_kind, damaged_columnar, read_columnar
from backend.data.records import Record, Rejected
from backend.errors import DataError
from tests.backend.data.containers import arrow_file, arrow_stream, parquet

ROWS = [{"text": "007", "number": 7}, {"text": None, "number": None}]


@pytest.mark.parametrize(
    ("write", "kind"), [(parquet, "parquet"), (arrow_file, "arrow"), (arrow_stream, "arrow-stream")]
)
def test_each_kind_is_known_and_read(tmp_path, write, kind):
    data = write(ROWS, tmp_path / "t").read_bytes()
    assert columnar_kind(data) == kind
    assert list(read_columnar(io.BytesIO(data), kind, "t")) == [
        Record("t:1", {"text": "007", "number": 7}),
        Record("t:2", {"text": None, "number": None}),
    ]


def test_other_bytes_are_of_no_kind():
    assert columnar_kind(b'{"a": 1}') is None


def test_typed_values_are_spelled_out(tmp_path):
    row = {
        "day": datetime.date(2020, 1, 2),
        "price": decimal.Decimal("1.10"),
        "list": [{"when": datetime.datetime(2020, 1, 2, 3, 4)}],  # as people store it
        "flag": True,
    }
    (record,) = read_columnar(io.BytesIO(parquet([row], tmp_path / "t").read_bytes()), "parquet", "t")
    assert record.cells == {
        "day": "2020-01-02",
        "price": "1.10",
        "list": [{"when": "2020-01-02T03:04:00"}],
        "flag": True,
    }


def test_places_count_on_over_batches(tmp_path):
    rows = [{"text": str(number)} for number in range(2500)]
    for write, kind in ((parquet, "parquet"), (arrow_file, "arrow")):
        found = list(read_columnar(io.BytesIO(write(rows, tmp_path / kind).read_bytes()), kind, "t"))
        assert [record.cells["text"] for record in found] == [row["text"] for row in rows]
        assert found[-1].place == "t:2500"


@pytest.mark.parametrize(
    ("write", "kind"), [(parquet, "parquet"), (arrow_file, "arrow"), (arrow_stream, "arrow-stream")]
)
def test_a_damaged_file_is_a_data_error(tmp_path, write, kind):
    data = write(ROWS, tmp_path / "t").read_bytes()
    with pytest.raises(DataError, match="t is damaged"):
        list(read_columnar(io.BytesIO(data[: len(data) // 2]), kind, "t"))


def test_a_column_that_stands_twice_is_an_error():
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    sink = io.BytesIO()
    pq.write_table(table, sink)
    with pytest.raises(DataError, match="'x' stands twice"):
        list(read_columnar(io.BytesIO(sink.getvalue()), "parquet", "t"))


def test_text_that_is_no_utf8_is_an_error():
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    )
    batch = pa.record_batch([bad], names=["text"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match="damaged"):
        list(read_columnar(io.BytesIO(sink.getvalue()), "arrow-stream", "t"))


def test_damaged_columnar_names_the_file():
    with pytest.raises(DataError, match="t is damaged: first"), damaged_columnar("t"):
        raise pa.ArrowInvalid("first\nsecond")


def test_texts_that_end_before_they_begin_are_damage():
    offsets = pa.array([0, 2, 1], pa.int32()).buffers()[1]
    texts = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"ab"))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("text", pa.string())])) as writer:
        writer.write_batch(pa.record_batch([texts], names=["text"]))
    with pytest.raises(DataError, match="damaged"):
        list(read_columnar(io.BytesIO(sink.getvalue()), "arrow-stream", "t"))


FAR = {
    "seconds": pa.array([10**12, 0], pa.timestamp("s")),
    "days": pa.array([10**8, 0], pa.int32()).cast(pa.date32()),
    "spans": pa.array([10**17, 0], pa.duration("s")),
    "nanoseconds": pa.array([1_700_000_000_000_000_001, 0], pa.timestamp("ns")),
    "zone": pa.array([1, 0], pa.timestamp("us", tz="Mars/Base")),
    "inside": pa.array([[10**12], [0]], pa.list_(pa.timestamp("s"))),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_values_that_python_has_no_date_for_are_shown_and_harm_no_row(name, kind):
    table, sink = pa.table({"prompt": ["a", "b"], "far": FAR[name]}), io.BytesIO()
    {"parquet": pq.write_table, "arrow": _write_arrow}[kind](table, sink)
    first, second = read_columnar(io.BytesIO(sink.getvalue()), kind, "t")
    assert (first.cells["prompt"], second.cells["prompt"]) == ("a", "b")
    assert first.cells["far"] != second.cells["far"]


def _write_arrow(table, sink):
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("write", "kind"), [(parquet, "parquet"), (arrow_file, "arrow"), (arrow_stream, "arrow-stream")]
)
@pytest.mark.parametrize("cell", ["x" * 101, "ü" * 101, ["x" * 60, "y" * 60], {"a": "x" * 101}])
def test_a_row_over_the_limit_is_rejected_and_the_others_stay(tmp_path, write, kind, cell, monkeypatch):
    monkeypatch.setattr(columnar, "ROW_BYTES", 10)
    short = {str: "ü" * 40, list: ["z"], dict: {"a": "z"}}[type(cell)]
    data = write([{"a": short}, {"a": cell}, {"a": short}], tmp_path / "t").read_bytes()
    first, long, last = read_columnar(io.BytesIO(data), kind, "t", 100)
    assert long == Rejected("t:2", "the row has more than 100 characters")
    assert (first, last) == (Record("t:1", {"a": short}), Record("t:3", {"a": short}))


def test_a_small_file_that_swells_beyond_all_proportion_is_stopped(monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)
    one = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), pa.array(["x" * 10_000]))
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": one}), sink, compression="zstd")
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes") as caught:
        list(
            read_columnar(
                io.BytesIO(sink.getvalue()), "parquet", "t", allowance=Allowance(len(sink.getvalue()))
            )
        )
    assert caught.value.code == "archive-too-large"


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_columns_with_long_texts_that_repeat_are_read_whole(size):
    rows = [{"a": f"{number % 2}" * size, "b": str(number), "c": None} for number in range(6)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in "abc"])), sink)
    assert [dict(each.cells) for each in read_columnar(io.BytesIO(sink.getvalue()), "parquet", "t")] == rows
