"""A person's own reward function, in its real process: what it is given, and every way in which it can go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.core.encoding.prompts import Completion, Prompt
from backend.errors import ConfigError, RewardError
from backend.training.reward_functions import RewardFunction

SOURCE = """
from __future__ import annotations
import os, time
import distributed
from dataclasses import dataclass
from helper import ONE

@dataclass
class Price:
    value: float = distributed.HERE

async def waits(completions, **rest):
    return [ONE for _ in completions]

def by_column(prompts, completions, completion_ids, level, expected, **rest):
    print("seen", prompts)
    each = zip(completions, completion_ids, level, expected)
    return [height + len(ids) + (said == right) for said, ids, height, right in each]

def chats(prompts, completions, **rest):
    return [float(prompts[0][-1]["content"] == "b?" and said[0]["content"] == "yes") for said in completions]

def silent(completions, **rest): return [None, 1.0]
def raises(completions, **rest): raise KeyError("price")
def hangs(completions, **rest): time.sleep(60)
def forks(completions, **rest):
    os.fork()
    time.sleep(60)
def is_killed(completions, **rest): os.kill(os.getpid(), 9)
def reads_input(completions, **rest): return [float(input() == "x") for _ in completions]
def too_few(completions, **rest): return [1.0]
def not_finite(completions, **rest): return [1.0, float("nan")]
def no_list(completions, **rest): return 1.0
def no_numbers(completions, **rest): return ["good", "bad"]
def leaves(completions, **rest): os._exit(3)
def counts(completions, calls=[], **rest):
    calls.append(1)
    return [float(len(calls))] * len(completions)
number = 3
"""
PROMPT = Prompt(
    "rows.jsonl:7", "a?", (1, 2), "yes", ({"role": "user", "content": "a?"},), {"level": 2, "prompt": "a?"}
)
SAID = [Completion((5, 6), "yes", is_truncated=False), Completion((5,), "no", is_truncated=True)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "helper.py").write_text("ONE = 1.0\n", encoding="utf-8")
    (folder / "distributed.py").write_text("HERE = 2.0\n", encoding="utf-8")  # as a module of ours is called
    path = folder / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture
def call(file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with closing(RewardFunction(f"{file}:{request.param}", timeout=20.0)) as function:
        yield function


@pytest.mark.parametrize(
    ("call", "expected"),
    [("by_column", [5.0, 3.0]), ("waits", [1.0, 1.0]), ("silent", [None, 1.0])],
    indirect=["call"],
)
def test_it_sees_what_trl_would_show_and_its_values_are_the_rewards(call: Any, expected: list[float]) -> None:
    assert call(PROMPT, SAID) == expected


@pytest.mark.parametrize("call", ["chats"], indirect=True)
def test_a_row_of_messages_gives_messages(call: Any) -> None:
    asked = (
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "b?"},
    )
    assert call(Prompt("chat.jsonl:1", "b?", (1,), "", asked, {}), SAID) == [1.0, 0.0]
    listed = Prompt("chat.jsonl:2", "b?", (1,), "", asked[2:], {"messages": [dict(asked[2])]})
    assert call(listed, SAID) == [1.0, 0.0]


@pytest.mark.parametrize("call", ["counts"], indirect=True)
def test_one_process_answers_all_calls_until_it_is_closed(call: Any) -> None:
    assert [call(PROMPT, SAID)[0] for _ in range(3)] == [1.0, 2.0, 3.0]
    call.close()
    assert call(PROMPT, SAID)[0] == 1.0


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("raises", "reward-failed", "KeyError: 'price'"),
        ("too_few", "bad-reward", "returned 1 values for 2 answers"),
        ("not_finite", "bad-reward", "returned nan"),
        ("no_list", "reward-failed", "TypeError"),
        ("no_numbers", "reward-failed", "ValueError"),
        ("leaves", "reward-failed", "its process ended"),
        ("is_killed", "reward-failed", "its process ended (-9)"),
        ("reads_input", "reward-failed", "EOFError"),
        ("number", "reward-failed", "no function number"),
        ("missing", "reward-failed", "no function missing"),
    ],
    indirect=["call"],
)
def test_whatever_goes_wrong_is_one_sentence_with_the_row(call: Any, code: str, words: str) -> None:
    with pytest.raises(RewardError) as failed:
        call(PROMPT, SAID)
    assert failed.value.code == code
    assert words in failed.value.message
    assert "rows.jsonl:7" in failed.value.message
    assert "\n" not in failed.value.message


@pytest.mark.parametrize("name", ["hangs", "forks"])
def test_a_function_that_hangs_is_ended_with_what_it_started(file: Path, name: str) -> None:
    with (
        closing(RewardFunction(f"{file}:{name}", timeout=1.5)) as function,
        pytest.raises(RewardError) as failed,
    ):
        function(PROMPT, SAID)
    assert failed.value.code == "reward-too-slow"
    assert "did not end within 1.5 seconds" in failed.value.message


def test_a_file_that_cannot_be_read_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file") as missing:
        RewardFunction(f"{tmp_path}/none.py:f", timeout=1.0)
    assert missing.value.code == "no-reward-file"
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n", encoding="utf-8")
    with (
        closing(RewardFunction(f"{broken}:f", timeout=20.0)) as function,
        pytest.raises(RewardError, match="SyntaxError"),
    ):
        function(PROMPT, SAID)
