"""With and without: backend/manager/ablation.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.manager.ablation import compare, last_scores, pairs
from backend.run.config import AugmentationConfig, RunConfig
from backend.run.folder import RunDir
from backend.run.settings import parse_config


def config(**changes: Any) -> RunConfig:
    plain = {"name": "food", "seed": 7, "data": {"train": "rows.jsonl"}}
    return parse_config(plain | {"augmentation": {"typos": 0.02}} | changes)


def losses(*values: float) -> list[dict[str, float]]:
    return [{"loss": value} for value in values]


class TestPairs:
    def test_each_seed_comes_once_with_and_once_without(self) -> None:
        made = list(pairs(config(training={"neftune_noise_alpha": 5.0}), 3, steps=40))
        assert [(one.seed, other.seed) for one, other in made] == [(7, 7), (8, 8), (9, 9)]
        assert all(one.training.max_steps == other.training.max_steps == 40 for one, other in made)
        for one, other in made:
            assert one.augmentation.typos == 0.02
            assert one.training.neftune_noise_alpha == 5.0
            assert other.augmentation == AugmentationConfig()
            assert other.training.neftune_noise_alpha is None
            same = {"augmentation": AugmentationConfig(), "training": other.training, "name": other.name}
            assert one.model_copy(update=same) == other
        assert [one.name for one, _ in made[:1]] == ["food with augmentation, seed 7"]
        assert len({each.name for pair in made for each in pair}) == 6

    def test_a_long_name_still_fits(self) -> None:
        one, other = next(pairs(config(name="x" * 64), 2, steps=1))
        assert parse_config(one.model_dump()) == one
        assert max(len(one.name), len(other.name)) <= 64

    @pytest.mark.parametrize(
        ("changes", "seeds", "field"),
        [
            ({}, 1, "ablate"),
            ({}, 11, "ablate"),
            ({"augmentation": {}}, 3, "augmentation"),
            ({"data": {"train": "rows.jsonl", "validation": 0}}, 3, "data.validation"),
            ({"evaluation": {"early_stopping_patience": 2}}, 3, "evaluation.early_stopping_patience"),
        ],
    )
    def test_what_cannot_be_compared(self, changes: dict[str, Any], seeds: int, field: str) -> None:
        with pytest.raises(ConfigError) as caught:
            list(pairs(config(**changes), seeds, steps=1))
        assert [problem.field for problem in caught.value.problems] == [field]

    def test_all_problems_come_at_once(self) -> None:
        nothing = config(augmentation={}, data={"train": "rows.jsonl", "validation": 0})
        with pytest.raises(ConfigError) as caught:
            list(pairs(nothing, 0, steps=1))
        assert len(caught.value.problems) == 3


class TestCompare:
    def test_the_interval_is_students(self) -> None:
        """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(2) = 4.303."""
        (found,) = compare(losses(2.0, 3.0, 4.0), losses(1.0, 1.0, 1.0))
        assert found.mean == 2.0
        assert (found.low, found.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
        assert found.verdict == "no difference"

    @pytest.mark.parametrize(
        ("with_it", "without", "verdict"),
        [
            ((1.0, 1.01, 1.02), (2.0, 2.0, 2.0), "better"),
            ((2.0, 2.01, 2.02), (1.0, 1.0, 1.0), "worse"),
            ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), "no difference"),
            ((1.0, 2.0, 3.0), (3.0, 2.0, 1.1), "no difference"),
        ],
    )
    def test_a_lower_loss_is_better(
        self, with_it: tuple[float, ...], without: tuple[float, ...], verdict: str
    ) -> None:
        assert compare(losses(*with_it), losses(*without))[0].verdict == verdict

    def test_more_matches_are_better_and_are_compared_only_where_every_run_has_some(self) -> None:
        better = [{"loss": 1.0, "exact_match": 0.9}, {"loss": 1.1, "exact_match": 0.91}]
        worse = [{"loss": 1.0, "exact_match": 0.1}, {"loss": 1.1, "exact_match": 0.1}]
        assert [(each.score, each.verdict) for each in compare(better, worse)] == [
            ("loss", "no difference"),
            ("exact_match", "better"),
        ]
        assert [each.score for each in compare(better, [*worse[:1], {"loss": 1.0}])] == ["loss"]

    @pytest.mark.parametrize("seeds", range(2, 11))
    def test_every_number_of_seeds_has_its_interval(self, seeds: int) -> None:
        (found,) = compare(losses(*range(seeds)), losses(*[0] * seeds))
        assert found.low < found.mean < found.high


class TestLastScores:
    @pytest.mark.parametrize(
        ("score", "found"),
        [({}, {"loss": 1.5}), ({"eval/exact_match": 0.25}, {"loss": 1.5, "exact_match": 0.25})],
    )
    def test_those_of_the_last_evaluation(
        self, tmp_path: Path, score: dict[str, float], found: dict[str, float]
    ) -> None:
        run = RunDir.create(tmp_path, "a", "seed: 1")
        with run.metrics_writer() as writer:
            writer.append({"kind": "eval", "step": 0, "eval/loss": 9.0})
            writer.append({"kind": "eval", "step": 4, "eval/loss": 1.5, **score})
            writer.append({"kind": "train", "step": 5, "train/loss": 3.0})
        assert last_scores(run) == found

    def test_a_run_that_was_never_evaluated_has_none(self, tmp_path: Path) -> None:
        with pytest.raises(IndexError):
            last_scores(RunDir.create(tmp_path, "a", "seed: 1"))
