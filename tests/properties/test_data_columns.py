"""The law of columns, over shapes, names and containers: every column is used, named or refused."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data.doctor import examine
from backend.data.families import FAMILIES, PARTS
from backend.data.load import load_rows
from backend.data.records import Row
from backend.errors import DataError
from tests.backend.data.containers import arrow_file, parquet

ROWS = 6
CONTAINERS = ("rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.arrow")
PART_NAMES = sorted({name for family in FAMILIES for names in family.required.values() for name in names})
BESIDE = sorted({name for family in FAMILIES for names in family.optional.values() for name in names})
OTHERS = (
    "note",
    "remark",
    "id",
    "source",
    "score",
    "kind",
    "rationale",
    "Antwort",
    "rejected_by",
    "option_a",
)
NUMBERS = ("input_ids", "labels")


def cell(name, number):
    """A cell with words that stand nowhere else, in the form that its name asks for."""
    word = f"{name} says thing {'abcdefgh'[number]} here"
    if name.lower() in ("messages", "conversations", "conversation", "turns"):
        return [{"role": "user", "content": f"ask {word}"}, {"role": "assistant", "content": word}]
    if name == "history":
        return [[f"ask {word}", word]]
    if name in ("choices", "options"):
        return [word, f"not {word}"]
    if name in ("tools", "functions"):
        return [{"name": "f", "description": word}]
    if name == "segments":
        return [{"text": word, "label": True}]
    by_name = {"winner": "ab"[number % 2]} | {key: [1, 2, number] for key in NUMBERS}
    return by_name.get(name, word)


def write(rows, folder, name):
    path = Path(folder) / name
    if path.suffix == ".parquet":
        return parquet(rows, path)
    if path.suffix == ".arrow":
        return arrow_file(rows, path)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, rows[0])
            table.writeheader()
            table.writerows(
                {key: each if isinstance(each, str) else json.dumps(each) for key, each in row.items()}
                for row in rows
            )
    return path


def holds(row: Row, name: str) -> bool:
    """Whether the words of a column stand in a row."""
    return f"{name} says thing" in json.dumps([str(row), row.tools]) or (
        name in NUMBERS and bool(row.input_ids)
    )


def unsaid(rows: list[dict[str, Any]], columns: list[str], container: str) -> list[str]:
    """The columns whose words are in no row and that nobody names; none where the rows are refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            loaded = load_rows(write(rows, folder, container))
        except DataError:
            return []
        report = examine(loaded, container)
    found = {column.name for column in loaded.unused}
    named = loaded.reason.partition("; not used: ")[2]
    silent = [name for name in columns if not all(holds(row, name) for row in loaded.rows)]
    may_be_short = {"id", "source", "labels"} | set(
        columns if loaded.shape.name in {"tokens", "segments"} else ()
    )
    slugs = {finding.check for finding in report.findings}
    told = bool(found) == bool(slugs & {"unused-columns", "unused-ratings", "unused-scores", "unused-marks"})
    return [name for name in silent if name not in named or name not in found | may_be_short] + [
        "finding"
    ] * (not told)


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.sampled_from(PART_NAMES), min_size=1, max_size=3, unique=True),
    beside=st.lists(st.sampled_from([*BESIDE, *OTHERS]), max_size=3, unique=True),
    container=st.sampled_from(CONTAINERS),
)
def test_every_column_is_used_named_or_refused(names, beside, container):
    columns = list(dict.fromkeys([*names, *beside]))
    rows = [{name: cell(name, number) for name in columns} for number in range(ROWS)]
    assert unsaid(rows, columns, container) == []


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("shape", sorted(PARTS))
def test_every_part_of_every_shape_is_used_in_every_container(tmp_path, shape, container):
    parts = [*PARTS[shape].required, *PARTS[shape].optional]
    rows = [{name: cell(name, number) for name in parts} | {"group": "g"} for number in range(ROWS)]
    marked = [row | ({"label": "good"} if "label" in parts else {}) for row in rows]
    loaded = load_rows(write(marked, tmp_path, container), {part: part for part in parts})
    for name in set(parts) - {"label", "labels", "winner"}:
        assert all(holds(row, name) for row in loaded.rows), (name, loaded.rows[0])
