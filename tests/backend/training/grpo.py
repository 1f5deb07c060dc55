"""What the tests of GRPO share: prompts of a tiny model, and a reward for a letter."""

from __future__ import annotations

from collections.abc import Sequence

from backend.core.encoding.prompts import Completion, Prompt
from backend.core.tokenizer import encode_prompt
from backend.run.config import ObjectiveConfig
from backend.training.forward import ForwardPass
from backend.training.rewards import Rewards
from backend.training.rollouts import Rollouts
from tests.backend.core.rows import PLAN
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SETTINGS = ObjectiveConfig(method="grpo", rewards=["equals"], num_generations=4, max_completion_length=6)


class HasLetter:
    """Rewards every answer that holds a letter."""

    def __init__(self, letter: str = "e") -> None:
        self.name, self._letter = "letter", letter

    def __call__(self, _: Prompt, completions: Sequence[Completion]) -> list[float | None]:
        return [float(self._letter in completion.text) for completion in completions]

    def close(self) -> None:
        """Nothing was started."""


def some_prompts(count: int) -> list[Prompt]:
    """So many questions."""
    asked = [f"food number {number}" for number in range(count)]
    ids = [encode_prompt(TOKENIZER, [{"role": "user", "content": text}]) for text in asked]
    return [
        Prompt(f"p.jsonl:{number}", text, tuple(each), "")
        for number, (text, each) in enumerate(zip(asked, ids, strict=True), 1)
    ]


def rollouts_of(
    forward: ForwardPass,
    count: int = 6,
    settings: ObjectiveConfig = SETTINGS,
    *,
    reward: HasLetter | None = None,
    seed: int = 1,
) -> Rollouts:
    """Rollouts of ``forward`` over so many prompts."""
    rewards = Rewards([reward or HasLetter()], [1.0])
    return Rollouts(some_prompts(count), forward, TOKENIZER, rewards, settings, PLAN, seed=seed)
