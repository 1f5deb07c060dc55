"""Sample answers from the weights as they are now, reward them, and make them the examples of a step.

Nothing is remembered from step to step: the seed of an answer is a pure function of the run's seed, the step, the row
and the number of the answer, so a run that is killed anywhere goes on to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.core.device import ComputePlan, is_out_of_memory
from backend.core.encoding.examples import Example
from backend.core.encoding.prompts import Completion, Prompt
from backend.core.tokenizer import decode, stop_token_ids
from backend.core.vocabulary import known_ids
from backend.data.records import excerpt
from backend.errors import InferenceError, RewardError, TrainingError
from backend.inference.decoding import Decoding, NewToken, Prefill, for_inference
from backend.inference.sampling import Sampler, Sampling
from backend.run.config import ObjectiveConfig
from backend.run.reports import Rollout
from backend.training.advantages import advantages, flat, mean, std, token_weights
from backend.training.distributed import ALONE, World
from backend.training.forward import ForwardPass
from backend.training.generation import decoding_lanes, prove_generation
from backend.training.rewards import Rewards

ANSWERS_AT_ONCE = 32
"""Answers decoded in one batch, or those to one prompt; a constant, so that they do not depend on the cores."""
KEPT_PROMPTS, KEPT_ANSWERS = 4, 8
"""Prompts of a step, and answers to each, that are written down."""


@dataclass(frozen=True)
class Answered:
    """A prompt with its sampled answers and the value of each reward for each, float64 [answers, rewards]."""

    prompt: Prompt
    completions: Sequence[Completion]
    values: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """What a step learns from: answers that are better or worse than others to the same prompt, with their weight.

    There are none where all groups are flat. ``tokens`` counts those of all prompts and answers; ``measured`` has
    TRL's names.
    """

    examples: list[Example]
    rows: tuple[str, ...]
    tokens: int
    measured: Mapping[str, float]
    samples: tuple[Rollout, ...] = ()


class Rollouts:
    """The prompts of a run, whose answers are sampled from the model in ``forward`` when a step asks for them.

    The constructor raises ModelError ``cannot-generate`` for a model that cannot decode.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        forward: ForwardPass,
        tokenizer: PreTrainedTokenizerBase,
        rewards: Rewards,
        objective: ObjectiveConfig,
        plan: ComputePlan,
        *,
        seed: int,
        world: World = ALONE,
    ) -> None:
        self._prompts, self._forward, self._tokenizer, self._rewards = prompts, forward, tokenizer, rewards
        self._objective, self._plan, self._seed, self._world = objective, plan, seed, world
        prove_generation(forward.model)
        self._stop_ids = stop_token_ids(tokenizer, forward.causal.generation_config.eos_token_id)
        self._known = known_ids(tokenizer, forward.causal.get_input_embeddings().weight.shape[0])

    def __len__(self) -> int:
        return len(self._prompts)

    def __call__(self, step: int, indices: Sequence[int]) -> Drawn:
        """Return what the step, counted from 1, learns from the answers to the prompts at ``indices``.

        With several processes each samples its share. Raises RewardError, and TrainingError ``out-of-memory``.
        """
        numbered = list(enumerate(indices))
        mine = self._world.my_share(numbered)
        found: list[tuple[int, Answered]] = []
        failed: tuple[str, str, str] | None = None
        try:
            answered = self.answered(step, [self._prompts[index] for _, index in mine])
            found = [(place, each) for (place, _), each in zip(mine, answered, strict=True)]
        except RewardError as error:  # all processes end with it, so that the first can save
            if self._world.size == 1:
                raise
            failed = error.message, error.remedy, error.code
        shares = self._world.gather((found, failed))
        for message, remedy, code in (each for _, each in shares if each is not None):
            raise RewardError(message, remedy=remedy, code=code)
        in_order = sorted((each for share, _ in shares for each in share), key=lambda each: each[0])
        return self._drawn([each for _, each in in_order])

    def answered(self, step: int, prompts: Sequence[Prompt]) -> list[Answered]:
        """Return ``prompts`` with the answers sampled to them at ``step``, and their rewards."""
        try:
            sampled = self._sampled(step, prompts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"Memory ran out while answers were sampled at step {step}.",
                remedy="Start a new run with a lower objective.num_generations or objective.max_completion_length.",
                code="out-of-memory",
            ) from error
        return [
            Answered(prompt, completions, self._rewards(prompt, completions))
            for prompt, completions in zip(prompts, sampled, strict=True)
        ]

    def _sampled(self, step: int, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        together = max(1, ANSWERS_AT_ONCE // self._objective.num_generations)
        chunks = [prompts[start : start + together] for start in range(0, len(prompts), together)]
        with for_inference(self._forward.model), decoding_lanes(self._forward, self._plan) as pool:
            found = list(pool.map(lambda chunk: self._chunk(step, chunk), chunks))
        return [completions for chunk in found for completions in chunk]

    def _chunk(self, step: int, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """Return the answers to prompts that are decoded together; each prompt is read once for all its answers."""
        decodings: list[tuple[Decoding, dict[int, list[NewToken]]]] = []
        rows: list[list[list[NewToken]]] = []
        for prompt in prompts:
            prefill = Prefill(self._forward.model, prompt.prompt_ids)
            prefill.advance(prefill.left)
            if not decodings or not decodings[-1][0].accepts_rows:
                empty = Decoding(self._forward.model, [], Sampling(), self._stop_ids, known=self._known)
                decodings.append((empty, {}))
            decoding, tokens = decodings[-1]
            numbers = decoding.join(prefill, self._samplers(step, prompt, self._known))
            tokens |= {number: [] for number in numbers}
            rows.append([tokens[number] for number in numbers])
        for decoding, tokens in decodings:
            while decoding.rows:
                for token in decoding.step():
                    tokens[token.row].append(token)
        return [
            [self._completion(prompt, row) for row in each]
            for prompt, each in zip(prompts, rows, strict=True)
        ]

    def _samplers(self, step: int, prompt: Prompt, known: Tensor | None) -> list[Sampler]:
        sampling = [
            Sampling(
                max_new_tokens=self._objective.max_completion_length,
                temperature=self._objective.temperature,
                seed=answer_seed(self._seed, step, prompt.row, number),
            )
            for number in range(self._objective.num_generations)
        ]
        return [Sampler(each, prompt.prompt_ids, known=known) for each in sampling]

    def _completion(self, prompt: Prompt, tokens: Sequence[NewToken]) -> Completion:
        last = tokens[-1]
        if last.error is not None:
            raise InferenceError(
                f"An answer to {prompt.row} could not be sampled: {last.error!r}.",
                remedy="Lower training.learning_rate if the model's weights are no numbers any more.",
                code="answer-failed",
            ) from last.error
        ids = tuple(token.token_id for token in tokens)
        said = ids[:-1] if last.finish == "stop" else ids
        return Completion(ids, decode(self._tokenizer, said), is_truncated=last.finish == "length")

    def _drawn(self, answered: Sequence[Answered]) -> Drawn:
        """Return the answers of a step as examples, compared with each other."""
        objective = self._objective
        values, rewards = self._judged(answered)
        better = advantages(rewards, objective.scale_rewards)
        completions = [completion for each in answered for completion in each.completions]
        prompts = [each.prompt for each in answered for _ in each.completions]
        lengths = np.array([len(each.ids) for each in completions])
        is_truncated = np.array([each.is_truncated for each in completions])
        weights = token_weights(
            better.ravel(),
            lengths,
            ~is_truncated | (not objective.mask_truncated_completions),
            next(iter(objective.losses)),
            objective.max_completion_length,
        )
        chosen = zip(prompts, completions, weights.tolist(), strict=True)
        return Drawn(
            [_example(prompt, completion, weight) for prompt, completion, weight in chosen if weight],
            tuple(each.prompt.row for each in answered),
            int(lengths.sum()) + sum(len(prompt.prompt_ids) for prompt in prompts),
            self._measured(values, rewards, lengths, is_truncated),
            tuple(
                each
                for group in self._kept(answered[:KEPT_PROMPTS], rewards, better)
                for each in group[:KEPT_ANSWERS]
            ),
        )

    def compared(self, answered: Sequence[Answered]) -> tuple[list[Rollout], np.ndarray]:
        """Return all answers with what they are worth, and their rewards, float64 [prompts, generations]."""
        _, rewards = self._judged(answered)
        better = advantages(rewards, self._objective.scale_rewards)
        return [each for group in self._kept(answered, rewards, better) for each in group], rewards

    def _judged(self, answered: Sequence[Answered]) -> tuple[np.ndarray, np.ndarray]:
        values = np.stack([each.values for each in answered])
        return values, self._rewards.total(values)

    def _kept(
        self, answered: Sequence[Answered], rewards: np.ndarray, better: np.ndarray
    ) -> Iterator[list[Rollout]]:
        """Yield the answers to each prompt as they are written down."""
        names = self._rewards.names
        for place, each in enumerate(answered):
            yield [
                Rollout(
                    row=each.prompt.row,
                    prompt=excerpt(each.prompt.prompt),
                    completion=excerpt(completion.text),
                    reward=None if np.isnan(rewards[place, number]) else float(rewards[place, number]),
                    rewards={
                        name: value
                        for name, value in zip(names, each.values[number].tolist(), strict=True)
                        if not np.isnan(value)
                    },
                    advantage=float(better[place, number]),
                    tokens=len(completion.ids),
                    is_truncated=completion.is_truncated,
                )
                for number, completion in enumerate(each.completions)
            ]

    def _measured(
        self, values: np.ndarray, rewards: np.ndarray, lengths: np.ndarray, is_truncated: np.ndarray
    ) -> dict[str, float]:
        """Return what TRL measures of rewards and answers, by its names; means over nothing are left out."""
        found = {
            "reward": mean(rewards),
            "reward_std": float(std(rewards).item()),
            "frac_reward_zero_std": float(flat(rewards).mean()),
        }
        for number, name in enumerate(self._rewards.names):
            found[f"rewards/{name}/mean"] = mean(values[..., number])
            found[f"rewards/{name}/std"] = float(std(values[..., number]).item())
        found |= {
            "completions/mean_length": float(lengths.mean()),
            "completions/min_length": float(lengths.min()),
            "completions/max_length": float(lengths.max()),
            "completions/clipped_ratio": float(is_truncated.mean()),
        }
        return {name: value for name, value in found.items() if np.isfinite(value)}


def answer_seed(seed: int, step: int, row: str, number: int) -> int:
    """Return the seed of the answer ``number`` to ``row`` at ``step`` of a run with ``seed``, from 0 to 2^63 - 1."""
    return xxhash.xxh3_64_intdigest(f"{seed}\0{step}\0{number}\0{row}".encode("utf-8", "surrogatepass")) >> 1


def _example(prompt: Prompt, completion: Completion, weight: float) -> Example:
    ids = np.array([*prompt.prompt_ids, *completion.ids], dtype=np.int64)
    return Example(ids, np.arange(len(ids)) >= len(prompt.prompt_ids), prompt.row, weight=weight)
