from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.core.engine import elementwise
from backend.core.engine.elementwise import (
    add_norm,
    add_norm_twin,
    causal_softmax_,
    causal_softmax_backward_,
    causal_softmax_backward_twin_,
    causal_softmax_twin_,
    norm_backward,
    norm_backward_twin,
    rotate_,
    rotate_twin_,
    swiglu,
    swiglu_backward,
    swiglu_backward_twin,
    swiglu_twin,
)
from backend.core.engine.library import library

native = pytest.mark.skipif(library() is None, reason="no native kernels here")
SHAPES = [(0, 8), (1, 1), (1, 2), (3, 7), (5, 16), (4, 17), (2, 15), (9, 576), (2, 1000)]
CLOSE = {torch.float32: 3e-6, torch.bfloat16: 1e-2}
BOTH = pytest.mark.parametrize("dtype", list(CLOSE), ids=str)


def _random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def _close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether tensors are equal up to the rounding of their precision, and no number where the others are none."""
    return len(found) == len(wanted) and all(
        one.dtype == other.dtype
        and torch.allclose(
            one.float(), other.float(), rtol=CLOSE[one.dtype], atol=CLOSE[one.dtype], equal_nan=True
        )
        for one, other in zip(found, wanted, strict=True)
    )


@native
@BOTH
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_kernels_compute_what_their_twins_do(rows: int, width: int, dtype: torch.dtype) -> None:
    x, delta, dy, residual = (_random(rows, width, dtype=dtype, seed=seed) for seed in range(4))
    weight = _random(width, dtype=dtype)

    assert _close(add_norm(x, delta, weight, 1e-5), add_norm_twin(x, delta, weight, 1e-5))
    assert _close(add_norm(x, None, weight, 1e-5), add_norm_twin(x, None, weight, 1e-5))
    for kept in (None, residual):
        assert _close(
            [norm_backward(dy, x, weight, 1e-5, kept)], [norm_backward_twin(dy, x, weight, 1e-5, kept)]
        )
    assert _close([swiglu(x * 5, delta)], [swiglu_twin(x * 5, delta)])
    assert _close(swiglu_backward(x * 5, delta, dy), swiglu_backward_twin(x * 5, delta, dy))


@native
@BOTH
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("rows", "heads", "half"), [(0, 2, 4), (1, 1, 1), (3, 3, 4), (2, 1, 17), (5, 9, 32)])
def test_heads_are_rotated_as_by_the_twin(
    rows: int, heads: int, half: int, back: bool, dtype: torch.dtype
) -> None:
    x, cos, sin = (
        _random(rows, heads * 2 * half, dtype=dtype),
        _random(rows, half),
        _random(rows, half, seed=1),
    )

    assert _close([rotate_(x.clone(), cos, sin, back=back)], [rotate_twin_(x.clone(), cos, sin, back=back)])


@native
@pytest.mark.parametrize(
    ("matrices", "queries", "first"), [(2, 5, 0), (1, 1, 0), (3, 17, 4), (2, 40, 0), (0, 3, 0), (1, 33, 31)]
)
def test_attention_weights_are_those_of_the_twin(matrices: int, queries: int, first: int) -> None:
    scores, dp = (_random(matrices, queries, first + queries, seed=seed) * 3 for seed in (0, 1))

    p = causal_softmax_(scores.clone(), first, 0.3)
    assert _close([p], [causal_softmax_twin_(scores.clone(), first, 0.3)])
    assert _close(
        [causal_softmax_backward_(p, dp.clone(), first, 0.3)],
        [causal_softmax_backward_twin_(p, dp.clone(), first, 0.3)],
    )


@BOTH
def test_what_is_no_number_stays_so(dtype: torch.dtype) -> None:
    x = torch.full((2, 20), 0.5, dtype=dtype)
    x[0, 18] = torch.nan
    one = torch.ones(20, dtype=dtype)

    assert add_norm(x, None, one, 1e-5)[1].isnan().any(-1).tolist() == [True, False]
    assert norm_backward(x, x, one, 1e-5).isnan().any(-1).tolist() == [True, False]
    assert swiglu(x, x).isnan().any(-1).tolist() == [True, False]
    assert all(each.isnan().any(-1).tolist() == [True, False] for each in swiglu_backward(x, x, x))
    scores = x.float()[:, None].repeat(1, 20, 1)
    assert causal_softmax_(scores.clone(), 0, 1.0)[0, 18:].isnan().any()
    assert not causal_softmax_(scores.clone(), 0, 1.0)[:, :18].isnan().any()


def test_large_numbers_saturate_as_in_torch() -> None:
    gate = torch.tensor([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])

    assert _close([swiglu(gate, torch.ones(7))], [F.silu(gate)])


def test_the_gradients_are_those_of_autograd() -> None:
    x, weight, delta, dy = (
        _random(*shape, seed=9).requires_grad_() for shape in ((4, 24), (24,), (4, 24), (4, 24))
    )
    gradient = dy.detach()
    (wanted,) = torch.autograd.grad(F.rms_norm(x, (24,), weight, 1e-5), x, gradient)
    assert _close([norm_backward(gradient, x.detach(), weight.detach(), 1e-5)], [wanted])

    wanted_both = torch.autograd.grad(F.silu(x) * delta, (x, delta), gradient)
    assert _close(swiglu_backward(x.detach(), delta.detach(), gradient)[:2], wanted_both)

    scores = _random(3, 6, 6).requires_grad_()
    future = torch.ones(6, 6).triu(1).bool()
    p = torch.softmax(scores.masked_fill(future, -torch.inf) * 0.5, -1)
    dp = _random(3, 6, 6, seed=3)
    (d_scores,) = torch.autograd.grad(p, scores, dp)
    assert _close([causal_softmax_backward_(p.detach(), dp.clone(), 0, 0.5)], [d_scores])


def test_a_rotation_is_undone_by_the_one_back() -> None:
    x, angle = _random(5, 24), _random(5, 4)
    turned = rotate_(x.clone(), angle.cos(), angle.sin())

    assert not torch.allclose(turned, x)
    assert _close([rotate_(turned, angle.cos(), angle.sin(), back=True)], [x])


@pytest.mark.parametrize(
    "call",
    [
        lambda x: add_norm(x, x, x[0].contiguous(), 1e-5)[1],
        lambda x: norm_backward(x, x, x[0].contiguous(), 1e-5),
        lambda x: swiglu(x, x),
        lambda x: swiglu_backward(x, x, x)[0],
    ],
)
def test_without_kernels_and_for_other_tensors_the_twins_run(
    call: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = _random(3, 8)
    wanted = call(x)
    assert _close([call(torch.cat([x, x], 1)[:, :8])], [wanted])
    monkeypatch.setattr(elementwise, "function", lambda *_: None)
    assert _close([call(x)], [wanted])
