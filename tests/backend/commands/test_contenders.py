"""Who is asked by the judge: backend/commands/contenders.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backend.commands.contenders import Asking, answer_all, contenders
from backend.errors import InferenceError
from backend.inference.evals.judge import text_of
from backend.inference.evals.spec import exact_match_spec
from backend.run.folder import RunDir


def test_the_base_comes_first_and_the_result_last(trained: RunDir) -> None:
    found = list(contenders(trained, 0, (), [trained, trained]))
    assert [each.name for each in found] == ["base", trained.id, "tuned"]
    assert found[0].options == {"base": True}


def test_a_run_whose_folder_is_called_base_is_told_from_the_base(trained: RunDir, tmp_path: Path) -> None:
    others = [RunDir(Path(shutil.copytree(trained.path, tmp_path / name / "base"))) for name in ("a", "b")]
    found = list(contenders(trained, 0, (), others))
    assert [each.name for each in found] == ["base", *(str(other.path) for other in others), "tuned"]
    assert [each.source.path for each in found[1:3]] == [other.path for other in others]


@pytest.mark.parametrize(
    ("asked", "names"),
    [(("all", "10"), ["step 10", "step 20"]), (("20", "best", "20"), ["step 20", "best"])],
)
def test_checkpoints_stand_between(trained: RunDir, asked: tuple[str, ...], names: list[str]) -> None:
    assert [each.name for each in contenders(trained, 0, asked, [])] == ["base", *names, "tuned"]


def test_examples_are_those_of_the_seed_of_the_run(trained: RunDir) -> None:
    one, other = (list(contenders(trained, 2, (), []))[1] for _ in range(2))
    assert one.name == "base, 2 examples"
    assert [each["role"] for each in one.shots] == ["user", "assistant"] * 2
    assert one.shots == other.shots
    with pytest.raises(InferenceError, match="training rows"):
        list(contenders(trained, 1_000, (), []))


def test_all_of_them_answer_the_same_questions(trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a:1", "test input", {"prompt": "test input", "expected": "expected output"})]
    asking = Asking(exact_match_spec().with_rows(rows), [None], 32, quiet=False)
    answers, general, preferences = answer_all(
        trained, list(contenders(trained, 0, (), [])), asking, [], None
    )
    assert text_of(answers["tuned"][0]) == "expected output"
    assert text_of(answers["base"][0]) != "expected output"
    assert {name: len(found) for name, found in general.items()} == {"base": 40, "tuned": 40}
    assert preferences is None
    assert "Answering 1 rows with the tuned model" in capsys.readouterr().out
