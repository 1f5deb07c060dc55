import hashlib
import json
import os
import tarfile

import pytest

from backend.data import load, store
from backend.data.formats import Shape
from backend.data.load import convert, file_sha256, fingerprint, load_rows, write_quarantine
from backend.data.locate import locate
from backend.data.records import Record, Rejected
from backend.errors import DataError
from tests.backend.data.containers import CONTAINERS

PAIRS = [{"prompt": f"p{number}", "completion": f"c{number}"} for number in range(20)]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_load_rows_reads_every_row_with_place_shape_and_fingerprint(tmp_path):
    file = write_lines(tmp_path / "train.jsonl", PAIRS)
    loaded = load_rows(file)
    assert [row.messages[1]["content"] for row in loaded.rows] == [row["completion"] for row in PAIRS]
    assert [row.place for row in loaded.rows] == [f"train.jsonl:{number}" for number in range(1, 21)]
    assert loaded.shape.name == "prompt/completion"
    assert "100% of 20" in loaded.reason
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() == file_sha256(file)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_the_same_rows_come_out_of_every_text_container(tmp_path, kind):
    file = tmp_path / f"train.{kind}"
    delimiter = {"csv": ",", "tsv": "\t"}.get(kind, "")
    table = [["prompt", "completion"], *([row["prompt"], row["completion"]] for row in PAIRS)]
    texts = {
        "jsonl": "\n".join(json.dumps(row) for row in PAIRS),
        "json": json.dumps(PAIRS, indent=2),
        "csv": "\r\n".join(delimiter.join(line) for line in table),
        "tsv": "\n".join(delimiter.join(line) for line in table),
    }
    file.write_text(texts[kind], encoding="utf-8", newline="")
    assert [[each["content"] for each in row.messages] for row in load_rows(file).rows] == table[1:]


def test_a_column_map_beats_detection(tmp_path):
    file = write_lines(tmp_path / "t.jsonl", [{"prompt": "a", "completion": "b", "other": "c"}])
    loaded = load_rows(file, columns={"prompt": "prompt", "completion": "other"})
    assert loaded.rows[0].messages[1]["content"] == "c"
    assert "as asked" in loaded.reason


def test_rejected_rows_stop_the_run_with_the_first_three_places(tmp_path):
    rows = [
        *PAIRS,
        {"prompt": "x"},
        {"prompt": "y", "completion": None},
        {"prompt": "z", "completion": ["l"]},
        {},
    ]
    with pytest.raises(DataError) as caught:
        load_rows(write_lines(tmp_path / "t.jsonl", rows))
    assert caught.value.code == "rejected-rows"
    assert "4 of 24 rows" in caught.value.message
    assert "t.jsonl:21: the field 'completion' is missing" in caught.value.message
    assert "t.jsonl:22: the field 'completion' is null; write a text" in caught.value.message
    assert "t.jsonl:23: the field 'completion' holds a list" in caught.value.message
    assert "and 1 more" in caught.value.message


def test_an_allowed_share_of_rejected_rows_is_kept_aside_with_reasons(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in PAIRS) + '\n{"prompt": "cut', encoding="utf-8")
    loaded = load_rows(file, max_rejected_share=0.1)
    assert len(loaded.rows) == 20
    assert [item.place for item in loaded.rejected] == ["t.jsonl:21"]
    assert "not valid JSON" in loaded.rejected[0].reason
    assert loaded.rejected[0].raw == '{"prompt": "cut'


