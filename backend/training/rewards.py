"""What an answer is worth: verifiers of the configuration and a person's own functions, with their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from backend.core.encoding.prompts import Completion, Prompt
from backend.inference.evals.assertions import make_verifier
from backend.inference.evals.verdicts import Answer, Verifier
from backend.run.config import ObjectiveConfig
from backend.training.reward_functions import RewardFunction


class Reward(Protocol):
    """Rewards the answers to one prompt; None for an answer that it says nothing about."""

    name: str

    def __call__(self, prompt: Prompt, completions: Sequence[Completion]) -> Sequence[float | None]:
        """Return a reward for each of ``completions``, in order. Raises RewardError."""
        ...

    def close(self) -> None:
        """End what it has started."""
        ...


class VerifierReward:
    """The score of a verifier as a reward; None where it cannot be decided, as without an expected answer."""

    def __init__(self, verifier: Verifier) -> None:
        self.name = verifier.name
        self._verifier = verifier

    def __call__(self, prompt: Prompt, completions: Sequence[Completion]) -> list[float | None]:
        """Return the score of each answer."""
        return [self._score(prompt, completion) for completion in completions]

    def close(self) -> None:
        """End what the verifier has started."""
        self._verifier.close()

    def _score(self, prompt: Prompt, completion: Completion) -> float | None:
        answer = Answer(
            completion.text,
            finish_reason="length" if completion.is_truncated else "stop",
            tokens=len(completion.ids),
        )
        score = self._verifier(answer, seen_by_verifiers(prompt))
        return score.score if score.decided else None


def seen_by_verifiers(prompt: Prompt) -> Mapping[str, Any]:
    """Return the row as verifiers read it: its columns, what was asked and what is expected."""
    return {**prompt.columns, "prompt": prompt.prompt, "expected": prompt.expected}


class Rewards:
    """All rewards of a run, with a weight each. Use it in a ``with`` block: functions run in processes."""

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float]) -> None:
        self._rewards, self._weights = rewards, np.asarray(weights, np.float64)
        self.names = _distinct([reward.name for reward in rewards])

    @classmethod
    def of(cls, objective: ObjectiveConfig) -> Rewards:
        """Return the rewards that the settings name.

        Raises ConfigError for an assertion that there is not and for a file that there is not.
        """
        verifiers = [
            make_verifier(each, f"objective.rewards[{number}]")
            for number, each in enumerate(objective.rewards)
        ]
        functions = [
            RewardFunction(each, timeout=objective.reward_timeout) for each in objective.reward_funcs
        ]
        own = [verifier.weight for verifier in verifiers] + [1.0] * len(functions)
        return cls([*map(VerifierReward, verifiers), *functions], objective.reward_weights or own)

    def __call__(self, prompt: Prompt, completions: Sequence[Completion]) -> np.ndarray:
        """Return the value of each reward for each answer, float64 [answers, rewards], NaN for None.

        Raises RewardError, naming the row.
        """
        columns = [reward(prompt, completions) for reward in self._rewards]
        found = [[np.nan if value is None else value for value in column] for column in columns]
        return np.asarray(found, np.float64).reshape(len(self._rewards), len(completions)).T

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted sum over the last axis; NaN where no reward says anything."""
        unknown = np.isnan(values).all(-1)
        return np.where(unknown, np.nan, np.nansum(values * self._weights, -1))

    def close(self) -> None:
        """End the processes of functions."""
        for reward in self._rewards:
            reward.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, numbered from the second of a kind on."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found
