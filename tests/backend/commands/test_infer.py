"""Answers at the command line: backend/commands/infer.py."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.inferencer import Inferencer
from backend.run.folder import RunDir
from tests.runs import ROWS, lines, make_run, tree, write_rows
from tests.tiny import tiny_model_folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def name(trained: RunDir) -> str:
    return str(trained.path)


class TestOnePrompt:
    @pytest.mark.parametrize("words", [["test input"], ["--prompt", "test input"]])
    def test_the_answer_and_nothing_else(
        self, name: str, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["infer", name, *words]) == 0
        assert capsys.readouterr() == ("expected output\n", "")

    def test_as_json(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["infer", name, "--prompt", "test input", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"prompt": "test input", "answer": "expected output"}

    def test_a_run_by_its_id(self, trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["infer", trained.id, "--runs", str(trained.path.parent), "--prompt", "food pork"]
        assert main(words) == 0
        assert capsys.readouterr().out == "meat\n"

    @pytest.mark.parametrize(
        ("options", "answer"),
        [
            (["--max-new-tokens", "1"], "e"),
            (["--stop", "out"], "expected "),
            (["--stop", "zzz", "--stop", "put"], "expected out"),
            (["--checkpoint", "20"], "expected output"),
            (["--checkpoint", "latest"], "expected output"),
            (["--temperature", "9", "--top-k", "1"], "expected output"),
            (["--temperature", "9", "--top-p", "0.000001", "--seed", "5"], "expected output"),
        ],
    )
    def test_options_reach_the_model(
        self, name: str, options: list[str], answer: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["infer", name, "--prompt", "test input", *options]) == 0
        assert capsys.readouterr().out.startswith(answer)
        assert main(["infer", name, "--prompt", "test input", *options, "--json"]) == 0
        assert "expected output".startswith(json.loads(capsys.readouterr().out)["answer"])

    def test_the_base(self, name: str, learner: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["infer", name, "--base", "--prompt", "test input", "--max-new-tokens", "4"]) == 0
        base = capsys.readouterr().out
        assert main(["infer", str(learner), "--prompt", "test input", "--max-new-tokens", "4"]) == 0
        assert capsys.readouterr().out == base
        assert not base.startswith("expected")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "--prompt or --file: Give exactly one of them."),
            (["--prompt", "x", "--file", "y", "--out", "z"], "--prompt or --file: Give exactly one of them."),
            (["--file", "y"], "--file and --out go together"),
            (["--prompt", "x", "--out", "z"], "--file and --out go together"),
            (["--prompt", ""], "The prompt is empty."),
            (["--prompt", "word " * 600], "The prompt has"),
            (["--prompt", "x", "--temperature", "-1"], "temperature is -1"),
            (["--prompt", "x", "--checkpoint", "7"], "no checkpoint 7"),
            (["--file", "nowhere.jsonl", "--out", "z"], "nowhere.jsonl does not exist"),
        ],
    )
    def test_what_cannot_be_answered(
        self, name: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main(["infer", name, *words]) == 2
        screen = capsys.readouterr()
        assert screen.out == ""
        assert screen.err.startswith("Error: ")
        assert said in screen.err
        assert tree(tmp_path) == {}


class TestAFile:
    def test_every_row_in_order_with_what_was_expected(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = write_rows(tmp_path / "asked.jsonl", [ROWS[6], ROWS[0], ROWS[10]])
        assert main(["infer", name, "--file", str(asked), "--out", "said.jsonl"]) == 0
        answers = lines(tmp_path / "said.jsonl")
        assert [line["answer"] for line in answers] == ["meat", "expected output", "fruit"]
        assert [line["expected"] for line in answers] == ["meat", "expected output", "fruit"]
        assert [line["place"] for line in answers] == ["asked.jsonl:1", "asked.jsonl:2", "asked.jsonl:3"]
        assert answers[1]["prompt"] == [{"role": "user", "content": "test input"}]
        assert capsys.readouterr().out == "3 answers in said.jsonl\n"

    def test_a_prompt_a_line(self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "asked.txt").write_text("test input\n\nfood pear\n")
        words = ["infer", name, "--file", "asked.txt", "--out", "said.jsonl", "--json"]
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == {
            "rows": 2,
            "answered": 2,
            "failed": 0,
            "taken_up": 0,
            "out": "said.jsonl",
        }
        assert [(line["place"], line["answer"]) for line in lines(tmp_path / "said.jsonl")] == [
            ("asked.txt:1", "expected output"),
            ("asked.txt:3", "fruit"),
        ]

    def test_one_bad_row_does_not_lose_the_rest(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "asked.txt").write_text("test input\n" + "word " * 600 + "\nfood plum\n")
        assert main(["infer", name, "--file", "asked.txt", "--out", "said.jsonl"]) == 0
        first, bad, last = lines(tmp_path / "said.jsonl")
        assert (first["answer"], last["answer"]) == ("expected output", "fruit")
        assert "The prompt has" in bad["error"]
        assert "answer" not in bad
        assert "1 rows could not be answered" in capsys.readouterr().out

    def test_only_bad_rows(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "asked.txt").write_text("word " * 600)
        assert main(["infer", name, "--file", "asked.txt", "--out", "said.jsonl"]) == 2
        assert "error" in lines(tmp_path / "said.jsonl")[0]

    def test_an_output_that_cannot_be_written(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = write_rows(tmp_path / "asked.jsonl", ROWS[:1])
        before = tree(tmp_path)
        assert main(["infer", name, "--file", str(asked), "--out", "no/where.jsonl"]) == 2
        assert "no" in capsys.readouterr().err
        assert tree(tmp_path) == before


def _recorded(asked: list[Any]) -> Any:
    """``Inferencer.stream``, its prompts noted."""
    real = Inferencer.stream

    def stream(model: Inferencer, prompt: Any, **options: Any) -> Any:
        asked.append((list(prompt), options))
        return real(model, prompt, **options)

    return stream


class TestChatting:
    def talk(self, monkeypatch: pytest.MonkeyPatch, words: list[str], typed: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return main(["chat", *words])

    def test_a_conversation(
        self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.talk(monkeypatch, [name], "test input\n\n/new\nfood pear\n/exit\nfood ham\n") == 0
        screen = capsys.readouterr().out.replace(">", " ").split()
        assert " ".join(screen) == "Ask away. /new starts over, /exit leaves. expected output fruit"

    def test_what_was_said_before_is_remembered(
        self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        heard: list[Any] = []
        monkeypatch.setattr(Inferencer, "stream", _recorded(heard))
        words = [name, "--system", "Be brief.", "--max-new-tokens", "3", "--temperature", "0", "--seed", "4"]
        assert self.talk(monkeypatch, words, "food ham\nfood pear\n/new\nagain\n") == 0
        system = {"role": "system", "content": "Be brief."}
        assert heard[0][0] == [system, {"role": "user", "content": "food ham"}]
        assert [message["role"] for message in heard[1][0]] == ["system", "user", "assistant", "user"]
        assert heard[1][0][2]["content"] in capsys.readouterr().out
        assert heard[2][0] == [system, {"role": "user", "content": "again"}]
        assert heard[0][1] == {"max_new_tokens": 3, "temperature": 0.0, "seed": 4}

    def test_too_long_a_conversation_is_said_and_survived(
        self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.talk(monkeypatch, [name], "word " * 600 + "\n/new\ntest input\n") == 0
        shown = capsys.readouterr().out
        assert "The prompt has" in shown
        assert "expected output" in shown

    def test_what_the_template_refuses_is_said_and_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tiny_model_folder(tmp_path / "gemma", family="gemma")
        template = "{% if 'rude' in messages[-1].content %}{{ raise_exception('Be kind') }}{% endif %}"
        (folder / "chat_template.jinja").write_text(
            template + "{{ messages | map(attribute='role') | list }}"
        )
        asked: list[Any] = []
        monkeypatch.setattr(Inferencer, "stream", _recorded(asked))
        assert self.talk(monkeypatch, [str(folder), "--max-new-tokens", "2"], "a\nrude\nb\n") == 0
        assert "The model's chat template refuses this conversation" in capsys.readouterr().out
        assert [[message["content"] for message in each][::2] for each, _ in asked] == [
            ["a"],
            ["a", "rude"],
            ["a", "b"],
        ]

    def test_ctrl_c_ends_an_answer_and_then_the_talk(
        self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def cut_short(*_: Any, **__: Any) -> Any:
            yield "half an ans"
            raise KeyboardInterrupt

        monkeypatch.setattr(Inferencer, "stream", cut_short)
        typed = iter(["test input"])

        def read(_: str) -> str:
            for line in typed:
                return line
            raise KeyboardInterrupt

        monkeypatch.setattr("builtins.input", read)
        assert main(["chat", name]) == 0
        assert "half an ans\n" in capsys.readouterr().out


class TestWhatAPersonMeans:
    def test_an_unfinished_run(
        self, tmp_path: Path, learner: Path, rows_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = make_run(tmp_path / "runs", learner, rows_file)
        assert main(["infer", made.id, "--prompt", "x"]) == 2
        assert "has no result: it is created" in capsys.readouterr().err


class TestAFileOfQuestions:
    def test_columns_and_encoding_are_named_as_for_other_commands(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("fragen.csv").write_bytes("Nr~Frage~Länge\n1~food pork~9\n".encode("cp1252"))
        words = ["infer", name, "--file", "fragen.csv", "--out", "out.jsonl", "--columns.prompt", "Frage"]
        assert main([*words, "--encoding", "cp1252", "--data.delimiter", "~"]) == 0
        assert [line["answer"] for line in lines(Path("out.jsonl"))] == ["meat"]

    def test_they_go_with_a_file(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["infer", name, "--prompt", "test input", "--columns.prompt", "Frage"]) == 2
        assert "They go with --file" in capsys.readouterr().err