def test_a_file_of_broken_rows_only_is_an_error(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('nonsense\n"text"\n', encoding="utf-8")
    with pytest.raises(DataError, match="2 of 2 rows"):
        load_rows(file, max_rejected_share=1.0)


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "[]"), ("a.jsonl", "\n\n"), ("a.csv", "prompt,completion\n")]
)
def test_a_file_without_rows_is_an_error(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_rows(tmp_path / name)
    assert caught.value.code == "no-rows"


def test_convert_names_the_place_once():
    shape = Shape("text", {"text": "text"}, "", 1.0)
    items = list(
        convert([Record("f:1", {"text": "a"}), Record("f:2", {"text": None}), Rejected("f:3", "no")], shape)
    )
    assert items[0].text == "a"
    assert items[1] == Rejected("f:2", "the field 'text' is null; write a text", '{"text": null}')
    assert items[2] == Rejected("f:3", "no")


def test_file_sha256_of_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        file_sha256(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_same_rows_come_out_of_every_container(tmp_path, name):
    loaded = load_rows(CONTAINERS[name](PAIRS, tmp_path / name))
    assert [[each["content"] for each in row.messages] for row in loaded.rows] == [
        list(row.values()) for row in PAIRS
    ]
    assert loaded.rejected == ()
    assert len({row.place for row in loaded.rows}) == 20


SHAPES = {
    "alpaca": {"instruction": "do", "input": "it", "output": "done"},
    "conversations": {
        "conversations": [{"from": "human", "value": "do\nit"}, {"from": "gpt", "value": "done"}]
    },
    "messages": {
        "messages": [{"role": "user", "content": "do\nit"}, {"role": "assistant", "content": "done"}]
    },
    "prompt/completion": {"prompt": "do\nit", "completion": "done"},
    "question": {"question": "do\nit", "answer": "done"},
}
FLAT = ("rows.csv", "rows.tsv", "semicolons.csv", "rows.xlsx")


def check_shape(path, name, cells):
    (row,) = load_rows(CONTAINERS[name]([cells], path)).rows
    assert [(each["role"], each["content"]) for each in row.messages] == [
        ("user", "do\nit"),
        ("assistant", "done"),
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in FLAT])
def test_each_shape_in_each_container_is_the_same_row(tmp_path, name, shape):
    check_shape(tmp_path / name, name, SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FLAT)
def test_in_tables_lists_are_json_text(tmp_path, name, shape):
    cells = {key: json.dumps(value) for key, value in SHAPES[shape].items()}
    plain = {key: value for key, value in SHAPES[shape].items() if isinstance(value, str)}
    check_shape(tmp_path / name, name, {**cells, **plain})


def test_a_slice_takes_its_rows(tmp_path):
    file = write_lines(tmp_path / "t.jsonl", PAIRS)
    assert [row.place for row in load_rows(f"{file}[:10%]").rows] == ["t.jsonl:1", "t.jsonl:2"]
    assert len(load_rows(f"{file}[5:]").rows) == 15


@pytest.mark.parametrize("part", ["", "[5:]"])
def test_many_rows_are_not_held_in_memory(tmp_path, monkeypatch, part):
    file = write_lines(tmp_path / "t.jsonl", PAIRS)
    few = load_rows(f"{file}{part}").rows
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    many = load_rows(f"{file}{part}").rows
    assert isinstance(few, list)
    assert isinstance(many, store.RowFile)
    assert list(many) == few


def test_what_is_rejected_goes_to_the_quarantine_even_when_the_run_stops(tmp_path):
    file = write_lines(tmp_path / "t.jsonl", [*PAIRS, {"prompt": "é"}])
    with pytest.raises(DataError, match="cannot be used"):
        load_rows(file, quarantine=tmp_path / "q.jsonl")
    line = json.loads((tmp_path / "q.jsonl").read_text(encoding="utf-8"))
    assert line == {
        "place": "t.jsonl:21",
        "reason": "the field 'completion' is missing",
        "raw": '{"prompt": "é"}',
    }
    load_rows(write_lines(tmp_path / "good.jsonl", PAIRS), quarantine=tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("make", ["file", "folder", "archive"])
def test_a_name_that_is_no_text_stands_in_places_as_escapes(tmp_path, make):
    foreign = tmp_path / os.fsdecode(b"b\xe9.jsonl")
    write_lines(foreign, [*PAIRS, {"prompt": "x"}])
    (tmp_path / os.fsdecode(b"p\xe9.png")).touch()
    source = {"file": foreign, "folder": tmp_path, "archive": tmp_path / "t.tar"}[make]
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(foreign, foreign.name)
    (tmp_path / "t.tar").rename(tmp_path / ("t.tar" if make == "archive" else "t.other"))
    loaded = load_rows(source, max_rejected_share=0.1, quarantine=tmp_path / "q")
    place = json.loads((tmp_path / "q").read_text(encoding="utf-8"))["place"]
    assert place.endswith("b\\udce9.jsonl:21")
    assert loaded.rows[0].place == place.replace(":21", ":1")
    assert [item.place for item in loaded.skipped if ".png" in item.place] == ["p\\udce9.png"] * (
        make == "folder"
    )


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    file = write_lines(tmp_path / "t.jsonl", PAIRS)
    sums = iter(["before", "after"])
    monkeypatch.setattr(load, "fingerprint", lambda _: next(sums))
    with pytest.raises(DataError, match="changed while it was being read") as caught:
        load_rows(file)
    assert caught.value.code == "data-changed"


def test_the_fingerprint_of_several_files_depends_on_names_and_bytes(tmp_path):
    for folder, names in {"one": "ab", "two": "ab", "three": "ac"}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            write_lines(tmp_path / folder / f"{name}.jsonl", PAIRS)
    one, two, three = (fingerprint(locate(tmp_path / folder)) for folder in ("one", "two", "three"))
    assert one == two != three


def test_files_left_aside_are_named(tmp_path):
    write_lines(tmp_path / "a.jsonl", PAIRS)
    for number in range(7):
        (tmp_path / f"pic{number}.png").touch()
    loaded = load_rows(tmp_path)
    assert [item.place for item in loaded.skipped] == [f"pic{number}.png" for number in range(7)]
    assert "; not read: pic0.png (its ending is of no known kind), pic1.png (" in loaded.reason
    assert loaded.reason.endswith(") and 2 more")


def test_reading_stops_when_nearly_everything_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "MAX_REJECTED_KEPT", 50)
    file = write_lines(tmp_path / "t.jsonl", [*PAIRS, *({"prompt": "x"} for _ in range(500))])
    with pytest.raises(DataError, match="50 of 70 rows"):
        load_rows(file, max_rejected_share=0.5)


def test_a_quarantine_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_quarantine([], tmp_path / "no" / "q.jsonl")


TEXTS = [{"text": f"t{number}"} for number in range(250)]


def test_a_folder_is_not_judged_by_its_first_file(tmp_path):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    for name in ("b.jsonl", "c.jsonl"):
        write_lines(tmp_path / name, PAIRS * 10)
    loaded = load_rows(tmp_path, max_rejected_share=1.0)
    assert loaded.shape.name == "prompt/completion"
    assert "fits 67% of 198 sampled rows" in loaded.reason
    assert (len(loaded.rows), len(loaded.rejected)) == (400, 250)


def test_few_rows_are_judged_by_all_of_them(tmp_path):
    write_lines(tmp_path / "a.jsonl", PAIRS)
    write_lines(tmp_path / "b.jsonl", PAIRS)
    assert "fits 100% of 40 sampled rows" in load_rows(tmp_path).reason


def test_many_files_are_looked_into_evenly_and_no_more_than_twenty(tmp_path, monkeypatch):
    write_lines(tmp_path / "000.jsonl", PAIRS * 11)
    for number in range(1, 60):
        write_lines(tmp_path / f"{number:03}.jsonl", PAIRS[:1])
    opened = []
    real = load.read_file
    monkeypatch.setattr(
        load, "read_file", lambda file, options: opened.append(file.name) or real(file, options)
    )
    assert len(load_rows(tmp_path).rows) == 220 + 59
    sampled = opened[1:20]
    assert sampled == [f"{number:03}.jsonl" for number in range(3, 60, 3)]
    assert len(opened) == 60 + 19


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        ({"text": "t"}, "the field 'prompt' is missing"),
        ({"prompt": "p", "completion": ["a"]}, "the field 'completion' holds a list where a text belongs"),
    ],
)
def test_a_row_of_another_kind_after_the_sample_is_rejected_with_its_place(tmp_path, late, reason):
    file = write_lines(tmp_path / "t.jsonl", [*PAIRS * 15, late, *PAIRS])
    loaded = load_rows(file, max_rejected_share=0.1)
    (rejected,) = loaded.rejected
    assert (len(loaded.rows), rejected.place) == (320, "t.jsonl:301")
    assert rejected.reason.startswith(reason)


