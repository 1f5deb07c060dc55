"""The law of fixes, over shapes and containers: what no check named is in the copy as it was, cell for cell."""

import json
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from backend.data.checks import ALL, Scan
from backend.data.doctor import run_checks
from backend.data.fixes import FIXES, mend, write_copy
from backend.data.load import load_rows
from tests.backend.data.containers import CONTAINERS, scratch

FAULTY = [
    *("", " ", "\u200b", "cafÃ©", "Smith &amp; Sons", "ghp_" + "a1B2" * 9, "Good", "good ", "good", "Good\n"),
    *(
        "if a:\n    b",
        "if a:\nb",
        "https://a.example/?b=1&copy=2&amp;c",
        "int x = a&amp;b;",
        "`cafÃ©`",
        "AT&T",
    ),
    "A long answer of more than eighty characters that two rows may share, or nearly so, in their words.",
]
texts = st.one_of(st.sampled_from(FAULTY), st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
asked = st.one_of(st.sampled_from(["q", "Q", "Hi"]), texts)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": texts},
        optional={"weight": st.sampled_from([0, 1]), "reasoning_content": texts},
    ),
    min_size=1,
    max_size=4,
)
SHAPES = {
    "prompt/completion": {"question": asked, "answer": texts},
    "alpaca": {"instruction": asked, "input": texts, "output": texts},
    "messages": {"messages": turns},
    "preference": {"prompt": asked, "chosen": texts, "rejected": texts},
    "text": {"text": texts},
    "unpaired preference": {
        "prompt": asked,
        "completion": texts,
        "label": st.sampled_from(["true", "false"]),
    },
    "segments": {
        "segments": st.lists(
            st.fixed_dictionaries({"label": st.just("true"), "text": texts}), min_size=1, max_size=2
        )
    },
}
COLUMNS = {
    "prompt/completion": {"prompt": "question", "completion": "answer"},
    "alpaca": {"instruction": "instruction", "input": "input", "output": "output"},
    "messages": {"messages": "messages"},
    "preference": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "text": {"text": "text"},
    "unpaired preference": {"prompt": "prompt", "completion": "completion", "label": "label"},
    "segments": {"segments": "segments"},
}
FLAT = ("rows.csv", "semicolons.csv", "rows.parquet")


def named(rows, validation):
    """The places of the rows that each check names, by the fix that it offers."""
    scan = Scan(rows, validation)
    found = {}
    for check in (check for check in ALL if check.fix and check.needs in (None, "validation")):
        places = found.setdefault(check.fix, set())
        places |= {row.place for row in rows if check.by_row and check.by_row(row)}
        places |= {each.place for each in check.over_all(scan)} if check.over_all else set()
    return found


def as_text(cell):
    return cell if isinstance(cell, str) else json.dumps(cell)


def records(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text("utf-8").split("\n") if line]


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=12, deadline=None, phases=(Phase.generate,))
@given(data=st.data())
def test_what_no_check_named_stays_as_it_was(shape, data):
    container = data.draw(st.sampled_from([*FLAT, "rows.jsonl", "rows.zip", "folder", "wrapped.json"]))
    drawn = data.draw(st.lists(st.fixed_dictionaries(SHAPES[shape]), min_size=1, max_size=8))
    rows = [{"id": f"0{number}", **row} for number, row in enumerate(drawn)]
    if_flat = as_text if container in FLAT else lambda cell: cell
    rows = [{name: if_flat(cell) for name, cell in row.items()} for row in rows]
    with scratch() as folder:
        path = CONTAINERS[container](rows, Path(folder) / container)
        loaded = load_rows(path, COLUMNS[shape], max_rejected_share=1.0)
        validation = loaded.rows[::3]
        findings, _ = run_checks(Scan(loaded.rows, validation))
        default = [each.fix for each in findings if each.fix and each.fix_is_chosen]
        fixes = data.draw(st.sampled_from([default, list(FIXES)]))
        mended = mend(loaded.rows, fixes, validation)
        how = {"source": str(path), "sha256": loaded.sha256, "shape": loaded.shape}
        whole = records(write_copy(mend(loaded.rows, []), Path(folder) / "whole", **how))
        copy = records(write_copy(mended, Path(folder) / "mended", **how))
    assert all(row in rows for row in whole)
    of_fixes = named(loaded.rows, validation)
    touched = set().union(*(of_fixes.get(fix, set()) for fix in fixes))
    assert {change.place for change in mended.changes} <= touched
    kept = {row["id"]: row for row in copy}
    sound = [record for row, record in zip(loaded.rows, whole, strict=True) if row.place not in touched]
    assert [kept.get(record["id"]) for record in sound] == sound
