"""The rewards of held-out answers."""

from __future__ import annotations

import pytest

from backend.training.judge import Judge
from backend.training.rewards import Rewards
from tests.backend.training.grpo import TOKENIZER, HasLetter, some_prompts


def test_it_measures_each_reward_and_their_sum() -> None:
    rewards = Rewards([HasLetter("e"), HasLetter("o")], [1.0, 0.5])
    said = [TOKENIZER.encode(text, add_special_tokens=False) for text in ("yes", "no one", "")]
    judge = Judge(some_prompts(3), rewards, 16, TOKENIZER)
    assert judge(said) == pytest.approx(
        {"reward": (1 + 1.5 + 0) / 3, "rewards/letter/mean": 2 / 3, "rewards/letter-2/mean": 1 / 3}
    )


def test_what_is_known_of_no_answer_is_left_out() -> None:
    class Silent(HasLetter):
        def __call__(self, _: object, completions: object) -> list[float | None]:
            return [None]

    judge = Judge(some_prompts(1), Rewards([Silent()], [1.0]), 16, TOKENIZER)
    assert judge([[1]]) == {}
