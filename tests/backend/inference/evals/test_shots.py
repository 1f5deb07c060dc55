"""Examples before a question: backend/inference/evals/shots.py."""

from __future__ import annotations

import pytest

from backend.data.records import Row
from backend.errors import InferenceError
from backend.inference.evals.shots import choose_shots, with_shots


def turns(*contents: str, system: bool = False) -> tuple[dict[str, str], ...]:
    roles = [*(["system"] if system else []), *["user", "assistant"] * len(contents)]
    return tuple({"role": role, "content": content} for role, content in zip(roles, contents, strict=False))


ROWS = [Row(f"a:{n}", messages=turns(f"q{n}", f"a{n}")) for n in range(20)]


def test_examples_are_the_same_for_the_same_seed() -> None:
    chosen = choose_shots(ROWS, 3, seed=1)
    assert chosen == choose_shots(ROWS, 3, seed=1)
    assert chosen != choose_shots(ROWS, 3, seed=2)
    assert [each["role"] for each in chosen] == ["user", "assistant"] * 3
    assert len({each["content"] for each in chosen}) == 6
    pairs = zip(chosen[::2], chosen[1::2], strict=True)
    assert all(question["content"][1:] == answer["content"][1:] for question, answer in pairs)


def test_only_rows_of_one_exchange_are_examples() -> None:
    odd = [
        Row("b:1", text="x"),
        Row("b:2", messages=turns("a", "b", "c", "d")),
        Row("b:3", messages=turns("a")),
    ]
    system = Row("b:4", messages=({"role": "system", "content": "s"}, *turns("q", "a")))
    assert choose_shots([*odd, system], 1, seed=0) == list(turns("q", "a"))
    for count in (0, 2):
        with pytest.raises(InferenceError, match="1 training rows") as refused:
            choose_shots([*odd, system], count, seed=0)
        assert refused.value.code == "no-shots"


def test_they_stand_after_the_system_message() -> None:
    shots = list(turns("q", "a"))
    question = {"role": "user", "content": "now"}
    system = {"role": "system", "content": "s"}
    assert with_shots("now", shots) == [*shots, question]
    assert with_shots([system, question], shots) == [system, *shots, question]
