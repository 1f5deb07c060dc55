"""The page Data: app/pages/data.py, over real files and real commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.uploads import kept_files
from tests.app.conftest import OpenPage
from tests.app.reading import unescaped
from tests.app.test_hostile import EVIL, assert_only_shown
from tests.app.waiting import press, settled, texts
from tests.runs import write_rows

BAD = [
    {"question": "food pork", "answer": "meat"},
    {"question": "food pork", "answer": "meat"},
    {"question": "<script>alert(1)</script>", "answer": "<b>bold</b>"},
    {"question": "food plum", "answer": ""},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = write_rows(tmp_path / "bad.jsonl", BAD)
    path.write_text(path.read_text() + "{broken\n")
    return path


def test_an_empty_page_says_what_to_do(open_page: OpenPage) -> None:
    assert "Upload a file" in texts(open_page("data"))


def test_a_source_is_read_and_its_problems_are_listed(open_page: OpenPage, source: Path) -> None:
    app = open_page("data")
    app.text_input[0].set_value(str(source)).run()
    said = texts(settled(app))
    assert "Read as prompt/completion because" in said.replace("\\", "")
    assert "Rows stand more than once" in said
    assert "bad\\.jsonl:5" in said.replace("\u2060", "").replace("\\:", ":")


def test_a_copy_is_mended_fix_by_fix_looked_at_and_taken(
    open_page: OpenPage, source: Path, root: Path
) -> None:
    app = open_page("data")
    app.text_input[0].set_value(str(source)).run()
    settled(app)
    before = source.read_bytes()
    fixes = {each.label: each for each in app.checkbox}
    assert [each.disabled for each in app.checkbox] == ["leave these rows out" in name for name in fixes]
    fixes["Mend: leave empty answers out"].uncheck().run()
    said = texts(press(app, "Show what would change"))
    assert "Keep one of each: 1 row left out" in said
    assert "3 rows** in the copy" in said
    assert kept_files(root) == []

    assert "v001: 3 rows in the mended copy" in texts(press(app, "Write the mended copy"))
    assert len(kept_files(root)) == 1
    settled(press(app, "Work with the mended copy"))
    (copy,) = kept_files(root)
    assert app.selectbox[0].value == str(copy)
    assert "rows.jsonl · mended v001 · " in unescaped(texts(app))
    assert json.loads((copy.parent / "lineage.json").read_text())["source"] == str(source)
    assert source.read_bytes() == before


def test_what_stands_twice(open_page: OpenPage, source: Path) -> None:
    app = open_page("data")
    app.text_input[0].set_value(str(source)).run()
    settled(app)
    app.radio(key="data view").set_value("Duplicates").run()
    said = texts(settled(app))
    assert "Repeats among 4 rows: 1 word for word, 0 nearly." in said
    assert "user: food pork\nassistant: meat" in said


def test_columns_that_are_not_known_can_be_named(open_page: OpenPage, tmp_path: Path) -> None:
    odd = write_rows(tmp_path / "odd.jsonl", [{"frage": f"was {n}", "antwort": "das"} for n in range(60)])
    app = open_page("data")
    app.text_input[0].set_value(str(odd)).run()
    settled(app)
    assert "No known shape" in texts(app).replace("\\", "")
    (shape,) = [each for each in app.selectbox if each.label == "The rows are"]
    shape.set_value("prompt/completion").run()
    parts = {each.label: each for each in app.selectbox}
    parts["Prompt"].set_value("frage").run()
    {each.label: each for each in app.selectbox}["Completion"].set_value("antwort").run()
    said = texts(press(app, "Read them this way"))
    assert "Read as prompt/completion as asked" in said.replace("\\", "")


def test_rows_are_paged_and_searched(open_page: OpenPage, source: Path) -> None:
    app = open_page("data")
    app.text_input[0].set_value(str(source)).run()
    settled(app)
    app.radio(key="data view").set_value("Rows").run()
    assert "4 of 4 rows · page 1 of 1" in texts(settled(app))
    app.text_input(key="row search").set_value("SCRIPT").run()
    settled(app)
    assert "1 of 4 rows" in texts(app)
    assert app.dataframe[0].value["question"].tolist() == ["<script>alert(1)</script>"]
    app.text_input(key="row search").set_value("nothing like it").run()
    assert "No matching row" in texts(settled(app))


def test_tokens_are_shown_with_their_marks(open_page: OpenPage, source: Path, tiny_folder: Path) -> None:
    app = open_page("data")
    app.text_input[0].set_value(str(source)).run()
    settled(app)
    app.radio(key="data view").set_value("Tokens").run()
    settled(app)
    app.text_input(key="token model").set_value(str(tiny_folder)).run()
    settled(app)
    shown = "".join(each.proto.body for each in app.get("html"))
    assert "ts-trained" in shown
    assert "&lt;|im_start|&gt;" in shown
    assert "<script>" not in shown
    assert [each.label for each in app.metric][:2] == ["Rows that train", "Tokens an epoch"]


def test_a_file_that_is_not_there_is_a_sentence_and_can_be_tried_again(
    open_page: OpenPage, tmp_path: Path
) -> None:
    app = open_page("data")
    app.text_input[0].set_value(str(tmp_path / "late.jsonl")).run()
    settled(app)
    assert app.error
    write_rows(tmp_path / "late.jsonl", BAD)
    assert "late" in texts(settled(app.run()))
    assert not [each for each in app.error if "no file" in each.value.lower()]


def test_an_upload_is_kept_once(open_page: OpenPage, source: Path, root: Path) -> None:
    app = open_page("data")
    app.file_uploader[0].set_value(("bad.jsonl", source.read_bytes(), "application/jsonl")).run()
    settled(app)
    settled(app.run())
    (kept,) = kept_files(root)
    assert kept.read_bytes() == source.read_bytes()
    assert (app.text_input[0].value, app.selectbox[0].value) == ("", str(kept))


def test_what_was_given_before_is_left_for_a_path_and_taken_again(open_page: OpenPage, source: Path) -> None:
    app = open_page("data")
    app.file_uploader[0].set_value(("bad.jsonl", source.read_bytes(), "application/jsonl")).run()
    kept = settled(app).selectbox[0].value
    app.text_input[0].set_value(str(source)).run()
    assert (settled(app).text_input[0].value, app.selectbox[0].value) == (str(source), None)
    app.selectbox[0].set_value(kept).run()
    assert (settled(app).text_input[0].value, app.selectbox[0].value) == ("", kept)


def test_hostile_names_and_rows_are_only_shown(
    open_page: OpenPage, tmp_path: Path, tiny_folder: Path
) -> None:
    rows = [{"question": EVIL, "answer": EVIL, EVIL[:40]: EVIL}] * 3
    source = write_rows(tmp_path / "![x](y) **b** <img src=x>.jsonl", rows)
    app = open_page("data")
    app.text_input[0].set_value(str(source)).run()
    assert_only_shown(settled(app))
    assert_only_shown(press(app, "Show what would change"))
    assert_only_shown(settled(app.radio(key="data view").set_value("Duplicates").run()))
    assert_only_shown(settled(app.radio(key="data view").set_value("Rows").run()))


def test_a_file_in_another_encoding_is_read_once_the_encoding_is_named(
    open_page: OpenPage, tmp_path: Path
) -> None:
    table = tmp_path / "fragen.csv"
    table.write_bytes("prompt~completion\nWie heißt es?~Müsli\nWas kostet es?~Fünf Euro\n".encode("cp1252"))
    app = open_page("data")
    app.text_input[0].set_value(str(table)).run()
    assert "cp1252 fits" in texts(settled(app)).replace("\\", "")
    {each.label: each for each in app.text_input}["Encoding"].set_value("cp1252").run()
    {each.label: each for each in app.text_input}["Delimiter"].set_value("~").run()
    assert "fragen.csv · 2 rows" in unescaped(texts(settled(app)))
    app.radio(key="data view").set_value("Rows").run()
    settled(app)
    assert app.dataframe[0].value["completion"].tolist() == ["Müsli", "Fünf Euro"]
    app.text_input[0].set_value(str(tmp_path / "other.csv")).run()
    settled(app)
    assert {each.label: each.value for each in app.text_input}["Encoding"] == ""
