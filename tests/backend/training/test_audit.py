"""The reward audit: what it finds out before training, and when it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import DataError, ModelError
from backend.run.config import RunConfig
from backend.run.settings import parse_config
from backend.training.audit import PANEL, audit, audit_of, require_hope
from tests.backend.core.rows import lively_model, start
from tests.backend.training.grpo import SETTINGS, HasLetter, rollouts_of, some_prompts
from tests.runs import settings, write_rows


def _config(**changes: object) -> RunConfig:
    return RunConfig.model_validate(
        {"data": {"train": "p.jsonl"}, "objective": SETTINGS.model_dump(), **changes}
    )


def test_it_samples_a_panel_and_says_how_long_the_run_will_take() -> None:
    prompts = some_prompts(40)
    config = _config(training={"max_steps": 10, "per_device_train_batch_size": 8})
    found = audit(rollouts_of(start(lively_model()).forward, 40), prompts, config)
    assert (found.prompts, found.generations) == (PANEL, 4)
    assert 0 < found.reward < 1
    assert sum(each.answers for each in found.distribution) == PANEL * 4
    assert found.best is not None
    assert found.worst is not None
    assert (found.best.reward, found.worst.reward) == (1.0, 0.0)
    assert found.estimated_seconds == pytest.approx(found.seconds / PANEL * 80, rel=0.1, abs=0.2)
    require_hope(found)


@pytest.mark.parametrize(("letter", "words"), [("", "too easy"), ("☃", "too hard")])
def test_rewards_that_tell_no_answers_apart_are_refused_with_the_remedy(letter: str, words: str) -> None:
    rollouts = rollouts_of(start(lively_model()).forward, reward=HasLetter(letter))
    found = audit(rollouts, some_prompts(6), _config())
    assert (found.flat_share, len(found.distribution)) == (1.0, 1)
    with pytest.raises(DataError, match=words) as refused:
        require_hope(found)
    assert refused.value.code == "flat-rewards"
    assert "sft" in refused.value.remedy
    require_hope(replace(found, flat_share=0.9))


def test_a_task_that_is_nearly_always_right_is_called_too_easy() -> None:
    found = audit(
        rollouts_of(start(lively_model()).forward, reward=HasLetter("")), some_prompts(6), _config()
    )
    worst = replace(found.worst, reward=0.0) if found.worst else None
    with pytest.raises(DataError, match="too easy"):
        require_hope(replace(found, reward=0.99, reward_std=0.1, worst=worst))


@pytest.mark.parametrize("rows", [17, 31, 47])
def test_the_panel_is_spread_over_all_rows(rows: int) -> None:
    prompts, rollouts = some_prompts(rows), rollouts_of(start(lively_model()).forward, rows)
    asked: list[str] = []
    sample = rollouts.answered
    rollouts.answered = lambda step, panel: asked.extend(each.row for each in panel) or sample(step, panel)  # type: ignore[method-assign,func-returns-value]
    audit(rollouts, prompts, _config())
    places = [[each.row for each in prompts].index(row) for row in asked]
    assert len(places) == PANEL
    assert max(b - a for a, b in zip(places, [*places[1:], rows], strict=True)) <= -(-rows // PANEL)


def test_a_configuration_alone_will_do(learner: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", [{"prompt": f"food {number}"} for number in range(8)])
    changes = {"objective.method": "grpo", "objective.rewards": [{"type": "contains", "value": "e"}],
               "objective.num_generations": 2, "objective.max_completion_length": 4}  # fmt: skip
    found = audit_of(parse_config(settings(learner, rows, changes)))
    assert (found.generations, found.clipped_ratio) == (2, 1.0)


def test_a_model_that_is_not_there_is_told_before_anything_is_sampled(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", [{"prompt": "food"}])
    changes = {"objective.method": "grpo", "objective.rewards": [{"type": "contains", "value": "e"}]}
    config = parse_config(settings(tmp_path / "nothing", rows, changes))
    with pytest.raises(ModelError):
        audit_of(config)
