"""The chunked loss is cross-entropy: in value, in every gradient, at every chunk boundary, without all logits."""

from __future__ import annotations

from itertools import starmap

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.training import loss as loss_module
from backend.training.loss import (
    CHUNK,
    CrossEntropy,
    RowScores,
    TokenScores,
    linear_loss,
    linear_token_scores,
)

VOCAB, WIDTH = 50, 16


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None
) -> Tensor:
    return linear_loss(hidden, weight, CrossEntropy(labels), bias)


def _inputs(tokens: int, *, vocab: int = VOCAB, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(hidden, weight, bias, labels), the first three requiring gradients."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, requires_grad=True)
        for shape in ((tokens, WIDTH), (vocab, WIDTH), (vocab,))
    )
    return hidden, weight, bias, torch.randint(0, vocab, (tokens,), generator=generator)


@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
@pytest.mark.parametrize("with_bias", [True, False])
def test_value_and_gradients_are_those_of_cross_entropy(tokens: int, with_bias: bool) -> None:
    hidden, weight, bias, labels = _inputs(tokens)
    used_bias = {True: bias, False: None}[with_bias]
    learned = [hidden, weight, *[bias] * with_bias]

    ours = linear_cross_entropy(hidden, weight, labels, used_bias)
    plain = F.cross_entropy(F.linear(hidden, weight, used_bias), labels, reduction="sum")

    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(
        torch.autograd.grad(ours / 7, learned), torch.autograd.grad(plain / 7, learned), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(frozen: tuple[int, ...]) -> None:
    *parts, labels = _inputs(9)
    for place in frozen:
        parts[place].requires_grad_(requires_grad=False)
    hidden, weight, bias = parts
    learned = [part for part in parts if part.requires_grad]

    found = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels, bias), learned)

    plain = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")
    for ours, theirs in zip(found, torch.autograd.grad(plain, learned), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_gradients_the_value_is_the_same() -> None:
    hidden, weight, bias, labels = _inputs(300)
    expected = linear_cross_entropy(hidden, weight, labels, bias)

    with torch.no_grad():
        found = linear_cross_entropy(hidden, weight, labels, bias)

    assert not found.requires_grad
    assert torch.equal(found, expected.detach())


def test_no_slope_is_computed_where_nothing_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, labels = _inputs(5)
    monkeypatch.setattr(torch, "matmul", lambda *_, **__: pytest.fail("a gradient was computed"))

    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, labels, bias) > 0


