"""Rewards: verifiers and functions side by side, their weights and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.core.encoding.prompts import Completion, Prompt
from backend.errors import ConfigError
from backend.inference.evals.verdicts import Answer, Row, Score
from backend.run.config import ObjectiveConfig
from backend.training.rewards import Rewards, VerifierReward, seen_by_verifiers

PROMPT = Prompt("r.jsonl:1", "a?", (1,), "yes", (), {"level": 2, "prompt": "raw", "expected": "raw"})
SAID = [
    Completion((5, 6), "yes", is_truncated=False),
    Completion((5,), "no", is_truncated=True),
    Completion((5,), "", is_truncated=False),
]


class Length:
    """A verifier that notes what it is given, and decides nothing about an empty answer."""

    name, weight = "length", 0.5

    def __init__(self) -> None:
        self.seen: list[tuple[Answer, Row]] = []
        self.is_closed = False

    def __call__(self, answer: Answer, row: Row) -> Score:
        self.seen.append((answer, row))
        return Score(True, len(answer.text) / 4, "", decided=bool(answer.text))

    def close(self) -> None:
        self.is_closed = True


def test_a_verifier_sees_the_answer_and_its_row_and_its_score_is_the_reward() -> None:
    verifier = Length()
    assert VerifierReward(verifier)(PROMPT, SAID) == [0.75, 0.5, None]
    answer, row = verifier.seen[1]
    assert (answer.text, answer.finish_reason, answer.tokens) == ("no", "length", 1)
    assert row == seen_by_verifiers(PROMPT) == {"level": 2, "prompt": "a?", "expected": "yes"}


def test_rewards_are_added_up_by_weight_and_an_unknown_one_counts_for_nothing() -> None:
    verifiers = [Length(), Length()]
    with Rewards([VerifierReward(each) for each in verifiers], [2.0, 1.0]) as rewards:
        values = rewards(PROMPT, SAID)
        assert values.shape == (3, 2)
        np.testing.assert_equal(rewards.total(values), [2.25, 1.5, np.nan])
        np.testing.assert_equal(rewards.total(np.array([[1.0, np.nan]])), [2.0])
        assert rewards.names == ["length", "length-2"]
    assert all(each.is_closed for each in verifiers)


def test_the_settings_name_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(completions, **rest): return [3.0] * len(completions)\n")
    settings = ObjectiveConfig(
        method="grpo",
        rewards=["equals", {"type": "contains", "value": "e", "weight": 0.5}],
        reward_funcs=[f"{tmp_path}/mine.py:f"],
    )
    with Rewards.of(settings) as rewards:
        assert rewards.names == ["equals", "contains", "f"]
        assert rewards.total(rewards(PROMPT, SAID)).tolist() == [4.5, 3.0, 3.0]
    weighted = settings.model_copy(update={"reward_weights": [1.0, 2.0, 0.0]})
    with Rewards.of(weighted) as rewards:
        assert rewards.total(rewards(PROMPT, SAID)).tolist() == [3.0, 0.0, 0.0]


def test_an_assertion_that_there_is_not_is_refused_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"objective\.rewards\[1\]"):
        Rewards.of(ObjectiveConfig(method="grpo", rewards=["equals", "shines"]))
