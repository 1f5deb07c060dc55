import json
import os
from pathlib import Path

import pytest

from backend.data.locate import regular_file
from backend.data.records import Record
from backend.data.sources import ReadOptions, read
from backend.errors import DataError

TRICKY = [
    "007",
    "1.10",
    "true",
    "null",
    "2020-01-02",
    " NA ",
    '{"k":1}',
    "",
    "a\nb",
    'say "hi"',
    "ä €",
    "=1+1",
]


def test_every_cell_of_a_csv_file_stays_the_text_it_is(tmp_path):
    file = tmp_path / "t.csv"
    quoted = "\r\n".join('"' + text.replace('"', '""') + '",x' for text in TRICKY)
    file.write_text("text,other\r\n" + quoted + "\r\n", encoding="utf-8", newline="")
    assert [record.cells["text"] for record in read(file)] == TRICKY


def test_json_values_keep_their_spelling(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": 1.10, "b": 1e400, "c": "007"}\n', encoding="utf-8")
    assert list(read(file)) == [Record("t.jsonl:1", {"a": "1.10", "b": "1e400", "c": "007"})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.json", "t.txt"])
def test_encodings_that_show_themselves_are_read(tmp_path, encoding, name):
    texts = {
        "t.jsonl": '{"text": "grüße €"}\n',
        "t.csv": "text,x\ngrüße €,y\n",
        "t.json": '[{"text": "grüße €"}]',
        "t.txt": "grüße €\n",
    }
    (tmp_path / name).write_bytes(texts[name].encode(encoding))
    assert [record.cells["text"] for record in read(tmp_path / name)] == ["grüße €"]


def test_a_row_in_another_encoding_is_rejected_until_the_encoding_is_set(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes("text,x\nplain,y\ngrüße,y\n".encode("cp1252"))
    good, bad = read(file)
    assert good.cells["text"] == "plain"
    assert bad.place == "t.csv:3"
    assert "the byte 0xFC at character 3" in bad.reason
    assert "set the encoding, for example cp1252" in bad.reason
    assert [record.cells["text"] for record in read(file, ReadOptions(encoding="cp1252"))] == [
        "plain",
        "grüße",
    ]


def test_text_is_a_row_per_line_or_one_row(tmp_path):
    file = tmp_path / "t.md"
    file.write_text("one\n\n two \n", encoding="utf-8")
    assert list(read(file)) == [Record("t.md:1", {"text": "one"}), Record("t.md:3", {"text": " two "})]
    assert list(read(file, ReadOptions(whole_file=True))) == [Record("t.md:1", {"text": "one\n\n two \n"})]


def test_a_file_without_a_known_ending_is_read_as_json_when_it_is(tmp_path):
    (tmp_path / "data").write_text(json.dumps({"text": "a"}), encoding="utf-8")
    assert list(read(tmp_path / "data")) == [Record("data:1", {"text": "a"})]
    (tmp_path / "pic.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"pic\.png is of no known kind"):
        list(read(tmp_path / "pic.png"))


def test_a_wrong_name_gets_the_likeliest_one(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(read(tmp_path / "trian.jsonl"))
    assert caught.value.code == "file-not-found"
    assert caught.value.remedy == f"Did you mean {tmp_path / 'train.jsonl'}?"


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="no regular file"):
        regular_file(tmp_path / "pipe.jsonl")


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "t.jsonl").touch()
    with pytest.raises(DataError) as caught:
        list(read(tmp_path / "t.jsonl"))
    assert caught.value.code == "empty-file"


def test_a_name_with_a_zero_byte_is_an_error():
    with pytest.raises(DataError, match="cannot be read"):
        regular_file(Path("a\0b"))


def test_a_file_that_cannot_be_decoded_at_all_names_the_remedy(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufefftext\nabc\n".encode("utf-16-le") + b"\x00")
    with pytest.raises(DataError, match="not in the encoding"):
        list(read(tmp_path / "t.csv"))


def test_an_unknown_encoding_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("text\nabc\n", encoding="utf-8")
    with pytest.raises(DataError, match="'klingon' is not known"):
        list(read(tmp_path / "t.csv", ReadOptions(encoding="klingon")))
