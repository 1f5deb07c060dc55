"""Mended copies: versions, lineage, the columns of the source, and no secret anywhere."""

import hashlib
import json

import pytest

from backend.data.copies import difference, notes
from backend.data.fixes import mend, write_copy
from backend.data.load import load_rows
from backend.data.sources import ReadOptions
from backend.data.splits import split_rows
from backend.errors import DataError
from tests.backend.data.containers import CONTAINERS
from tests.backend.data.rows import assistant, chat, pair, system, user

KEY = "ghp_" + "a1B2" * 9


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def copied(path, fixes, columns=None):
    """The folder of a mended copy, written as the command writes it."""
    loaded = load_rows(path, columns)
    out = path.parent / "mended"
    return write_copy(
        mend(loaded.rows, fixes), out, source=str(path), sha256=loaded.sha256, shape=loaded.shape
    )


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_copy_is_a_new_version_with_its_lineage(tmp_path):
    mended = mend([pair("cafÃ©", "x", "f:1"), pair("b", "", "f:2")], ["repair-text", "drop-empty"])
    first = write_copy(mended, tmp_path / "out", source="tr\udce9in.jsonl", sha256="abc")
    second = write_copy(mended, tmp_path / "out", source="train.jsonl", sha256="abc")
    assert (first.name, second.name) == ("v001", "v002")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["v001", "v002"]
    lineage = json.loads((first / "lineage.json").read_text(encoding="utf-8"))
    assert lineage == {
        "source": "tr\\udce9in.jsonl",
        "source_sha256": "abc",
        "version": 1,
        "rows": 1,
        "rows_sha256": hashlib.sha256((first / "rows.jsonl").read_bytes()).hexdigest(),
        "fixes": {"drop-empty": 1, "repair-text": 1},
        "left_out": 1,
        "columns": {"messages": "messages"},
        "notes": [],
    }
    changes = [
        json.loads(line) for line in (first / "changes.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert changes[0]["before"]["messages"][0]["content"] == "cafÃ©"
    assert changes[0]["after"]["messages"][0]["content"] == "café"
    assert changes[1]["after"] is None
    assert load_rows(first / "rows.jsonl").rows[0].messages == mended.rows[0].messages


def test_a_copy_is_not_written_over_a_file(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="is a file"):
        write_copy(mend([], []), tmp_path / "out", source="s", sha256="0")


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written") as caught:
        write_copy(mend([], []), tmp_path / "file" / "out", source="s", sha256="0")
    assert caught.value.code == "unwritable-file"


ROWS = [
    {"id": f"00{n}", "source": "wiki", "question": f"q {n}", "answer": text, "doc": f"d{n // 3}"}
    for n, text in enumerate(["one", "two", "cafÃ©", "four", "", "six"])
]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_copy_keeps_every_column_and_the_shape_of_its_source(tmp_path, container):
    rows = [{**row, "answer": row["answer"] or " "} for row in ROWS]
    folder = copied(CONTAINERS[container](rows, tmp_path / container), ["repair-text", "drop-empty"])
    wanted = [{**row, "answer": row["answer"].replace("Ã©", "é")} for row in rows if row["answer"].strip()]
    assert lines(folder / "rows.jsonl") == wanted
    assert notes(folder) == []


def test_a_copy_is_split_by_the_group_of_its_source(tmp_path):
    rows = [{"q": f"note {n}", "a": f"finding {n}", "patient": f"p{n // 10}"} for n in range(300)]
    columns = {"prompt": "q", "completion": "a", "group": "patient"}
    source = jsonl(tmp_path / "rows.jsonl", rows)
    loaded = load_rows(source, columns)
    mended = mend(loaded.rows, ["drop-duplicates"])
    whole = copied(source, ["drop-duplicates"], columns)
    plain = write_copy(mended, tmp_path / "plain", source=str(source), sha256=loaded.sha256)
    for folder in (whole, plain):
        train, validation = split_rows(load_rows(folder / "rows.jsonl").rows, 0.2, 1)
        assert {row.group for row in train}.isdisjoint(row.group for row in validation)
        assert len({row.group for row in (*train, *validation)}) == 30


def test_a_copy_that_was_changed_by_hand_is_read_as_any_other_file(tmp_path):
    folder = copied(
        jsonl(tmp_path / "rows.jsonl", ROWS), ["drop-empty"], {"prompt": "source", "completion": "doc"}
    )
    jsonl(folder / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    assert load_rows(folder / "rows.jsonl").rows[0].messages == (user("a"), assistant("b"))


def test_a_row_that_no_fix_changed_is_written_byte_for_byte(tmp_path):
    lines_given = [
        '{"question":"caf\\u00e9?",  "answer": "yes",\t"id": 1}',
        '{"question": "Ã©", "answer": "no"}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(["", *lines_given, "", lines_given[0].replace("yes", "no")]) + "\n", encoding="utf-8"
    )
    written = (copied(path, ["repair-text"]) / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert written[0] == lines_given[0]
    assert json.loads(written[1]) == {"question": "é", "answer": "no"}
    assert written[2] == lines_given[0].replace("yes", "no")


def test_a_copy_is_read_as_its_source_was_said_to_be(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("id|question|answer\n7|Küche?|ja\n8|Café?|\n".encode("cp1252"))
    loaded = load_rows(path, options=ReadOptions(encoding="cp1252", delimiter="|"))
    how = {"source": str(path), "sha256": loaded.sha256, "shape": loaded.shape, "options": loaded.options}
    folder = write_copy(mend(loaded.rows, ["drop-empty"]), tmp_path / "out", **how)
    assert lines(folder / "rows.jsonl") == [{"id": "7", "question": "Küche?", "answer": "ja"}]


def test_numbers_keep_their_spelling(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q", "answer": 1.10, "more": {"x": [1e5, -0, null]}}\n' * 2)
    folder = copied(path, ["drop-duplicates"])
    assert (folder / "rows.jsonl").read_text() == path.read_text().splitlines(keepends=True)[0]


CHATS = [
    {"messages": [user("a"), user("b"), assistant("c")], "id": 1},
    {"messages": [user("a"), assistant("b"), user("c"), assistant(" ")], "id": 2},
    {"messages": json.dumps([user("cafÃ©"), assistant("b")]), "id": 3},
]


@pytest.mark.parametrize("chat_row", CHATS, ids=["joined", "untrained", "messages as text"])
def test_messages_are_written_back_into_their_column(tmp_path, chat_row):
    folder = copied(jsonl(tmp_path / "rows.jsonl", [chat_row]), ["mend-turns", "drop-empty", "repair-text"])
    (written,) = lines(folder / "rows.jsonl")
    assert written["id"] == chat_row["id"]
    assert written["messages"] != chat_row["messages"]
    assert type(written["messages"]) is type(chat_row["messages"])


def test_parts_that_a_row_joins_are_mended_where_they_stand(tmp_path):
    row = {"instruction": "Say cafÃ©", "input": "to naÃ¯ve guests", "output": "ok", "id": "7"}
    folder = copied(jsonl(tmp_path / "rows.jsonl", [row]), ["repair-text"])
    assert lines(folder / "rows.jsonl") == [
        {"instruction": "Say café", "input": "to naïve guests", "output": "ok", "id": "7"}
    ]


def test_what_a_copy_cannot_keep_is_named(tmp_path):
    made = mend([chat(system("s"), user("q"), assistant("a"), place="rows.jsonl:1")], [])
    source = jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a", "id": "7", "messages": ""}])
    loaded = load_rows(source, {"prompt": "question", "completion": "answer"})
    folder = write_copy(made, tmp_path / "out", source=str(source), sha256="0", shape=loaded.shape)
    assert [{**each, "messages": None} for each in lines(folder / "rows.jsonl")] == [
        {"id": "7", "messages": None}
    ]
    assert notes(folder) == [
        "Written in the columns messages, not in those of the source.",
        "Left out, because JSON cannot hold them or their names are taken: messages.",
    ]


def test_a_redacted_secret_stands_nowhere_and_the_copy_is_for_its_owner_alone(tmp_path):
    rows = [
        {"question": "cafÃ©?", "answer": KEY, "note": "-"},
        {"question": "other?", "answer": "none", "note": f"see {KEY}"},
        {"question": "other?", "answer": "none", "note": "-"},
    ]
    folder = copied(
        jsonl(tmp_path / "rows.jsonl", rows), ["repair-text", "redact-secrets", "drop-duplicates"]
    )
    assert all(KEY not in path.read_text() for path in folder.iterdir())
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert notes(folder) == ["Secrets in columns that are not read were redacted too, in 1 row."]
    changes = lines(folder / "changes.jsonl")
    assert [each["before"] is None for each in changes] == [False, True, False]


def test_a_change_shows_no_secret():
    (change,) = mend([pair("cafÃ©", KEY)], ["repair-text"]).changes
    assert KEY not in json.dumps(difference(change))
