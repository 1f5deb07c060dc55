"""A file of answers, whole and in order, whatever happens meanwhile: backend/inference/batch.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.data.sources import ReadOptions
from backend.errors import DataError, InferenceError
from backend.inference.batch import WINDOW_ROWS, BatchCounts, answer_file, read_prompts
from backend.inference.constraint import Constraint
from backend.inferencer import ROWS_AT_ONCE, Inferencer
from backend.run.folder import RunDir
from backend.utils.lock_utils import hold_lock
from tests.eventually import eventually
from tests.runs import child_environment, lines, tree

WORDS = ["test input", "food pork", "food pear", "hello", "x y z", "which section"]
TORN = '{"place": "a.js'
ANSWERS = {"test input": "expected output", "food pork": "meat", "food pear": "fruit"}


@pytest.fixture(scope="module")
def model(trained: RunDir) -> Iterator[Inferencer]:
    with Inferencer(trained) as loaded:
        yield loaded


def _rows(path: Path, count: int = 150) -> Path:
    """Rows of many lengths, some that cannot be read and some that cannot be answered."""
    written = []
    for index in range(count):
        prompt = f"{WORDS[index % 6]}{' again' * (index % 7)}" if index % 3 else WORDS[index % 6]
        written.append(json.dumps({"prompt": "word " * 600 if index % 50 == 20 else prompt}))
        written += ['{"prompt": '] * (index % 40 == 30)
    path.write_text("\n".join(written) + "\n")
    return path


class TestReading:
    def test_rows_that_cannot_be_read_stand_in_their_place(self, tmp_path: Path) -> None:
        asked = read_prompts(_rows(tmp_path / "a.jsonl"))
        assert [one.place for one in asked] == [f"a.jsonl:{n}" for n in range(1, 154)]
        assert [one.place for one in asked if one.problem] == ["a.jsonl:32", "a.jsonl:73", "a.jsonl:114"]
        assert asked[31].problem.startswith("This row cannot be read: ")

    def test_every_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one\n\ntwo\n")
        (tmp_path / "a.csv").write_text("prompt,completion\none,1\ntwo,2\n")
        (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
        seen = {kind: read_prompts(tmp_path / f"a.{kind}") for kind in ("txt", "csv", "jsonl")}
        user = [[{"role": "user", "content": word}] for word in ("one", "two")]
        assert [one.prompt for one in seen["txt"]] == ["one", "two"]
        assert [one.prompt for one in seen["csv"]] == [one.prompt for one in seen["jsonl"]] == user
        assert [one.expected for one in seen["csv"]] == ["1", "2"]
        assert [one.place for one in seen["txt"]] == ["a.txt:1", "a.txt:3"]

    def test_rows_of_several_shapes_in_one_file(self, tmp_path: Path) -> None:
        said = {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "B"}]}
        rows = [{"prompt": "a"}, said, {"prompt": "c", "completion": "C"}, {"prompt": 7.5}, {"nothing": 1}]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        asked = read_prompts(tmp_path / "a.jsonl")
        assert [one.prompt and one.prompt[0]["content"] for one in asked] == ["a", "b", "c", "7.5", ""]  # type: ignore[index]
        assert [one.expected for one in asked] == ["", "B", "C", "", ""]
        assert [one.place for one in asked] == [f"a.jsonl:{n}" for n in range(1, 6)]
        assert [bool(one.problem) for one in asked] == [False] * 4 + [True]

    def test_tools_of_a_row(self, tmp_path: Path) -> None:
        tool = {"type": "function", "function": {"name": "weigh", "parameters": {}}}
        row = {
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}],
            "tools": [tool],
        }
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
        (asked,) = read_prompts(tmp_path / "a.jsonl")
        assert asked.tools == [tool]

    @pytest.mark.parametrize("name", ["missing.jsonl", "missing.txt", "empty.jsonl", "broken.jsonl"])
    def test_what_cannot_be_read_at_all(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty.jsonl").touch()
        (tmp_path / "broken.jsonl").write_text("{\n{\n")
        with pytest.raises(DataError):
            read_prompts(tmp_path / name)


class TestAnswering:
    def test_in_order_with_the_bad_beside_the_good(self, model: Inferencer, tmp_path: Path) -> None:
        source = _rows(tmp_path / "a.jsonl")
        told: list[tuple[int, int]] = []
        found = answer_file(
            model, source, tmp_path / "out.jsonl", progress=lambda *n: told.append(n), max_new_tokens=16
        )
        said = lines(tmp_path / "out.jsonl")
        assert [line["place"] for line in said] == [one.place for one in read_prompts(source)]
        assert found == BatchCounts(rows=153, answered=147, taken_up=0)
        assert [line["place"] for line in said if "error" in line] == [
            f"a.jsonl:{n}" for n in (21, 32, 72, 73, 114, 124)
        ]
        known = [line for line in said if "prompt" in line and line["prompt"][0]["content"] in ANSWERS]
        assert len(known) > 20
        assert all(line["answer"] == ANSWERS[line["prompt"][0]["content"]] for line in known)
        assert told == [(0, 153), (64, 153), (128, 153), (153, 153)]
        assert sorted(tree(tmp_path)) == ["a.jsonl", "out.jsonl"]

    def test_sampling_and_forms_reach_the_model(self, model: Inferencer, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("test input\nfood pork\n")
        answer_file(model, tmp_path / "a.txt", tmp_path / "o", constraint=Constraint.choice("Ham"))
        answer_file(model, tmp_path / "a.txt", tmp_path / "p", max_new_tokens=1)
        assert [line["answer"] for line in lines(tmp_path / "o")] == ["Ham", "Ham"]
        assert lines(tmp_path / "p")[0]["answer"] == "e"

    def test_answers_that_are_there_are_not_replaced_unasked(self, model: Inferencer, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("test input\n")
        (tmp_path / "out").write_text("precious")
        before = tree(tmp_path)
        with pytest.raises(InferenceError) as caught:
            answer_file(model, tmp_path / "a.txt", tmp_path / "out")
        assert caught.value.code == "out-exists"
        assert tree(tmp_path) == before
        assert answer_file(model, tmp_path / "a.txt", tmp_path / "out", overwrite=True).answered == 1

    def test_two_never_write_into_one_file(self, model: Inferencer, tmp_path: Path) -> None:
        source = _rows(tmp_path / "a.jsonl", 70)
        with pytest.raises(_StopError):
            answer_file(model, source, tmp_path / "out", progress=_stop)
        with hold_lock(tmp_path / "out"), pytest.raises(InferenceError) as caught:
            answer_file(model, source, tmp_path / "out")
        assert caught.value.code == "out-in-use"


class _StopError(Exception):
    """Ends a call in the middle, as a kill would."""


VARIED: dict[str, Any] = {"temperature": 1.5, "seed": 3, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def undisturbed(model: Inferencer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The answers to the usual rows, written in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    answer_file(model, _rows(folder / "a.jsonl"), folder / "out", **VARIED)
    return (folder / "out").read_bytes()


class TestTakingUp:
    @pytest.mark.parametrize(
        ("kept", "torn"),
        [(0, TORN), (1, ""), (63, TORN), (64, ""), (64, TORN), (65, TORN), (152, ""), (153, "")],
    )
    def test_from_any_line_the_bytes_are_the_same(
        self, model: Inferencer, undisturbed: bytes, tmp_path: Path, kept: int, torn: str
    ) -> None:
        source, out = _rows(tmp_path / "a.jsonl"), tmp_path / "out"
        with pytest.raises(_StopError):
            answer_file(model, source, out, progress=_stop, **VARIED)
        out.write_bytes(b"".join(undisturbed.splitlines(keepends=True)[:kept]) + torn.encode())
        found = answer_file(model, source, out, **VARIED)

        assert out.read_bytes() == undisturbed
        assert (found.taken_up, found.answered) == (kept, 147)
        assert sorted(tree(tmp_path)) == ["a.jsonl", "out"]

    @pytest.mark.parametrize(
        "change",
        [
            {"max_new_tokens": 6},
            {"seed": 1},
            {"stop": ["a"]},
            {"constraint": Constraint.regex("a+")},
            {"source": 1},
        ],
        ids=str,
    )
    def test_unfinished_answers_to_something_else_are_refused(
        self, model: Inferencer, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        source = _rows(tmp_path / "a.jsonl", 70)
        options: dict[str, Any] = {"max_new_tokens": 2}
        with pytest.raises(_StopError):
            answer_file(model, source, tmp_path / "out", progress=_stop, **options)
        _rows(source, 70 + change.pop("source", 0))
        before = tree(tmp_path)

        with pytest.raises(InferenceError) as caught:
            answer_file(model, source, tmp_path / "out", **{**options, **change})

        assert caught.value.code == "another-batch"
        assert tree(tmp_path) == before

    def test_so_are_those_of_another_model(self, model: Inferencer, trained: RunDir, tmp_path: Path) -> None:
        source = _rows(tmp_path / "a.jsonl", 70)
        with pytest.raises(_StopError):
            answer_file(model, source, tmp_path / "out", progress=_stop)
        with Inferencer(trained, checkpoint=10) as other, pytest.raises(InferenceError) as caught:
            answer_file(other, source, tmp_path / "out")
        assert caught.value.code == "another-batch"

    def test_answers_that_somebody_changed_are_refused(self, model: Inferencer, tmp_path: Path) -> None:
        source = _rows(tmp_path / "a.jsonl", 70)
        with pytest.raises(_StopError):
            answer_file(model, source, tmp_path / "out", progress=_stop)
        (tmp_path / "out").write_text('{"place": "elsewhere:1", "answer": "a"}\n')
        with pytest.raises(DataError) as caught:
            answer_file(model, source, tmp_path / "out")
        assert caught.value.code == "answers-changed"


def _stop(_done: int, _total: int) -> None:
    raise _StopError


@pytest.mark.slow
def test_what_a_killed_child_left_is_taken_up(model: Inferencer, trained: RunDir, tmp_path: Path) -> None:
    """``make rel-batch`` kills five times."""
    source, out, whole = _rows(tmp_path / "a.jsonl", 260), tmp_path / "out", tmp_path / "whole"
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.2, "top_p": 1.0, "top_k": 0}
    answer_file(model, source, whole, **options)
    command = [
        sys.executable,
        "-m",
        "backend.commands.cli",
        "infer",
        str(trained.path),
        "--file",
        str(source),
    ]
    command += ["--max-new-tokens", "24", "--temperature", "1.2", "--out", str(out)]
    with subprocess.Popen(command, env=child_environment(), stdout=subprocess.DEVNULL) as child:
        eventually(lambda: len(lines(out)) > WINDOW_ROWS, timeout_seconds=60)
        child.send_signal(signal.SIGKILL)
    assert (tmp_path / "out.progress").exists()

    found = answer_file(model, source, out, **options)

    assert found.taken_up > WINDOW_ROWS
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.progress").exists()


def test_a_window_is_a_whole_number_of_batches() -> None:
    assert WINDOW_ROWS % ROWS_AT_ONCE == 0


class TestReadingAnyFileOfQuestions:
    @pytest.mark.parametrize("name", ["question", "query", "prompt", "input", "Instruction"])
    def test_questions_in_any_usual_column(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "a.csv").write_text(f"id,{name}\n1,one\n2,two\n")
        asked = read_prompts(tmp_path / "a.csv")
        assert [one.prompt[0]["content"] for one in asked] == ["one", "two"]  # type: ignore[index]

    def test_what_belongs_to_a_question_is_asked_with_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"instruction": "one", "input": "two", "system": "three"}\n')
        (one,) = read_prompts(tmp_path / "a.jsonl")
        said = [message["content"] for message in one.prompt]  # type: ignore[index]
        assert said == ["three", "one\ntwo"]

    def test_a_list_of_texts(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('["one", "two"]')
        assert [one.prompt for one in read_prompts(tmp_path / "a.json")] == ["one", "two"]

    def test_columns_encoding_and_delimiter_that_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes("Nr~Frage\n1~grün\n".encode("cp1252"))
        (one,) = read_prompts(tmp_path / "a.csv", {"prompt": "Frage"}, ReadOptions("cp1252", "~"))
        assert one.prompt[0]["content"] == "grün"  # type: ignore[index]

    def test_the_questions_are_never_written_over(self, model: Inferencer, tmp_path: Path) -> None:
        source = _rows(tmp_path / "a.jsonl", 3)
        before = source.read_bytes()
        with pytest.raises(InferenceError, match="holds the questions") as caught:
            answer_file(model, source, source, overwrite=True)
        assert (caught.value.code, source.read_bytes()) == ("out-is-source", before)

    def test_another_reading_is_another_batch(self, model: Inferencer, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("Frage,Nr\nfood pork,1\n")
        out = tmp_path / "out.jsonl"
        out.with_name("out.jsonl.progress").write_text("{}")
        answer_file(
            model, tmp_path / "a.csv", out, columns={"prompt": "Frage"}, overwrite=True, max_new_tokens=2
        )
        assert [line["prompt"][0]["content"] for line in lines(out)] == ["food pork"]