def test_never_more_than_a_chunk_of_logits_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the rows of every product with the head, there and back."""
    shapes: list[tuple[int, ...]] = []
    plain = F.linear

    def watched(*args: Tensor) -> Tensor:
        logits = plain(*args)
        shapes.append(tuple(logits.shape))
        return logits

    monkeypatch.setattr(loss_module.F, "linear", watched)
    monkeypatch.setattr(loss_module, "CHUNK", 8)
    hidden, weight, _, labels = _inputs(21, vocab=1000)

    linear_cross_entropy(hidden, weight, labels).backward()

    assert shapes == [(8, 1000), (8, 1000), (5, 1000)]


def test_the_size_of_a_chunk_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients(chunk: int) -> list[Tensor]:
        monkeypatch.setattr(loss_module, "CHUNK", chunk)
        hidden, weight, bias, labels = _inputs(64)
        value = linear_cross_entropy(hidden, weight, labels, bias)
        return [value, *torch.autograd.grad(value, [hidden, weight, bias])]

    for small, large in zip(gradients(5), gradients(64), strict=True):
        torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-5)


def test_the_same_inputs_give_the_same_bits() -> None:
    def run() -> list[Tensor]:
        hidden, weight, bias, labels = _inputs(300)
        value = linear_cross_entropy(hidden, weight, labels, bias)
        return [value.detach(), *torch.autograd.grad(value, [hidden, weight, bias])]

    assert all(starmap(torch.equal, zip(run(), run(), strict=True)))


def test_huge_logits_stay_finite() -> None:
    hidden, weight, _, labels = _inputs(4)

    value = linear_cross_entropy(hidden * 1e4, weight, labels)

    plain = F.cross_entropy(F.linear(hidden * 1e4, weight), labels, reduction="sum")
    torch.testing.assert_close(value, plain, rtol=1e-5, atol=1e-2)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(value, [hidden, weight]))


def test_half_precision_states_are_summed_up_in_fp32() -> None:
    hidden, weight, _, labels = _inputs(500)
    low_hidden, low_weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    low_hidden.requires_grad_()

    value = linear_cross_entropy(low_hidden, low_weight, labels)
    (gradient,) = torch.autograd.grad(value, [low_hidden])

    plain = F.cross_entropy(F.linear(low_hidden, low_weight).float(), labels, reduction="sum")
    (expected,) = torch.autograd.grad(plain, [low_hidden])
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(value, plain, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.05)


def test_a_label_outside_the_vocabulary_is_no_silent_number() -> None:
    hidden, weight, _, labels = _inputs(3)
    labels[1] = VOCAB

    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        linear_cross_entropy(hidden, weight, labels)


class TestTokenScores:
    @pytest.mark.parametrize("tokens", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
    @pytest.mark.parametrize("with_bias", [True, False])
    def test_values_and_weighted_gradients_are_those_of_log_softmax(
        self, tokens: int, with_bias: bool
    ) -> None:
        hidden, weight, bias, labels = _inputs(tokens)
        used_bias = {True: bias, False: None}[with_bias]
        learned = [hidden, weight, *[bias] * with_bias]
        token_weights = torch.randn(tokens, generator=torch.Generator().manual_seed(5))

        ours = linear_token_scores(hidden, weight, labels, used_bias)
        every = F.linear(hidden, weight, used_bias).log_softmax(-1)
        plain = every.gather(1, labels[:, None])[:, 0]

        torch.testing.assert_close(ours.logprobs, plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.entropy, -(every.exp() * every).sum(-1), rtol=1e-5, atol=1e-5)
        assert torch.equal(ours.is_top1, every.argmax(-1) == labels)
        found = torch.autograd.grad((token_weights * ours.logprobs).sum(), learned)
        for one, wanted in zip(
            found, torch.autograd.grad((token_weights * plain).sum(), learned), strict=True
        ):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)

    def test_the_sum_is_the_cross_entropy_and_so_is_its_gradient(self) -> None:
        hidden, weight, bias, labels = _inputs(300)
        whole = linear_cross_entropy(hidden, weight, labels, bias)
        each = -linear_token_scores(hidden, weight, labels, bias).logprobs.sum()
        torch.testing.assert_close(each, whole, rtol=1e-6, atol=1e-4)
        for one, wanted in zip(
            torch.autograd.grad(each, [hidden, weight, bias]),
            torch.autograd.grad(whole, [hidden, weight, bias]),
            strict=True,
        ):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
    def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(self, frozen: tuple[int, ...]) -> None:
        *parts, labels = _inputs(9)
        for place in frozen:
            parts[place].requires_grad_(requires_grad=False)
        hidden, weight, bias = parts
        learned = [part for part in parts if part.requires_grad]
        found = torch.autograd.grad(linear_token_scores(hidden, weight, labels, bias).logprobs.sum(), learned)
        plain = -F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")
        for ours, theirs in zip(found, torch.autograd.grad(plain, learned), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_a_frozen_head_is_multiplied_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        products: list[tuple[int, ...]] = []
        plain = F.linear

        def watched(*args: Tensor) -> Tensor:
            logits = plain(*args)
            products.append(tuple(logits.shape))
            return logits

        monkeypatch.setattr(loss_module.F, "linear", watched)
        monkeypatch.setattr(loss_module, "CHUNK", 8)
        hidden, weight, _, labels = _inputs(21, vocab=1000)
        linear_token_scores(hidden, weight.detach(), labels).logprobs.sum().backward()
        assert products == [(8, 1000), (8, 1000), (5, 1000)]

    def test_without_gradients_nothing_is_kept(self) -> None:
        hidden, weight, bias, labels = _inputs(9)
        with torch.no_grad():
            found = linear_token_scores(hidden, weight, labels, bias)
        assert not found.logprobs.requires_grad
        assert torch.equal(
            found.logprobs, linear_token_scores(hidden, weight, labels, bias).logprobs.detach()
        )

    def test_huge_logits_stay_finite(self) -> None:
        hidden, weight, _, labels = _inputs(4)
        found = linear_token_scores(hidden * 1e4, weight, labels)
        assert bool(torch.isfinite(found.logprobs).all() and torch.isfinite(found.entropy).all())

    def test_whole_logits_give_the_same(self) -> None:
        hidden, weight, bias, labels = _inputs(9)
        ours = linear_token_scores(hidden, weight, labels, bias)
        plain = TokenScores.of_logits(F.linear(hidden, weight, bias), labels)
        torch.testing.assert_close(ours.logprobs, plain.logprobs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.entropy, plain.entropy, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours.is_top1, plain.is_top1)


class TestRowScores:
    def test_a_row_is_the_sum_of_its_tokens_in_double_precision(self) -> None:
        hidden, weight, bias, labels = _inputs(9)
        tokens = linear_token_scores(hidden, weight, labels, bias)
        rows = RowScores.of(tokens, [4, 1, 4])
        expected = [float(part.double().sum()) for part in tokens.logprobs.detach().split([4, 1, 4])]
        assert rows.logprob.tolist() == expected
        assert rows.tokens.tolist() == [4.0, 1.0, 4.0]
        assert rows.correct.tolist() == [float(part.sum()) for part in tokens.is_top1.split([4, 1, 4])]
        assert {rows.logprob.dtype, rows.entropy.dtype, rows.correct.dtype} == {torch.float64}

    def test_parts_come_in_the_order_asked_for(self) -> None:
        hidden, weight, bias, labels = _inputs(9)
        whole = RowScores.of(linear_token_scores(hidden, weight, labels, bias), [4, 1, 4])
        first = RowScores.of(linear_token_scores(hidden[:5], weight, labels[:5], bias), [4, 1])
        last = RowScores.of(linear_token_scores(hidden[5:], weight, labels[5:], bias), [4])
        again = RowScores.in_order([last, first], [1, 2, 0])
        torch.testing.assert_close(again.logprob, whole.logprob)
        assert again.tokens.tolist() == [4.0, 1.0, 4.0]
