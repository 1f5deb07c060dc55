"""What the curves of a preference run say: backend/manager/preference_signs.py."""

from __future__ import annotations

import pytest

from backend.manager.preference_signs import preference_signs


def step(loss: float, chosen: float, rejected: float, accuracy: float = 0.8) -> dict[str, object]:
    return {
        "kind": "train",
        "train/loss": loss,
        "train/rewards/chosen": chosen,
        "train/rewards/rejected": rejected,
        "train/rewards/margins": chosen - rejected,
        "train/rewards/accuracies": accuracy,
    }


def evaluation(accuracy: object, rows: object = 90) -> dict[str, object]:
    return {"kind": "eval", "rows": rows, "eval/rewards/accuracies": accuracy}


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([step(0.6931, 0.0, 0.0)], "undecided between both answers"),
        ([step(0.3, -1.0, -3.0)], "likelihood displacement"),
        ([step(0.9, -3.0, -1.0)], "the better one is not preferred"),
        ([step(0.01, 2.0, -6.0, 1.0)], "known by heart"),
        (
            [{"train/rewards/chosen": 0.1, "train/kl": 0.01}],
            "the model still answers much as before training",
        ),
        ([{"train/rewards/chosen": 0.1, "train/kl": 2.3}], "have become 10 times as likely"),
        ([evaluation(0.8)], "80% of 90 (71% to 87%, 95 % interval), more often than by chance"),
        ([evaluation(0.55)], "not proved better than chance"),
    ],
)
def test_each_sign_is_a_sentence(records: list[dict[str, object]], said: str) -> None:
    (sentence,) = preference_signs(records)
    assert said in sentence


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"train/loss": 0.693}, {"eval/loss": 0.01, "rows": 9}],  # of another method
        [step(0.5, 0.3, -0.9)],  # the usual course
        [step(0.5, -0.01, -0.02)],  # rounding
        [{"train/rewards/chosen": -3.0}],  # no bad answer in the step of kto
        [evaluation("nan"), evaluation(0.9, rows=0)],
        [evaluation("nan")],
    ],
)
def test_nothing_is_said_of_what_is_usual_or_unknown(records: list[dict[str, object]]) -> None:
    assert preference_signs(records) == []


def test_the_latest_steps_count_and_the_newest_evaluation() -> None:
    early = [step(0.9, -3.0, -1.0)] * 40
    found = preference_signs([*early, *[step(0.4, 1.0, -1.0)] * 10, evaluation(0.5), evaluation(0.9)])
    assert [sentence for sentence in found if "90%" not in sentence] == []
    assert len(found) == 1
