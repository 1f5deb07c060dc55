"""Two readings side by side: backend/export/comparison.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.export.certificate import Check, Light
from backend.export.comparison import TOLERANCES, compare, divergence
from backend.export.panel import ODD_TEXTS, Answer, LongRow, Panel, PanelRow
from backend.export.readers import Reading
from tests.tiny import tiny_tokenizer

VOCABULARY = 400


def logprobs(*ids: int, gap: float = 5.0) -> Tensor:
    """Places at which these ids are likeliest, by ``gap`` nats before scaling, ``[tokens, vocabulary]``."""
    noise = torch.randn(len(ids), VOCABULARY, generator=torch.Generator().manual_seed(0)) * 0.1
    noise[torch.arange(len(ids)), torch.tensor(ids)] += gap
    return torch.log_softmax(noise, -1)


def tops(places: Tensor, count: int = 24) -> list[list[list[float]]]:
    best = places.topk(count)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [[list(pair) for pair in zip(*place, strict=True)] for place in pairs]


class TestDivergence:
    @given(st.integers(0, 2**31), st.floats(0.1, 4.0))
    def test_of_a_model_from_itself_is_nothing(self, seed: int, sharpness: float) -> None:
        noise = torch.randn(1, 300, generator=torch.Generator().manual_seed(seed)) * sharpness
        places = torch.log_softmax(noise, -1)
        assert divergence(places[0], tops(places)[0]) < 1e-5

    @given(st.integers(0, 2**31))
    def test_is_never_more_than_that_of_the_whole_vocabulary(self, seed: int) -> None:
        """Taking the tokens that are not reported as one can only lose information."""
        generator = torch.Generator().manual_seed(seed)
        ours, theirs = (
            torch.log_softmax(torch.randn(1, 200, generator=generator) * 2, -1).double() for _ in "ab"
        )
        whole = float((ours.exp() * (ours - theirs)).sum())
        assert 0 <= divergence(ours[0], tops(theirs)[0]) <= whole + 1e-5

    @pytest.mark.parametrize("bad", [[[3, None]], [[VOCABULARY, -1.0]], [[3, math.nan]], []], ids=str)
    def test_of_what_is_no_number_is_infinite(self, bad: list[list[Any]]) -> None:
        assert divergence(logprobs(3)[0], bad) == math.inf


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


class Case:
    """One row, answered alike; tests change what is read."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, expected: str = "yes") -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.encode("yes no", add_special_tokens=False)
        self.said = [*ids, tokenizer.eos_token_id]
        places = logprobs(*self.said)
        row = PanelRow("rows:1", [{"role": "user", "content": "q"}], "q", None, expected, [1, 2, 3])
        self.panel = Panel([row] * 4, [([{"role": "user", "content": "q"}], [1, 2, 3])], 8)
        self.answers = [Answer(self.said, True, "yes", places)] * 4
        self.row = {"prompt_ids": [1, 2, 3], "tops": tops(places), "ids": ids, "ended": True, "text": "yes"}
        self.rows = [self.row] * 4
        self.shapes = [[1, 2, 3]]
        self.places = places
        self.texts = [tokenizer.encode(text, add_special_tokens=False) for text in ODD_TEXTS]
        self.long: list[list[list[float]]] = []

    def weigh(self, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
        assert list(prompt) == [1, 2, 3]
        return self.places[: len(said)]

    def check(self, name: str, precision: str = "F32") -> Check:
        reading = Reading("somebody", self.rows, self.shapes, self.texts, self.long)
        checks, _, _ = compare(self.panel, self.answers, reading, self.tokenizer, precision, self.weigh)
        return {check.name: check for check in checks}[name]


@pytest.fixture
def case(tokenizer: PreTrainedTokenizerBase) -> Case:
    return Case(tokenizer)


@pytest.mark.parametrize(
    "name", ["prompt ids", "odd texts", "probabilities", "end tokens", "greedy answers", "exact match"]
)
def test_equal_readings_are_green(name: str, case: Case) -> None:
    assert case.check(name).light == Light.GREEN


def test_another_prompt_is_red_and_shown(case: Case) -> None:
    case.rows = [case.row | {"prompt_ids": [1, 2, 9]}, *case.rows[1:]]
    check = case.check("prompt ids")
    assert check.light == Light.RED
    assert "1 of 5 conversations" in check.finding
    assert "at token 2" in check.finding


def test_another_shape_of_conversation_is_red(case: Case) -> None:
    case.shapes = [[1, 2]]
    assert case.check("prompt ids").light == Light.RED


def test_an_odd_text_is_amber(case: Case) -> None:
    case.texts = [case.texts[0][:-1], *case.texts[1:]]
    assert case.check("odd texts").light == Light.AMBER


@pytest.mark.parametrize(("shift", "light"), [(0.0, Light.GREEN), (0.45, Light.AMBER), (2.0, Light.RED)])
def test_probabilities_are_judged_by_precision(shift: float, light: Light, case: Case) -> None:
    places = torch.log_softmax(logprobs(*case.said) + shift * torch.linspace(0, 1, VOCABULARY), -1)
    case.rows = [case.row | {"tops": tops(places)}] * 4
    assert case.check("probabilities", "Q8_0").light == light


@pytest.mark.parametrize(("shift", "light"), [(0.0, Light.GREEN), (0.9, Light.AMBER), (4.0, Light.RED)])
def test_a_long_row_is_judged_by_itself(shift: float, light: Light, case: Case) -> None:
    """Where short rows are all right: positions that go wrong with the length show here alone."""
    case.panel = replace(case.panel, long=LongRow(64, [1] * 80, case.said, case.places))
    places = torch.log_softmax(logprobs(*case.said) + shift * torch.linspace(0, 1, VOCABULARY), -1)
    case.long = tops(places)
    check = case.check("long rows", "Q8_0")
    assert (check.light, case.check("probabilities", "Q8_0").light) == (light, Light.GREEN)
    assert "After 80 tokens, beyond the 64 where" in check.finding


def test_a_long_row_that_was_not_read_is_said(case: Case) -> None:
    case.panel = replace(case.panel, long=LongRow(131_072))
    assert "beyond 131,072 tokens would take too long here" in case.check("long rows").finding


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(("share", "tie"), [(0.9, True), (1.1, False)])
def test_a_near_tie_is_as_near_as_the_precision_allows(
    precision: str, share: float, *, tie: bool, case: Case
) -> None:
    other = (case.said[0] + 1) % 300 + 5
    case.places = case.places.clone()
    case.places[0, other] = case.places[0, case.said[0]] - share * TOLERANCES[precision].tie
    case.rows = [case.row | {"ids": [other, *case.row["ids"][1:]]}, *case.rows[1:]]
    assert (case.check("greedy answers", precision).light == Light.GREEN) is tie


@pytest.mark.parametrize("part", ["texts", "shapes", "rows"])
def test_a_reader_that_leaves_something_out_is_no_reader(part: str, case: Case) -> None:
    setattr(case, part, getattr(case, part)[:-1])
    with pytest.raises(ValueError, match="shorter"):
        case.check("odd texts")


def test_probabilities_that_are_no_numbers_are_red_and_can_be_written(case: Case) -> None:
    case.rows = [case.row | {"tops": [[[3, None]] * 3] * 3}, *case.rows[1:]]
    reading = Reading("somebody", case.rows, case.shapes, case.texts)
    checks, figures, _ = compare(case.panel, case.answers, reading, case.tokenizer, "F32", case.weigh)
    assert {check.name: check.light for check in checks}["probabilities"] == Light.RED
    assert figures["mean_divergence_nats"] is None
    json.dumps(figures, allow_nan=False)


def test_finer_precisions_allow_less() -> None:
    allowed = [
        TOLERANCES[name].divergence for name in ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
    ]
    assert allowed == sorted(allowed)
    assert len(set(allowed)) == len(allowed)


def test_an_answer_that_goes_on_is_red(case: Case) -> None:
    case.rows = [case.row | {"ended": False, "ids": [*case.said[:-1], 7, 8]}, *case.rows[1:]]
    check = case.check("end tokens")
    assert check.light == Light.RED
    assert "rows:1" in check.finding


def test_another_token_is_shown_and_weighed(case: Case) -> None:
    case.rows = [case.row | {"ids": [case.said[0], 7]}, *case.rows[1:]]
    check = case.check("greedy answers")
    assert check.light == Light.AMBER
    assert "at token 1" in check.finding
    case.rows = [case.row | {"ids": [7]}] * 4
    assert case.check("greedy answers").light == Light.RED


@pytest.mark.parametrize(("precision", "light"), [("Q8_0", Light.GREEN), ("F16", Light.AMBER)])
def test_few_bits_may_turn_one_answer_in_a_hundred(precision: str, light: Light, case: Case) -> None:
    case.panel, case.answers = Panel(case.panel.rows * 25, case.panel.shapes, 8), case.answers * 25
    case.rows = [case.row | {"ids": [7]}, *[case.row] * 99]
    assert case.check("greedy answers", precision).light == light
    case.rows = [case.row | {"ids": [7]}, case.row | {"ids": [7]}, *[case.row] * 98]
    assert case.check("greedy answers", precision).light == Light.AMBER


def test_a_near_tie_is_no_fault(case: Case) -> None:
    case.places = logprobs(*case.said, gap=0.0)
    case.answers = [Answer(case.said, True, "yes", case.places)] * 4
    case.rows = [case.row | {"ids": [7], "tops": tops(case.places)}, *case.rows[1:]]
    check = case.check("greedy answers", "Q4_0")
    assert check.light == Light.GREEN
    assert "a tie within" in check.finding


@pytest.mark.parametrize("turned", [7, None], ids=["another token", "the end"])
@pytest.mark.parametrize(("gap", "light"), [(0.05, Light.GREEN), (3.0, Light.AMBER)])
def test_a_late_turn_is_weighed_by_the_trained_model(
    turned: int | None, gap: float, light: Light, case: Case
) -> None:
    """Far past the tokens whose probabilities were kept, and past an end token that ended nothing."""
    end = int(case.tokenizer.eos_token_id)
    said = [*[case.said[0]] * 3, end, *[case.said[0]] * 9, *case.said]
    at = len(said) - 2
    case.places = logprobs(*said)
    case.places[at, end if turned is None else turned] = case.places[at].max() - gap
    case.answers = [Answer(said, True, "yes", case.places[:8])] * 4
    case.row = case.row | {"ids": said[:-1], "tops": tops(case.places[:8])}
    case.rows = [case.row | {"ids": said[:at] + ([] if turned is None else [turned])}, *[case.row] * 3]
    check = case.check("greedy answers", "Q8_0")
    assert (check.light, f"{gap:.2g} nats less likely" in check.finding) == (light, True)


def test_one_answer_of_few_is_not_red_by_itself(case: Case) -> None:
    case.panel, case.answers = Panel(case.panel.rows[:3], case.panel.shapes, 8), case.answers[:3]
    case.rows = [case.row | {"ids": [7]}, *[case.row] * 2]
    assert case.check("greedy answers", "Q8_0").light == Light.AMBER
    case.rows = [*[case.row | {"ids": [7]}] * 2, case.row]
    assert case.check("greedy answers", "Q8_0").light == Light.RED


@pytest.mark.parametrize(("wrong", "light"), [(1, Light.GREEN), (2, Light.AMBER)])
def test_a_lost_score_counts(wrong: int, light: Light, case: Case) -> None:
    case.rows = [case.row | {"text": "no"}] * wrong + [case.row] * (4 - wrong)
    assert case.check("exact match").light == light


def test_without_expected_answers_there_is_no_score(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(KeyError):
        Case(tokenizer, expected="").check("exact match")


def test_examples_show_what_differs_first(case: Case) -> None:
    case.rows = [*case.rows[1:], case.row | {"ids": [7], "text": "oh"}]
    reading = Reading("somebody", case.rows, case.shapes, case.texts)
    _, figures, examples = compare(case.panel, case.answers, reading, case.tokenizer, "F32", case.weigh)
    assert (examples[0]["export"], figures["equal_answers"]) == ("oh", 3)
    assert examples[0]["difference"].startswith("token 0")
    assert examples[1]["difference"] == ""
