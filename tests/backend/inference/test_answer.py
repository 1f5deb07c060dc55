"""One answer, its seed, and what answers: backend/inference/answer.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.inference.answer import MAX_ANSWERS, Answerer, answer_seed
from backend.inferencer import Inferencer


@given(st.integers(0, 2**63 - 1))
def test_the_first_of_several_answers_has_the_seed_itself_and_no_two_have_the_same(seed: int) -> None:
    seeds = [answer_seed(seed, index) for index in range(MAX_ANSWERS)]
    assert seeds[0] == seed
    assert len(set(seeds)) == MAX_ANSWERS
    assert all(0 <= one < 2**63 for one in seeds)


def test_the_inferencer_has_all_that_is_asked_of_an_answerer() -> None:
    asked = {name for name in vars(Answerer) if not name.startswith("_")}
    assert asked == {"model", "has_adapter", "identity", "as_base", "render", "answers", "infer_batch"}
    assert asked <= set(dir(Inferencer))
