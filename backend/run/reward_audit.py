"""What the model earns before it is trained on rewards, and whether there is anything to learn from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backend.run.reports import Rollout
from backend.utils.text_utils import shorten

MOST_FLAT = 0.9
"""Above this share of flat groups there is next to nothing to learn from."""


@dataclass(frozen=True)
class RewardBin:
    """How many answers earned from ``low`` up to ``high``."""

    low: float
    high: float
    answers: int


@dataclass(frozen=True)
class RewardAudit:
    """``generations`` answers to each of ``prompts`` prompts of a run, before its first step.

    ``flat_share``: of prompts whose answers all earned the same. ``best`` and ``worst`` are answers, None where none
    was rewarded. ``seconds``: how long they took to sample; ``estimated_seconds``: how long all samples of the run
    will take at that pace.
    """

    prompts: int
    generations: int
    reward: float
    reward_std: float
    flat_share: float
    clipped_ratio: float
    distribution: tuple[RewardBin, ...]
    best: Rollout | None
    worst: Rollout | None
    seconds: float
    estimated_seconds: float

    @property
    def is_hopeless(self) -> bool:
        """True if nearly all groups are flat."""
        return self.flat_share > MOST_FLAT

    @property
    def summary(self) -> str:
        """The audit in a sentence."""
        return (
            f"Before training, {self.generations} answers to each of {self.prompts} prompts earn {self.reward:.3f} "
            f"on average (standard deviation {self.reward_std:.3f}); for {self.flat_share:.0%} of the prompts all "
            "answers earn the same, and nothing is learned from these."
        )

    def lines(self) -> Iterator[str]:
        """Yield the audit as lines of text: the sentence, the distribution, the best and the worst answer."""
        yield self.summary
        most = max((each.answers for each in self.distribution), default=0)
        for each in self.distribution:
            bar = "█" * round(20 * each.answers / most)
            yield f"  {each.low:8.3f} to {each.high:8.3f}  {each.answers:5,}  {bar}"
        for word, answer in (("Best", self.best), ("Worst", self.worst)):
            if answer is not None and answer.reward is not None:
                said = f"{_short(answer.prompt)} → {_short(answer.completion)}"
                yield f"{word} ({answer.reward:.3f}), {answer.row}: {said}"
        if self.clipped_ratio:
            yield f"{self.clipped_ratio:.0%} of the answers reach the longest allowed."


def _short(text: str) -> str:
    return repr(shorten(text, 100))
