"""The judge of a run at the command line: backend/commands/evaluate.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.run.folder import RunDir
from backend.run.records import read_evaluations
from tests.runs import ROWS, lines, write_rows

SPEC = """
defaultTest:
  assert:
    - {type: exact-match, metric: right}
    - {type: word-count, value: {max: 3}, metric: short}
    - {type: label, value: [meat, fruit, expected output]}
    - {type: not-contains, value: "{{prompt}}"}
    - {type: similar, threshold: 0, weight: 0}
    - {type: perplexity, threshold: 100000, weight: 0}
tests:
  - vars: {prompt: food pork}
    assert: [{type: equals, value: meat}]
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")


@pytest.fixture
def trained(trained: RunDir, tmp_path: Path) -> RunDir:
    """A copy: its scores are kept beside it."""
    return RunDir(shutil.copytree(trained.path, tmp_path / trained.id))


@pytest.fixture
def name(trained: RunDir) -> str:
    return str(trained.path)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "spec.yaml").write_text(SPEC)
    return str(tmp_path / "spec.yaml")


class TestEvaluating:
    def test_base_and_tuned_side_by_side(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", name]) == 0
        shown = capsys.readouterr().out
        assert "Answering 4 rows with the base model" in shown
        assert "Answering 4 rows with the tuned model" in shown
        assert "A few answers" in shown
        assert "Probability of right answers to general questions" in shown
        assert "0.0%" in shown
        assert "Next: tunesmith chat" in shown

    def test_as_json(self, trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", str(trained.path), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        metrics = lines(trained.metrics_file)[-1]
        assert told["rows"] == metrics["rows"]
        assert told["run"] == trained.id
        assert told["exact_match"]["base"] == 0.0
        kept = json.loads(trained.scores_file.read_text())
        assert {"base": kept["base"], "tuned": kept["tuned"]} == told["exact_match"]
        assert (kept["rows"], kept["step"]) == (told["rows"], 20)

    def test_other_rows_and_fewer_of_them(
        self, name: str, trained: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = write_rows(
            tmp_path / "other.jsonl",
            [
                ROWS[0],
                ROWS[6],
                *({"prompt": text, "completion": "x"} for text in ("food ham", "word " * 600)),
            ],
        )
        assert main(["evaluate", name, "--data", str(other), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["exact_match"] == {"base": 0.0, "tuned": 0.5}
        assert (told["rows"], told["unanswered"]) == (4, 1)
        assert main(["evaluate", name, "--data", str(other), "--rows", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["exact_match"]["tuned"] == 1.0
        assert not trained.scores_file.exists()  # they are about other rows

    def test_of_pairs_the_better_answer_is_expected(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        right, wrong = ROWS[0]["completion"], "no"
        pairs = [{"prompt": ROWS[0]["prompt"], "chosen": right, "rejected": wrong}]
        swapped = [{"prompt": ROWS[0]["prompt"], "chosen": wrong, "rejected": right}]
        for rows, share in ((pairs, 1.0), (swapped, 0.0)):
            data = write_rows(tmp_path / "pairs.jsonl", rows)
            assert main(["evaluate", name, "--data", str(data), "--json"]) == 0
            told = json.loads(capsys.readouterr().out)
            assert told["exact_match"]["tuned"] == share
            preferred = told["preferences"]
            assert (preferred["pairs"], preferred["tuned"]["share"], preferred["gained"]["share"]) == (
                1,
                share,
                share,
            )
            low, high = preferred["tuned"]["interval"]
            assert low <= share <= high
        assert main(["evaluate", name, "--data", str(data)]) == 0
        shown = capsys.readouterr().out
        assert "better answer of 1 pairs, 95 % interval" in shown
        assert "0.0% (0% to 79%)" in shown

    def test_nothing_to_score(self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "asked.txt").write_text("test input\n")
        assert main(["evaluate", name, "--data", "asked.txt"]) == 2
        assert "no rows with an answer" in capsys.readouterr().err


class TestASpec:
    def test_every_model_side_by_side(
        self, name: str, spec: str, trained: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = str(write_rows(tmp_path / "asked.jsonl", [ROWS[0], ROWS[6], ROWS[10]]))
        words = [
            "evaluate",
            name,
            "--spec",
            spec,
            "--data",
            data,
            "--few-shot",
            "2",
            "--checkpoint",
            "all",
            "--json",
        ]
        assert main(words) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["models"] == ["base", "base, 2 examples", "step 10", "step 20", "tuned"]
        assert told["source"] == "spec.yaml on asked.jsonl"
        assert {score["metric"] for score in told["scores"]} == {
            *("all checks", "right", "short", "label", "not-contains", "similar", "perplexity", "equals")
        }
        scores = {(each["metric"], each["model"]): each for each in told["scores"]}
        assert scores["right", "base"]["passed"] == 0
        assert scores["right", "tuned"]["passed"] == 1
        assert (scores["right", "tuned"]["rows"], told["rows"]) == (3, 4)
        assert scores["equals", "tuned"]["rows"] == 1
        assert scores["perplexity", "tuned"]["mean"] > scores["perplexity", "base"]["mean"] > 0
        verdicts = {(each["metric"], each["against"]): each["verdict"] for each in told["verdicts"]}
        assert verdicts["right", "step 20"] == "no difference seen"
        assert told["labels"]["tuned"]["macro_f1"] == 1
        assert 0 < told["chance"] <= 1
        assert told["lost"] == []
        assert (told["forgetting"]["rows"], told["forgetting"]["against"]) == (40, "base")
        kept = read_evaluations(trained.evaluation_file).of_step(20)
        assert [each.source for each in kept] == ["spec.yaml on asked.jsonl"]

    def test_a_report_that_can_be_run_again(
        self, name: str, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["evaluate", name, "--spec", spec, "--out", "report"]) == 0
        assert "The report is in" in capsys.readouterr().out
        files = sorted(path.name for path in (tmp_path / "report").iterdir())
        assert files == [
            "cases.jsonl",
            "junit.xml",
            "report.json",
            "report.md",
            "spec.yaml",
            "test_answers.py",
        ]
        assert len(lines(tmp_path / "report/cases.jsonl")) == 4
        assert main(["evaluate", name, "--spec", spec, "--out", "report"]) == 2
        assert "exists already" in capsys.readouterr().err

    def test_columns_of_a_file_are_known_to_the_checks(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = write_rows(tmp_path / "asked.jsonl", [ROWS[6] | {"kind": "meat"}, ROWS[7] | {"kind": "fish"}])
        (tmp_path / "spec.yaml").write_text("defaultTest: {assert: [{type: equals, value: '{{kind}}'}]}")
        assert main(["evaluate", name, "--data", str(data), "--spec", "spec.yaml", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {each["model"]: each["passed"] for each in told["scores"]} == {"base": 0.0, "tuned": 0.5}
        assert told["source"] == "spec.yaml on asked.jsonl"

    def test_another_run_stands_beside_it(
        self, name: str, trained: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(trained.path, tmp_path / "other")
        assert main(["evaluate", name, "--against", str(tmp_path / "other"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["models"] == ["base", "other", "tuned"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "tests: [{vars: {prompt: a}, assert: [{type: llm-rubric, value: kind}]}]",
                "llm-rubric is not determin",
            ),
            ("defaultTest: {assert: [{type: python, value: 'check.py'}]}", "would run the code"),
            ("scenarios: []", "scenarios"),
        ],
    )
    def test_what_is_not_read_is_refused_before_a_model_is_loaded(
        self, name: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "spec.yaml").write_text(text)
        assert main(["evaluate", name, "--spec", "spec.yaml"]) == 2
        screen = capsys.readouterr()
        assert (said in screen.err, screen.out) == (True, "")

    def test_a_function_of_a_person_is_asked_where_it_is_allowed(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "check.py").write_text("def get_assert(output, context): return output == 'meat'")
        (tmp_path / "spec.yaml").write_text("defaultTest: {assert: [{type: python, value: check.py}]}")
        assert main(["evaluate", name, "--spec", "spec.yaml", "--python", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["scores"][0]["metric"] == "python"


def test_a_result_that_is_worse_is_not_uploaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.yaml").write_text("defaultTest: {assert: [{type: not-regex, value: '^[a-z ]+$'}]}")
    data = write_rows(tmp_path / "asked.jsonl", ROWS)
    assert main(["evaluate", name, "--data", str(data), "--spec", "spec.yaml", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["verdicts"][0]["verdict"] == "worse"
    assert len(told["lost"]) > 10
    assert main(["export", name, "--to", "hub", "--repo", "me/food", "--dry-run"]) == 2
    assert "worse than its base" in capsys.readouterr().err
