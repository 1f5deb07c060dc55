"""A configuration becomes a run, and the run is carried out: backend/commands/train.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import yaml

from backend.commands.cli import main
from backend.commands.options import find_run
from backend.core.tokenizer import encode_prompt, load_tokenizer
from backend.inferencer import Inferencer
from backend.manager import alerts, process_manager
from backend.manager.queue_manager import QueueManager
from backend.manager.run_manager import RunManager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.run.settings import resolve_config, run_config
from tests.runs import DISTINCT, ROWS, SHORT, make_run, series, settings, tree, write_rows
from tests.tiny import tiny_model_folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    _ = [monkeypatch.delenv(name) for name in os.environ if name.startswith("TUNESMITH__")]


def flags(changes: dict[str, Any]) -> list[str]:
    return [word for name, value in changes.items() for word in (f"--{name}", json.dumps(value).strip('"'))]


def short(model: Path, rows: Path, **changes: Any) -> list[str]:
    fixed = {"model.model_name_or_path": str(model), "model.dtype": "float32", "data.train": str(rows)}
    return flags(fixed | SHORT | {name.replace("__", "."): value for name, value in changes.items()})


def test_a_place_among_processes_of_somebody_else_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--data.train", "rows.jsonl", "--detach"]) == 2
    assert "RANK and WORLD_SIZE" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


PAIRS = [
    {"prompt": f"food number {number}", "chosen": f"kind {number % 7}", "rejected": f"no idea, {number}"}
    for number in range(24)
]
MARKED = [
    {"prompt": each["prompt"], "completion": each["chosen"], "label": n % 2 == 0}
    for n, each in enumerate(PAIRS)
]


class TestBareRows:
    @pytest.mark.parametrize(
        ("rows", "method", "told"),
        [
            (PAIRS, "dpo", "rows.jsonl holds pairs of answers: trained with --objective.method dpo."),
            (MARKED, "kto", "answers marked good or bad"),
            (DISTINCT, "sft", ""),
        ],
        ids=["pairs", "marked", "answers"],
    )
    def test_the_method_is_the_usual_one_for_the_rows(
        self, learner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        rows: list[dict[str, Any]], method: str, told: str,
    ) -> None:  # fmt: skip
        write_rows(tmp_path / "rows.jsonl", rows)
        words = ["rows.jsonl", "--model.model_name_or_path", str(learner), "--dry-run"]
        assert main(["train", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["config"]["objective"]["method"] == method
        assert main(["train", *words]) == 0
        assert told in capsys.readouterr().out

    def test_a_method_that_is_named_is_kept(
        self, learner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_rows(tmp_path / "rows.jsonl", PAIRS)
        words = ["rows.jsonl", "--model.model_name_or_path", str(learner), "--objective.method", "orpo"]
        assert main(["train", *words, "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["config"]["objective"]["method"] == "orpo"

    def test_rows_that_are_not_there_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "missing.jsonl"]) == 2
        assert "missing.jsonl does not exist" in capsys.readouterr().err


class TestTraining:
    def test_from_flags_to_adapter(
        self,
        learner: Path,
        rows_file: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        told = create_autospec(alerts.send, return_value=("Nobody heard.",))
        monkeypatch.setattr("backend.commands.carry_out.send", told)
        assert main(["train", *short(learner, rows_file), "--evaluation.score_rows", "0"]) == 0
        (run,) = RunDir.all_under(tmp_path / "runs")
        printed, screen = capsys.readouterr()
        (alert, _) = told.call_args.args
        assert (alert.run, alert.status) == (run.id, "finished")
        assert "Nobody heard." in screen
        assert run.status() is RunStatus.FINISHED
        assert f"Run {run.id}" in printed
        assert "Finished: Trained 4 steps." in printed
        assert str(run.adapter) in printed
        assert f"tunesmith evaluate {run.id} " in printed
        assert screen.count("held-out loss") == 3
        assert run_config(run).training.max_steps == 4
        assert "-foods-" in run.id

    def test_alerts_that_would_not_be_sent_are_refused(
        self, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TUNESMITH_ALERT_DESKTOP", "yes")
        assert main(["train", "--data.train", str(rows_file)]) == 2
        assert not (tmp_path / "runs").exists()

    def test_from_a_file_with_an_override_as_json(
        self, learner: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "run.yaml"
        config.write_text(yaml.safe_dump(settings(learner, rows_file)))
        words = [
            "train",
            "run.yaml",
            "--training.max-steps",
            "2",
            "--name=Mine",
            "--runs",
            "elsewhere",
            "--json",
        ]
        assert main(words) == 0
        (run,) = RunDir.all_under(tmp_path / "elsewhere")
        printed, screen = capsys.readouterr()
        assert json.loads(printed) == {
            "run": run.id,
            "path": str(run.path),
            "status": "finished",
            "code": "completed",
            "message": "Trained 2 steps.",
            "remedy": "",
            "step": 2,
            "result": str(run.adapter),
            "attempt": 0,
            "warnings": [],
        }
        assert screen == ""
        assert "-mine-" in run.id
        assert max(line["step"] for line in series(run)) == 2


class TestDryRun:
    def test_it_says_what_it_found_and_writes_nothing(
        self, learner: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", *short(learner, rows_file), "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert "train rows: 14" in shown
        assert "validation rows: 4" in shown
        assert tree(tmp_path) == {}

    def test_as_json(
        self, learner: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", *short(learner, rows_file), "--dry-run", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["config"] == resolve_config(short(learner, rows_file)).model_dump(mode="json")
        assert told["dry_run"]["train_rows"] + told["dry_run"]["validation_rows"] == len(ROWS)
        assert 0 < told["dry_run"]["trained_tokens_per_epoch"] < told["dry_run"]["tokens_per_epoch"]

    @pytest.mark.parametrize("where", [["--dry-run"], ["--queue"], []])
    def test_a_layer_that_is_not_there_is_said_before_there_is_a_run(
        self,
        learner: Path,
        rows_file: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        where: list[str],
    ) -> None:
        targets = "--tuning.lora_target_modules=q_proj,v_prj"
        assert main(["train", *short(learner, rows_file), targets, *where]) == 2
        assert "did you mean v_proj?" in capsys.readouterr().err
        assert tree(tmp_path) == {}

    def test_held_out_rows_that_are_trained_too_are_counted(
        self, learner: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "runs").mkdir()
        QueueManager(tmp_path / "runs").set_slots("default", 0)  # what is queued here never starts
        same = [*short(learner, rows_file), f"--data.validation={rows_file}", "--accept", "contamination"]
        assert main(["train", *same, "--dry-run"]) == 0
        assert f"trained questions: {len(ROWS)}" in capsys.readouterr().out
        assert main(["train", *same, "--queue"]) == 0
        warning = f"Warning: {len(ROWS)} of the {len(ROWS)} held-out rows ask what training rows ask"
        assert warning in capsys.readouterr().out
        for where in (["--queue"], ["--dry-run"]):
            assert main(["train", *same, *where, "--json"]) == 0
            told = json.loads(capsys.readouterr().out)
            (found,) = told.get("dry_run", told)["warnings"]
            assert f"Warning: {found}".startswith(warning)

    def test_what_the_template_does_unseen_is_said(
        self, learner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = write_rows(
            tmp_path / "late.jsonl", [{"prompt": f"food {n}", "completion": "\n\nmeat"} for n in range(9)]
        )
        assert main(["train", *short(learner, rows), "--dry-run"]) == 0
        assert "Warning: The model will be asked in another way than it is trained" in capsys.readouterr().out

    def test_it_reads_no_weights(
        self, tmp_path: Path, rows_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tiny_model_folder(tmp_path / "model")
        (folder / "model.safetensors").write_bytes(b"no weights at all")
        assert main(["train", *short(folder, rows_file), "--dry-run"]) == 0


class TestTheConfiguration:
    def test_somebody_whose_home_is_nowhere_is_only_a_name(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", "--data.train", "~no-such-person/rows.jsonl", "--dry-run"]) == 2
        assert "~no-such-person/rows.jsonl does not exist" in capsys.readouterr().err


class TestInTheBackground:
    def test_it_returns_at_once_and_says_how_to_watch_and_stop(
        self, learner: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", *short(learner, rows_file, training__max_steps=100_000), "--detach"]) == 0
        (run,) = RunDir.all_under(tmp_path / "runs")
        printed = capsys.readouterr().out
        assert f"tunesmith runs watch {run.id} " in printed
        assert f"tunesmith runs stop {run.id} " in printed
        assert run.state().is_live
        assert process_manager.stop(run).status in {RunStatus.STOPPED, RunStatus.INTERRUPTED}

    def test_a_run_is_found_by_the_name_it_was_given(
        self, learner: Path, rows_file: Path, tmp_path: Path
    ) -> None:
        run = make_run(tmp_path / "runs", learner, rows_file)
        RunManager(tmp_path / "runs").rename(run.id, "first try")
        assert find_run(Path("runs"), "first try") == run


class TestBetweenCheckAndStart:
    def test_a_run_whose_data_changed_meanwhile_refuses(
        self,
        learner: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        rows = write_rows(tmp_path / "rows.jsonl")
        create = RunDir.create

        def changing(*given: Any, **options: Any) -> RunDir:
            write_rows(rows, ROWS[:-1])
            return create(*given, **options)

        monkeypatch.setattr(RunDir, "create", changing)
        assert main(["train", *short(learner, rows)]) == 2
        (run,) = RunDir.all_under(tmp_path / "runs")
        outcome = run.read_outcome()
        assert outcome
        assert (outcome.status, outcome.code) == (RunStatus.FAILED, "data-changed")
        assert run_config(run).data.sha256[str(rows)][:16] in outcome.message

    def test_refused_rows_are_kept_with_the_run(self, learner: Path, tmp_path: Path) -> None:
        rows = write_rows(tmp_path / "rows.jsonl")
        rows.write_text(rows.read_text() + "{broken\n")
        assert main(["train", *short(learner, rows, data__max_rejected_share=0.2)]) == 0
        (run,) = RunDir.all_under(tmp_path / "runs")
        (refused,) = [json.loads(line) for line in run.rejected_file.read_text().splitlines()]
        assert refused["place"] == f"rows.jsonl:{len(ROWS) + 1}"
        assert refused["raw"].strip() == "{broken"

    def test_nothing_refused_leaves_no_file(self, learner: Path, rows_file: Path, tmp_path: Path) -> None:
        assert main(["train", *short(learner, rows_file)]) == 0
        (run,) = RunDir.all_under(tmp_path / "runs")
        assert not run.rejected_file.exists()


class TestChatTemplates:
    CHAT = [  # noqa: RUF012 - read only
        {
            "messages": [
                {"role": "user", "content": f"food {number}"},
                {"role": "assistant", "content": "meat"},
                {"role": "user", "content": "sure?"},
                {"role": "assistant", "content": "yes"},
            ]
        }
        for number in range(12)
    ]

    @pytest.fixture
    def words(self, tmp_path: Path) -> list[str]:
        model = tiny_model_folder(tmp_path / "base", family="base")
        return ["train", *short(model, write_rows(tmp_path / "chats.jsonl", self.CHAT))]

    def test_conversations_without_one_are_an_error_that_names_the_setting(
        self, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words) == 2
        assert "Set model.chat_template, for example to chatml" in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("given", ["alpaca", "mine.jinja"])
    def test_a_base_model_learns_conversations_and_keeps_the_template(
        self, words: list[str], tmp_path: Path, given: str
    ) -> None:
        jinja = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
        (tmp_path / "mine.jinja").write_text(jinja)
        assert main([*words, "--model.chat_template", given]) == 0
        (run,) = RunDir.all_under(tmp_path / "runs")
        (tmp_path / "mine.jinja").unlink()
        kept = {"alpaca": "alpaca", "mine.jinja": jinja}[given]
        assert run_config(run).model.chat_template == kept
        trained = load_tokenizer(run.adapter)
        expected = load_tokenizer(tmp_path / "base", chat_template=kept)
        assert trained.chat_template == expected.chat_template
        with Inferencer(run) as answers, Inferencer(run, checkpoint="latest") as at_checkpoint:
            asked = [{"role": "user", "content": "food 1"}]
            assert answers.render(asked) == at_checkpoint.render(asked) == encode_prompt(expected, asked)

    def test_an_unknown_name(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*words, "--model.chat_template", "chatlm"]) == 2
        assert "neither a known name nor a readable file" in capsys.readouterr().err