def test_an_optional_column_is_read_where_it_first_turns_up_after_the_sample(tmp_path):
    late = {"prompt": "p", "completion": "c", "system": "Be brief."}
    loaded = load_rows(write_lines(tmp_path / "t.jsonl", [*PAIRS * 15, late]))
    assert [each["role"] for each in loaded.rows[300].messages] == ["system", "user", "assistant"]
    assert "not used" not in loaded.reason


def test_a_column_after_the_sample_that_is_not_read_is_named_once_with_its_place(tmp_path):
    late = {"prompt": "p", "completion": "c", "rating": "5"}
    loaded = load_rows(write_lines(tmp_path / "t.jsonl", [*PAIRS * 15, late, late]))
    assert loaded.reason.endswith("; not used, and in no sampled row: rating (first at t.jsonl:301)")


def test_of_many_late_columns_the_first_are_named(tmp_path):
    late = [{"prompt": "p", "completion": "c", f"x{number}": "1", f"y{number}": "2"} for number in range(50)]
    loaded = load_rows(write_lines(tmp_path / "t.jsonl", [*PAIRS * 15, *late]))
    assert loaded.reason.count("first at") == 10
    assert loaded.reason.endswith("y4 (first at t.jsonl:305)")


def test_a_slice_without_rows_is_an_error(tmp_path):
    file = write_lines(tmp_path / "t.jsonl", PAIRS)
    with pytest.raises(DataError, match="holds none of its 20 rows") as caught:
        load_rows(f"{file}[90%:10%]")
    assert caught.value.code == "no-rows"


@pytest.mark.parametrize(
    ("late", "said"),
    [
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"question": "q", "answer": "a"}, "prompt/completion ('question' and 'answer')"),
        ({"text": "plain"}, "text ('text')"),
    ],
)
def test_a_row_of_another_shape_says_which(tmp_path, late, said):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "q", "completion": "a"}] * 300
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, late, {"other": 1}, {"prompt": "q"}]))
    loaded = load_rows(path, max_rejected_share=0.1)
    reasons = [each.reason for each in loaded.rejected]
    assert reasons[0].startswith("the field 'prompt' is missing; the row looks like " + said)
    assert reasons[1:] == ["the field 'prompt' is missing", "the field 'completion' is missing"]


def test_what_excel_says_above_a_table_is_in_the_reason(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("sep=;\r\nprompt;completion\r\nWhat, now?;Yes\r\n", encoding="utf-8-sig")
    assert load_rows(path).reason.endswith("; not read: rows.csv:1 (it names the delimiter ';')")
