"""Sampled answers: from the weights of now, the same for the same step, and compared within their group."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from backend.errors import TrainingError
from backend.inference.decoding import for_inference
from backend.run.config import ObjectiveConfig, TrainingConfig
from backend.training.loop import TrainState, train_steps
from backend.training.policy import PolicyGradient
from backend.training.rollouts import Drawn, answer_seed
from tests.backend.core.rows import FULL, LORA, PLAN, lively_model, same_bits, shake, start, weights
from tests.backend.training.grpo import SETTINGS, TOKENIZER, HasLetter, rollouts_of, some_prompts

FEW = TrainingConfig(max_steps=3, per_device_train_batch_size=3, learning_rate=1e-2)


def _changed(**changes: object) -> ObjectiveConfig:
    return SETTINGS.model_copy(update=changes)


def _ids(drawn: Drawn) -> list[list[int]]:
    return [example.input_ids.tolist() for example in drawn.examples]


def test_the_same_step_of_the_same_run_gives_the_same_answers_in_any_company() -> None:
    state = start(lively_model())
    first, again = (rollouts_of(state.forward) for _ in range(2))
    assert _ids(first(1, [0, 1, 2])) == _ids(again(1, [0, 1, 2]))
    prompts = some_prompts(6)
    alone = first.answered(1, prompts[2:3])[0]
    assert alone.completions == first.answered(1, prompts)[2].completions
    assert _ids(first(2, [0, 1, 2])) != _ids(first(1, [0, 1, 2]))
    assert _ids(rollouts_of(state.forward, seed=2)(1, [0, 1, 2])) != _ids(first(1, [0, 1, 2]))


def test_seeds_differ_in_every_part() -> None:
    seeds = [answer_seed(s, t, row, k) for s in (1, 2) for t in (1, 2) for row in ("a", "b") for k in (0, 1)]
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_answers_come_from_the_weights_as_they_are_now(tuning: object) -> None:
    state = start(lively_model(), tuning)  # type: ignore[arg-type]
    rollouts = rollouts_of(state.forward)
    before = _ids(rollouts(1, [0, 1]))
    shake(state)
    assert _ids(rollouts(1, [0, 1])) != before


def test_the_first_token_is_drawn_from_softmax_of_the_logits_over_temperature() -> None:
    state = start(lively_model(initializer_range=0.1))
    settings = _changed(num_generations=512, max_completion_length=1, temperature=0.5)
    rollouts, prompt = rollouts_of(state.forward, settings=settings), some_prompts(1)[0]
    said = Counter(each.ids[0] for each in rollouts.answered(1, [prompt])[0].completions)
    with torch.no_grad(), for_inference(state.forward.model):
        logits = state.forward.causal(input_ids=torch.tensor([prompt.prompt_ids])).logits[0, -1].float()
    logits[len(TOKENIZER) :] = -math.inf  # ids that stand for no token
    expected = (logits / 0.5).softmax(-1)
    likeliest = expected.topk(5)
    for share, token in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True):
        assert said[token] / 512 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 512) + 1e-3)


def test_a_step_has_the_answers_of_groups_that_differ_weighted_against_each_other() -> None:
    state = start(lively_model())
    drawn = rollouts_of(state.forward, settings=_changed(num_generations=8))(1, [0, 1, 2, 3])
    by_row: Counter[str] = Counter()
    for example in drawn.examples:
        by_row[example.row] += 1
        assert example.weight != 0
    assert set(by_row.values()) == {8}  # a group learns as a whole or not at all
    assert sum(example.weight for example in drawn.examples) == pytest.approx(0.0, abs=1e-9)
    measured = drawn.measured
    assert drawn.rows == ("p.jsonl:1", "p.jsonl:2", "p.jsonl:3", "p.jsonl:4")
    assert measured["reward"] == measured["rewards/letter/mean"]
    assert measured["reward_std"] == measured["rewards/letter/std"]
    assert measured["frac_reward_zero_std"] == 1 - len(by_row) / 4
    longest = measured["completions/max_length"]
    assert 1 <= measured["completions/min_length"] <= measured["completions/mean_length"] <= longest <= 6
    assert len(drawn.samples) == 32
    assert {sample.reward for sample in drawn.samples} == {0.0, 1.0}


def test_answers_that_reach_the_longest_may_count_for_nothing() -> None:
    state = start(lively_model())
    settings = _changed(mask_truncated_completions=True, num_generations=8)
    drawn = rollouts_of(state.forward, settings=settings)(1, [0, 1])
    assert drawn.measured["completions/clipped_ratio"] == 1.0
    assert drawn.examples == []
    assert all(sample.is_truncated and sample.tokens == 6 for sample in drawn.samples)


def _trained(
    reward: HasLetter | None = None, stop_after: int = 3
) -> tuple[TrainState, list[dict[str, float]]]:
    state = start(lively_model(), LORA, FEW)
    rollouts = rollouts_of(state.forward, reward=reward)
    steps = train_steps(state, rollouts, FEW, PLAN, seed=5, objective=PolicyGradient(1.0))
    measured = [
        dict(report.measured, loss=report.loss) for report, _ in zip(steps, range(stop_after), strict=False)
    ]
    return state, measured


def test_two_trainings_give_the_same_bits_and_a_resumed_one_too() -> None:
    whole, first = _trained()
    again, second = _trained()
    assert same_bits(weights(whole), weights(again))
    clock = {"step_time"}
    assert [{**each, "step_time": 0} for each in first] == [{**each, "step_time": 0} for each in second]
    assert clock < first[0].keys()
    assert first[-1]["num_tokens"] == whole.tokens_seen
    assert abs(first[0]["loss"]) < 1e-6


def test_a_step_whose_groups_are_all_flat_counts_and_changes_nothing() -> None:
    before = weights(start(lively_model(), LORA, FEW))
    state, measured = _trained(HasLetter(letter=""))  # in every answer
    assert (state.step, [each["frac_reward_zero_std"] for each in measured]) == (3, [1.0] * 3)
    after = weights(state)
    assert [name for name in before if name in after and not torch.equal(before[name], after[name])] == []
    assert "entropy" not in measured[0]


def test_a_planted_reward_is_learned() -> None:
    training = TrainingConfig(
        max_steps=30, per_device_train_batch_size=6, learning_rate=3e-2, lr_scheduler_type="constant"
    )
    state = start(lively_model(), LORA, training)
    rollouts = rollouts_of(state.forward, settings=_changed(num_generations=8))
    steps = train_steps(state, rollouts, training, PLAN, seed=5, objective=PolicyGradient(1.0))
    earned = [report.measured["reward"] for report in steps]
    assert np.mean(earned[-5:]) > np.mean(earned[:5]) + 0.2


def test_memory_that_runs_out_while_sampling_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    state = start(lively_model())
    rollouts = rollouts_of(state.forward)

    def no_memory(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr("backend.training.rollouts.Prefill", no_memory)
    with pytest.raises(TrainingError, match="answers were sampled at step 4") as failed:
        rollouts(4, [0])
    assert failed.value.code == "out-of-memory"


def test_its_length_is_that_of_its_prompts() -> None:
    assert len(rollouts_of(start(lively_model()).forward, count=5)) == 5
