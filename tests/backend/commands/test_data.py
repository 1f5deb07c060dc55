"""Check and preview data: backend/commands/data.py."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.commands.data import change_counts, changed_part
from backend.data import hub, tfds
from backend.data.doctor import examine
from backend.data.fixes import Change
from backend.data.load import load_rows
from backend.data.records import Row
from tests.runs import write_rows
from tests.tiny import tiny_model_folder

GOOD = [
    {"prompt": f"What is {n} and {n * n}?", "completion": f"It is {n + n * n}, I say."} for n in range(60)
]
KEY = "sk-abcdefghijklmnopqrstuvwxyz123456"
BAD = [
    *GOOD,
    GOOD[7],
    {"prompt": "empty", "completion": ""},
    {"prompt": "key", "completion": f"It is {KEY}, hush."},
    {"prompt": "shop", "completion": "Salt &amp; pepper, I say."},
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "good.jsonl", GOOD)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "bad.jsonl", BAD)


Screen = pytest.CaptureFixture[str]


def record(capsys: Screen, code: int, *words: str) -> Any:
    assert main(["data", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def found(report: Any) -> dict[str, int]:
    return {finding["check"]: finding["count"] for finding in report["findings"]}


class TestCheck:
    def test_clean_rows(self, good: Path, capsys: Screen) -> None:
        assert main(["data", "check", "good.jsonl"]) == 0
        screen = capsys.readouterr().out
        assert "60 rows, 0 refused; 0 findings that should stop a run" in screen
        assert "no model was given" in screen
        assert "tunesmith data preview good.jsonl" in screen

    def test_the_next_command_can_be_typed_as_it_stands(self, tmp_path: Path, capsys: Screen) -> None:
        write_rows(
            tmp_path / "my foods.jsonl", [{"The food": f"{n} {n * 7919}", "is": f"{n}!"} for n in range(60)]
        )
        words = ["--columns.prompt", "The food", "--columns.completion", "is"]
        assert main(["data", "check", "my foods.jsonl", *words]) == 0
        (told,) = (line for line in capsys.readouterr().out.splitlines() if "tunesmith data preview" in line)
        assert shlex.split(told.partition("tunesmith ")[2]) == ["data", "preview", "my foods.jsonl", *words]

    def test_blocking_rows_and_the_way_to_mend_them(self, bad: Path, capsys: Screen) -> None:
        assert main(["data", "check", "bad.jsonl"]) == 1
        screen = capsys.readouterr().out
        assert "Answers are empty" in screen
        assert "bad.jsonl:62" in screen
        assert "Add --dry-run to see what the fixes would change, or --fix FOLDER for a mended copy" in screen
        assert KEY not in screen

    def test_the_json_is_the_doctors_own(self, bad: Path, capsys: Screen) -> None:
        assert main(["data", "check", "bad.jsonl", "--json"]) == 1
        assert capsys.readouterr().out == examine(load_rows("bad.jsonl"), "bad.jsonl").to_json()

    @pytest.mark.parametrize("content", ["", '{"prompt":'], ids=["empty", "broken"])
    def test_what_cannot_be_read(self, tmp_path: Path, capsys: Screen, content: str) -> None:
        (tmp_path / "x.jsonl").write_text(content)
        assert main(["data", "check", "x.jsonl"]) == 2
        assert capsys.readouterr().err.startswith("Error")
        assert main(["data", "check", "nowhere.jsonl"]) == 2

    def test_broken_rows_are_a_finding_and_not_the_end(self, good: Path, capsys: Screen) -> None:
        good.write_text(good.read_text() + "{broken\n")
        assert found(record(capsys, 1, "check", "good.jsonl"))["rejected-rows"] == 1

    def test_what_is_refused_goes_to_a_file(self, good: Path, tmp_path: Path, capsys: Screen) -> None:
        good.write_text(good.read_text() + "{broken\n")
        record(capsys, 1, "check", "good.jsonl", "--rejected", "refused.jsonl")
        assert json.loads((tmp_path / "refused.jsonl").read_text())["place"] == "good.jsonl:61"

    def test_leaks_into_held_out_rows(self, good: Path, tmp_path: Path, capsys: Screen) -> None:
        held = write_rows(tmp_path / "held.jsonl", GOOD[:3])
        held.write_text(held.read_text() + "{broken\n")
        report = record(capsys, 1, "check", "good.jsonl", "--validation", "held.jsonl")
        assert found(report)["contamination"] == 3

    def test_tokens_are_checked_with_a_model(self, good: Path, tiny_folder: Path, capsys: Screen) -> None:
        words = ["check", "good.jsonl", "--model", str(tiny_folder)]
        report = record(capsys, 1, *words, "--max-length", "30")
        assert found(report)["too-long"] == 60
        assert "too-long" not in found(record(capsys, 0, *words))

    def test_columns_by_name(self, tmp_path: Path, capsys: Screen) -> None:
        rows = [{"a": row["prompt"], "b": row["completion"], "c": "x"} for row in GOOD]
        write_rows(tmp_path / "odd.jsonl", rows)
        report = record(capsys, 0, "check", "odd.jsonl", "--columns.prompt", "a", "--columns.completion", "b")
        assert report["rows"] == 60


class TestElsewhere:
    """A source of another place than this machine is read by every command, as in data.train."""

    @pytest.fixture(autouse=True)
    def _elsewhere(self, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub, "fetch", lambda *_: good.parent)
        monkeypatch.setattr(tfds, "fetch", lambda *_: good)

    @pytest.mark.parametrize("source", ["hf://owner/name", "owner/name@v1", "tfds://name:train"])
    @pytest.mark.parametrize("words", ["check", "check good.jsonl --validation", "rows", "duplicates"])
    def test_rows_of_it(self, words: str, source: str, capsys: Screen) -> None:
        assert main(["data", *words.split(), source, "--json"]) in {0, 1}
        assert "60" in capsys.readouterr().out

    @pytest.mark.parametrize("words", ["preview", "paraphrase --out review.jsonl --limit 0"])
    def test_rows_of_it_and_a_model(self, words: str, tiny_folder: Path, capsys: Screen) -> None:
        command = ["data", *words.split(), "hf://owner/name", "--model", str(tiny_folder), "--json"]
        assert main(command) == 0


class TestFix:
    def test_a_mended_copy_beside_an_untouched_original(self, bad: Path, capsys: Screen) -> None:
        before = hashlib.sha256(bad.read_bytes()).hexdigest()
        report = record(capsys, 0, "check", "bad.jsonl", "--fix", "mended")
        assert hashlib.sha256(bad.read_bytes()).hexdigest() == before
        fixed = report["fixed"]
        assert fixed["copy"] == "mended/v001/rows.jsonl"
        assert fixed["changes"] == {
            "redact-secrets": [1, 0],
            "drop-empty": [0, 1],
            "drop-duplicates": [0, 1],
        }
        assert report["blocks"]
        assert found(record(capsys, 0, "check", fixed["copy"])) == {"web-junk": 1}
        assert (
            record(capsys, 0, "check", "bad.jsonl", "--fix", "mended")["fixed"]["copy"]
            == "mended/v002/rows.jsonl"
        )

    def test_the_differences_are_shown_and_the_secret_is_not(self, bad: Path, capsys: Screen) -> None:
        assert main(["data", "check", "bad.jsonl", "--fix", "mended"]) == 0
        screen = capsys.readouterr().out
        assert "unescape-html (not by itself: --only unescape-html, after a look)" in " ".join(screen.split())
        assert "unescape-html: 1 row changed" not in screen
        assert "drop-duplicates: 1 row left out" in screen
        assert "[OpenAI key]" in screen
        assert KEY not in screen
        assert "Train on it: --data.train mended/v001/rows.jsonl" in screen
        assert main(["data", "check", "bad.jsonl", "--only", "unescape-html", "--dry-run"]) == 1
        screen = capsys.readouterr().out
        assert "unescape-html: 1 row changed" in screen
        assert 'Salt &amp; pepper, I say."' in screen
        assert 'Salt & pepper, I say."' in screen

    def test_one_fix_alone(self, bad: Path, capsys: Screen) -> None:
        words = ["check", "bad.jsonl", "--fix", "mended", "--only", "drop-empty", "--only", "unescape-html"]
        fixed = record(capsys, 1, *words)["fixed"]
        assert fixed["blocks"]
        assert fixed["changes"] == {"unescape-html": [1, 0], "drop-empty": [0, 1]}
        assert KEY in Path(fixed["copy"]).read_text()

    def test_a_look_before_anything_is_written(self, bad: Path, tmp_path: Path, capsys: Screen) -> None:
        words = ["check", "bad.jsonl", "--fix", "mended", "--dry-run"]
        fixed = record(capsys, 0, *words)["fixed"]
        assert fixed["copy"] is None
        assert fixed["rows"] == 62
        shown = {each["fix"]: each for each in fixed["differences"]}
        assert shown["redact-secrets"]["before"] is None
        assert shown["redact-secrets"]["after"]["messages"][1]["content"] == "It is [OpenAI key], hush."
        assert shown["drop-empty"]["after"] is None
        assert KEY not in json.dumps(fixed)
        assert main(["data", *words]) == 0
        assert "Nothing was written." in capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]

    def test_a_fix_that_is_none(self, bad: Path, capsys: Screen) -> None:
        words = ["check", "bad.jsonl", "--only", "everything"]
        assert record(capsys, 2, *words, "--dry-run")["error"]["code"] == "unknown-fix"
        assert record(capsys, 2, *words)["error"]["code"] == "nothing-to-mend-into"

    def test_what_stays_wrong_is_said(self, good: Path, tmp_path: Path, capsys: Screen) -> None:
        model = tiny_model_folder(tmp_path / "gemma", family="gemma")
        system = {"role": "system", "content": "Be kind."}
        turns = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "cafÃ© and pepper, I say."},
        ]
        good.write_text(json.dumps({"messages": [system, *turns]}) + "\n")
        assert main(["data", "check", "good.jsonl", "--fix", "mended", "--model", str(model)]) == 1
        screen = capsys.readouterr().out
        assert "Wrote mended/v001/rows.jsonl" in screen
        assert "Still to mend by hand: The model's chat template refuses rows." in screen

    def test_broken_rows_are_left_out_of_the_copy(self, good: Path, capsys: Screen) -> None:
        good.write_text(good.read_text() + "{broken\n")
        report = record(capsys, 0, "check", "good.jsonl", "--fix", "mended")
        assert report["fixed"]["changes"] == {"drop-rejected": [0, 1]}
        assert len(Path(report["fixed"]["copy"]).read_text().splitlines()) == 60

    def test_nothing_to_mend_writes_nothing(self, good: Path, capsys: Screen) -> None:
        assert "fixed" not in record(capsys, 0, "check", "good.jsonl", "--fix", "mended")
        assert not Path("mended").exists()

    def test_a_file_in_the_way(self, bad: Path, tmp_path: Path, capsys: Screen) -> None:
        (tmp_path / "mended").write_text("mine")
        assert record(capsys, 2, "check", "bad.jsonl", "--fix", "mended")["error"]["code"] == "not-a-folder"


class TestDifferences:
    row = Row("x:1", text="a" * 200 + "before" + "b" * 200)

    def test_only_what_changed_and_a_little_around_it(self) -> None:
        after = Row("x:1", text="a" * 200 + "after" + "b" * 200)
        old, new = changed_part(Change("fix", "x:1", self.row, after))
        assert old.startswith("…" + "a" * 30 + "before")
        assert new.startswith("…" + "a" * 30 + "after")
        assert max(len(old), len(new)) <= 101

    def test_a_row_that_goes(self) -> None:
        assert changed_part(Change("fix", "x:1", self.row, None))[1] == ""

    def test_counts(self) -> None:
        changes = [Change("a", "x:1", self.row, self.row), Change("a", "x:2", self.row, None)]
        assert change_counts(changes, 3) == {"drop-rejected": (0, 3), "a": (1, 1)}
        assert change_counts([], 0) == {}


class TestPreview:
    def test_tokens_for_a_person(self, good: Path, tiny_folder: Path, capsys: Screen) -> None:
        assert main(["data", "preview", "good.jsonl", "--model", str(tiny_folder), "--rows", "1"]) == 0
        screen = capsys.readouterr().out
        assert "good.jsonl:1 · " in screen
        assert "good.jsonl:2" not in screen
        assert "<|im_end|>■›]" in screen
        assert "60 rows in 4 steps" in screen

    def test_tokens_for_a_machine(self, good: Path, tiny_folder: Path, capsys: Screen) -> None:
        words = ["preview", "good.jsonl", "--model", str(tiny_folder), "--rows", "2", "--batch-size", "7"]
        shown = record(capsys, 0, *words)
        assert [row["place"] for row in shown["rows"]] == ["good.jsonl:1", "good.jsonl:2"]
        assert shown["epoch"]["steps"] == 9
        trained = [token["text"] for token in shown["rows"][0]["tokens"] if token["state"] == "trained"]
        assert "".join(trained) == f"{GOOD[0]['completion']}<|im_end|>"
        assert shown["rows"][0]["tokens"][-1]["ends_turn"]

    def test_what_would_be_cut(self, good: Path, tiny_folder: Path, capsys: Screen) -> None:
        words = ["preview", "good.jsonl", "--model", str(tiny_folder)]
        limit = len(record(capsys, 0, *words)["rows"][0]["tokens"]) - 3
        words += ["--max-length", str(limit)]
        row = record(capsys, 0, *words)["rows"][0]
        assert row["fate"] == "cut"
        assert [token["state"] for token in row["tokens"][limit - 1 :]] == ["trained", "cut", "cut", "cut"]
        assert record(capsys, 0, *words, "--truncation", "drop")["rows"][0]["fate"] == "dropped"

    def test_rows_that_cannot_be_read_are_counted(
        self, good: Path, tiny_folder: Path, capsys: Screen
    ) -> None:
        good.write_text(good.read_text() + "{broken\n")
        assert record(capsys, 0, "preview", "good.jsonl", "--model", str(tiny_folder))["rejected"] == 1

    def test_a_base_model_with_a_template_by_name(self, good: Path, tmp_path: Path, capsys: Screen) -> None:
        model = tiny_model_folder(tmp_path / "base", family="base")
        words = ["--model", str(model), "--chat-template", "alpaca"]
        row = record(capsys, 0, "preview", "good.jsonl", *words)["rows"][0]
        assert "### Instruction:" in "".join(token["text"] for token in row["tokens"])
        assert row["tokens"][-1]["ends_turn"]
        assert record(capsys, 0, "check", "good.jsonl", *words)["rows"] == 60

    def test_rows_before_and_after_augmentation(self, good: Path, tiny_folder: Path, capsys: Screen) -> None:
        words = ["preview", "good.jsonl", "--model", str(tiny_folder)]
        words += [
            "--augmentation.prompt_templates",
            "['Please: {prompt}']",
            "--augmentation.oversample",
            "1.5",
        ]
        shown = record(capsys, 0, *words)
        assert 0.3 < shown["varied_share"] < 0.7
        pair = shown["varied"][0]
        asked = [pair[side]["messages"][0]["content"] for side in ("before", "after")]
        assert asked[1] == f"Please: {asked[0]}"
        assert main(["data", *words]) == 0
        assert f"+ user: {asked[1]}" in capsys.readouterr().out

    def test_a_setting_of_augmentation_out_of_range(self, good: Path, capsys: Screen) -> None:
        error = record(capsys, 2, "preview", "good.jsonl", "--augmentation.noise", "0.5")["error"]
        assert "augmentation.noise" in error["message"]

    def test_a_model_that_is_not_there(self, good: Path, capsys: Screen) -> None:
        assert main(["data", "preview", "good.jsonl", "--model", "./nowhere"]) == 2
        assert "nowhere" in capsys.readouterr().err


TABLE = "prompt~completion\n" + "".join(f"Was kostet {n}?~Fünf Euro und {n}\n" for n in range(60))


@pytest.mark.parametrize(
    "spelled", ["--encoding {} --delimiter {}", "--data.encoding {} --data.delimiter {}"]
)
@pytest.mark.parametrize("command", ["check", "rows", "duplicates", "preview --model tiny"])
def test_how_a_file_is_read_can_be_told_to_every_command(
    tmp_path: Path, command: str, spelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model_folder(tmp_path / "tiny")
    (tmp_path / "t.csv").write_bytes(TABLE.encode("cp1252"))
    name, *words = command.split()
    assert main(["data", name, "t.csv", *words, *spelled.format("cp1252", "~").split(), "--json"]) == 0
    said = capsys.readouterr().out
    assert "cannot be used" not in said
    assert json.loads(said)


def test_the_next_command_keeps_how_the_file_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_bytes(TABLE.encode("cp1252"))
    words = ["--encoding", "cp1252", "--delimiter", "~", "--columns.prompt", "prompt"]
    assert main(["data", "check", "t.csv", *words, "--columns.completion", "completion"]) == 0
    next_words = capsys.readouterr().out.split("See what the model will see: ")[1]
    assert "--columns.completion completion --encoding cp1252 --delimiter '~'" in " ".join(next_words.split())


@pytest.mark.parametrize("taken", ["bad.jsonl", "notes.txt", "folder"])
def test_rejected_rows_are_never_written_over_what_is_there(
    bad: Path, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad.write_text(bad.read_text() + "{broken\n")
    Path("notes.txt").write_text("precious")
    Path("folder").mkdir()
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(["data", "check", str(bad), "--rejected", taken]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_a_home_is_expanded_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    rows = write_rows(tmp_path / "home/rows.jsonl", BAD)
    rows.write_text(rows.read_text() + "{broken\n")
    words = ["--rejected", "~/rejected.jsonl", "--fix", "~/mended", "--validation", "~/rows.jsonl"]
    main(["data", "check", "~/rows.jsonl", *words])
    capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [
        "mended",
        "rejected.jsonl",
        "rows.jsonl",
    ]
