import pytest

from backend.data.pair_scores import PairScores, ScoredPairs
from backend.data.records import Record


def scored(rows):
    pairs = ScoredPairs()
    records = [Record(f"f:{number}", cells) for number, cells in enumerate(rows, 1)]
    assert list(pairs.watch(records)) == records
    return pairs.found


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_avg_rating", "rejected_avg_rating"),
        ("chosen_reward", "rejected_reward"),
        ("preferred_score", "non_preferred_score"),
    ],
)
def test_scores_of_both_answers_are_compared(names):
    rows = [
        {"chosen": "a", names[0]: one, names[1]: other}
        for one, other in ((8.5, "6"), (1, 2), (3, 3.0), (0, 9))
    ]
    assert scored(rows) == PairScores(names, rows=4, lower=2, equal=1, place="f:2")
    assert not scored(rows).swapped
    assert scored(rows[1:]).swapped


@pytest.mark.parametrize(
    "cells",
    [
        {"chosen": "a", "rejected": "b"},
        {"score_chosen": 1},
        {"chosen_tokens": 5, "rejected_tokens": 9},
        {"chosen_model": "a", "rejected_model": "b"},
        {"chosen_rating": "good", "rejected_rating": "bad"},
        {"chosen_score": None, "rejected_score": 1},
        {"chosen_score": True, "rejected_score": 1},
    ],
)
def test_other_columns_are_no_scores(cells):
    assert scored([cells]) is None


def test_pairs_without_a_score_are_left_out():
    rows = [{"chosen_score": None, "rejected_score": 1}, {"chosen_score": 1, "rejected_score": 2}, {}]
    assert scored(rows) == PairScores(
        ("chosen_score", "rejected_score"), rows=1, lower=1, equal=0, place="f:2"
    )
