"""The rewards of a model's likeliest answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.core.encoding.prompts import Completion, Prompt
from backend.core.tokenizer import decode
from backend.run.metrics import REWARD
from backend.training.advantages import mean
from backend.training.rewards import Rewards


class Judge:
    """Rewards the likeliest answers to held-out prompts; in TRL's names."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        rewards: Rewards,
        max_completion_length: int,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._prompts, self._rewards, self._tokenizer = prompts, rewards, tokenizer
        self.max_completion_length = max_completion_length

    def __call__(self, answers: Sequence[Sequence[int]]) -> dict[str, float]:
        """Return the mean of each reward and of their weighted sum over the answers, given as token ids."""
        longest = self.max_completion_length
        said = [Completion(tuple(ids), decode(self._tokenizer, ids), len(ids) >= longest) for ids in answers]
        values = np.concatenate(
            [self._rewards(prompt, [each]) for prompt, each in zip(self._prompts, said, strict=True)]
        )
        found = {REWARD: mean(self._rewards.total(values))}
        for number, name in enumerate(self._rewards.names):
            found[f"rewards/{name}/mean"] = mean(values[:, number])
        return {name: value for name, value in found.items() if np.isfinite(value)}
