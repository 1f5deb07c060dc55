import gzip
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from backend.data.files import regular_file
from backend.data.records import Record, Rejected, Skipped
from backend.data.sources import ReadOptions, read
from backend.errors import DataError
from tests.backend.data.containers import parquet
from tests.backend.data.test_archives import tar_of, zip_of

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
    assert "set the encoding: cp1252 fits" in bad.reason
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
    with pytest.raises(DataError, match="a pipe, socket or device"):
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


def deep(levels):
    return '{"text": ' + "[" * levels + "]" * levels + "}"


BAD_FILES = {
    "empty.jsonl": (b"", "is empty"),
    "broken.json": (b'[{"a": 1},', "is not valid JSON"),
    "half.parquet": (b"PAR1 and nothing more", "is damaged"),
    "named.parquet": (b"not a parquet file", "has the suffix of parquet, but"),
    "bomb.zip": (b"PK\x03\x04" + b"\0" * 40, "is damaged"),
    "half.jsonl.gz": (b"\x1f\x8b\x08\x00broken", "is damaged"),
    "half.jsonl.zst": (b"\x28\xb5\x2f\xfdbroken", "is damaged"),
    "header.csv": (b"a,a\n1,2\n", "names the column 'a' twice"),
    "deep.json": (b"[" + deep(10_000).encode() + b"]", "nested deeper than"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_used_is_one_sentence_with_its_name_and_a_remedy(tmp_path, name):
    data, what = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=what) as caught:
        list(read(tmp_path / name))
    assert name.partition(".")[0] in caught.value.message
    assert caught.value.remedy
    assert caught.value.code


BAD_ROWS = {
    "deep": (deep(10_000), "nested deeper than"),
    "duplicate keys": ('{"text": "a", "text": "b"}', "'text' stands twice"),
    "lone surrogate": ('{"text": "\\ud83d"}', "half a character"),
    "a list": ('["text"]', "this is a list"),
    "cut off": ('{"text": "a', "not valid JSON"),
    "too long": ('{"text": "' + "x" * 40_000 + '"}', "more than 30,000 characters"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_cannot_be_used_is_rejected_alone_with_place_and_reason(tmp_path, name):
    line, what = BAD_ROWS[name]
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n' + line + '\n{"text": "b"}\n', encoding="utf-8")
    good, bad, last = read(tmp_path / "t.jsonl", ReadOptions(max_row_characters=30_000))
    assert (good.cells, last.cells) == ({"text": "a"}, {"text": "b"})
    assert bad.place == "t.jsonl:2"
    assert what in bad.reason


def test_a_nul_is_a_character_like_any_other(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a\\u0000b"}\n', encoding="utf-8")
    (tmp_path / "t.csv").write_bytes(b"text,x\na\0b,y\n")
    for name in ("t.jsonl", "t.csv"):
        assert [item.cells["text"] for item in read(tmp_path / name)] == ["a\0b"]


def test_a_file_that_the_system_does_not_let_us_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "t.jsonl").write_text("{}", encoding="utf-8")

    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied") as caught:
        list(read(tmp_path / "t.jsonl"))
    assert caught.value.code == "unreadable-file"


def test_an_archive_in_an_archive_in_an_archive_is_refused(tmp_path):
    data = b'{"text": "a"}\n'
    for _ in range(3):
        data = gzip.compress(data)
    (tmp_path / "t.jsonl.gz.gz.gz").write_bytes(data)
    with pytest.raises(DataError, match="packed more than twice"):
        list(read(tmp_path / "t.jsonl.gz.gz.gz"))


def test_an_archive_names_what_it_leaves_aside(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("README.md", "about")
        archive.writestr("pic.png", "x")
        archive.writestr("a.csv", "text,x\na,b\n")
    items = list(read(tmp_path / "t.zip"))
    assert [item.reason for item in items if isinstance(item, Skipped)] == [
        "it describes the data and holds no rows",
        "its ending is of no known kind",
    ]
    assert items[-1] == Record("t.zip/a.csv:2", {"text": "a", "x": "b"})


def test_an_archive_without_data_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("pic.png", "x")
    with pytest.raises(DataError, match="holds no file that can be read"):
        list(read(tmp_path / "t.zip"))


def test_parquet_in_a_compressed_archive_is_read(tmp_path):
    parquet([{"text": "a"}], tmp_path / "rows.parquet")
    with tarfile.open(tmp_path / "t.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "rows.parquet", "rows.parquet")
    assert list(read(tmp_path / "t.tar.xz")) == [Record("t.tar.xz/rows.parquet:1", {"text": "a"})]


@pytest.mark.parametrize("name", ["t.zip", "t.tar", "t.tar.gz"])
@pytest.mark.parametrize(("split", "texts"), [("", ["train"]), (":test", ["test"])])
def test_an_archive_of_splits_is_its_training_split_unless_another_is_named(tmp_path, name, split, texts):
    pack_splits(tmp_path / name)
    items = list(read(f"{tmp_path / name}{split}"))
    assert [item.cells["text"] for item in items if isinstance(item, Record)] == texts
    (aside,) = [item.reason for item in items if isinstance(item, Skipped)]
    assert aside.startswith("it belongs to the split")


def test_a_split_that_a_file_does_not_have_is_an_error(tmp_path):
    pack_splits(tmp_path / "t.zip")
    with pytest.raises(DataError, match="no file that can be read as dev"):
        list(read(f"{tmp_path}/t.zip:dev"))
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    assert len(list(read(f"{tmp_path}/train.jsonl:train"))) == 1
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    assert len(list(read(f"{tmp_path}/rows.jsonl:train"))) == 1  # as datasets' load_dataset has it
    with pytest.raises(DataError, match="one file, and nothing in it says which rows") as caught:
        list(read(f"{tmp_path}/train.jsonl:test"))
    assert caught.value.code == "unknown-split"


def pack_splits(path):
    """An archive of data/train.jsonl and data/test.jsonl, each with its own name as its one text."""
    members = {f"data/{split}.jsonl": f'{{"text": "{split}"}}\n'.encode() for split in ("train", "test")}
    pack = {".zip": zip_of, ".tar": tar_of, ".gz": lambda members: gzip.compress(tar_of(members))}[
        path.suffix
    ]
    path.write_bytes(pack(members))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "rows.jsonl",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "Git LFS pointer",
        ),
        (
            "rows.parquet",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "Git LFS pointer",
        ),
        ("rows.csv", "\n<!DOCTYPE html><html></html>", "a web page"),
    ],
)
def test_what_lies_where_data_should_is_called_by_its_name(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        list(read(tmp_path / name))
    assert caught.value.code == "not-downloaded"


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.txt"])
@pytest.mark.parametrize(
    ("encoding", "text"),
    [("gb18030", "北京的天气怎么样"), ("cp1251", "Как дела"), ("shift_jis", "こんにちは")],
)
def test_every_row_in_another_encoding_is_offered_the_one_that_fits_the_file(tmp_path, name, encoding, text):
    row = {"t.csv": "{},x\n", "t.jsonl": '{{"text": "{}"}}\n', "t.txt": "{}\n"}[name]
    (tmp_path / name).write_bytes("".join(map(row.format, ["text", text, f"{text}1"])).encode(encoding))
    refused = [item.reason for item in read(tmp_path / name) if isinstance(item, Rejected)]
    assert len(refused) == 2
    assert all(reason.endswith(f"{encoding} fits (`data.encoding={encoding}`)") for reason in refused)
    assert not [item for item in read(tmp_path / name, ReadOptions(encoding)) if isinstance(item, Rejected)]


def test_a_byte_far_behind_the_beginning_is_offered_what_fits_its_row(tmp_path):
    lines = ["text", *["plain ASCII text"] * 9_000, "Как дела"]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode("cp1251"))
    (refused,) = [item for item in read(tmp_path / "t.csv") if isinstance(item, Rejected)]
    assert "cp1251 fits" in refused.reason


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_that_cannot_part_cells_is_a_sentence(delimiter):
    with pytest.raises(DataError, match="cannot separate cells") as caught:
        ReadOptions(delimiter=delimiter)
    assert caught.value.code == "bad-delimiter"
