import hashlib
import json

import pytest

from backend.data.formats import Shape
from backend.data.load import convert, file_sha256, load_rows
from backend.data.records import Record, Rejected
from backend.errors import DataError

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
