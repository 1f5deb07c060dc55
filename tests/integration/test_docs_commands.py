"""The commands of README and tutorial, typed in order, on a tiny model; their output is what the pages show.

Numbers that depend on the model are not compared. ``make docs-run`` types all of them with the real one.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.commands.cli import main
from tests.house import ROOT
from tests.pages import FENCE, text_of

FOOD = ROOT / "examples" / "food-category"
TUTORIAL = ROOT / "docs" / "tutorial.md"
SHORT = ["--training.max_steps=2", "--evaluation.score_rows=0", "--evaluation.sample_rows=0"]
"""What a command that trains gets beside what the page says."""


def shown(page: Path) -> list[tuple[list[str], str]]:
    """Return each command of a page with the output that the page shows for it, empty where it shows none."""
    found: list[tuple[list[str], str]] = []
    before = ""
    for kind, body in FENCE.findall(text_of(page)):
        lines = body.splitlines()
        if kind == "console":
            found += [(shlex.split(line.removeprefix(".venv/bin/")), "") for line in lines]
        if (before, kind) == ("console", "text"):
            found[-1] = (found[-1][0], body)
        before = kind
    return found


def cells(text: str) -> Iterator[str]:
    """The parts of a shown output that a table may put anywhere: split where the page leaves wide gaps."""
    joined = re.sub(r"\n(?=\s{20,}|[a-z]|Answer)", " ", text)
    for line in joined.splitlines():
        yield from (part for part in re.split(r"\s{2,}", line.strip()) if part)


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[┏-╿│]", " ", text))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "2000")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def test_the_leak_that_the_readme_shows_is_found_and_fixed(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    leaked = (FOOD / "eval.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:12]
    rows = (FOOD / "train.jsonl").read_text(encoding="utf-8") + "".join(leaked)
    (place / "rows.jsonl").write_text(rows, encoding="utf-8")
    ((words, output),) = [each for each in shown(ROOT / "README.md") if "--fix" in each[0]]
    assert main(words[1:]) == 0
    said = plain(capfd.readouterr().out)
    assert [part for part in cells(output) if part not in said] == []
    assert len(list(cells(output))) > 5


def test_the_first_steps_of_the_tutorial_say_what_it_shows(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(FOOD / "fdc_ingredients.csv", place / "foods.csv")
    (_, refusal), (_, findings) = [(words, said) for words, said in shown(TUTORIAL) if said]
    assert main(["data", "check", "foods.csv"]) == 2
    assert plain(capfd.readouterr().err).strip() == plain(refusal).strip()
    columns = ["--columns.prompt", "description", "--columns.completion", "category"]
    assert main(["data", "check", "foods.csv", *columns]) == 0
    said = plain(capfd.readouterr().out)
    assert [part for part in cells(findings) if part not in said] == []


def typed(words: list[str], tiny: Path) -> list[str]:
    """Return a command of the tutorial as it is tried here: on the tiny model, short."""
    model = [f"--model.model_name_or_path={tiny}"]
    more = {
        "train": [*model, *SHORT],
        "estimate": model,
        "preview": [f"--model={tiny}"],
        "evaluate": ["--rows=2", "--max-new-tokens=2"],
        "infer": ["--max-new-tokens=2"],
        "export": ["--rows=2"],
    }
    return words + next((options for name, options in more.items() if name in words), [])


def test_the_tutorial_reaches_a_model(place: Path, tiny_folder: Path) -> None:
    lines = (FOOD / "fdc_ingredients.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "foods.csv").write_text("".join(lines[:200]), encoding="utf-8")
    ((_, settings),) = [(kind, body) for kind, body in FENCE.findall(text_of(TUTORIAL)) if kind == "yaml"]
    (place / "run.yaml").write_text(settings.replace("[:2000]", "[:80]"), encoding="utf-8")
    asks_a_person = {"chat", "resume"}
    commands = [
        words
        for words, said in shown(TUTORIAL)
        if words[0] == "tunesmith" and not said and not asks_a_person & {*words}
    ]
    ended = {" ".join(words): main(typed(words[1:], tiny_folder)) for words in commands}
    gguf = ended.pop("tunesmith export latest --to gguf")
    assert {command: code for command, code in ended.items() if code} == {}
    assert gguf in {0, 1}  # a tiny model with random answers may well be red
    assert list(place.glob("exports/*/certificate.md"))
    assert len(ended) == 7
