from __future__ import annotations

import pytest
import torch
from torch.nn.functional import rms_norm as torchs

from backend.core.engine.norm import rms_norm, rms_norm_twin


@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (2, 5, 17), (4, 577), (1, 3), (0, 8)])
def test_kernel_and_twin_agree_with_torch(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape), torch.randn(shape[-1])
    expected = torchs(x, shape[-1:], weight, 1e-5)
    for norm in (rms_norm, rms_norm_twin):
        torch.testing.assert_close(norm(x, weight, 1e-5), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("x", [torch.randn(6, 4).t(), torch.randn(3, 6).bfloat16(), torch.randn(3, 7)[:, 1:]])
def test_what_the_kernel_cannot_read_goes_to_the_twin(x: torch.Tensor) -> None:
    weight = torch.randn(6)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), rms_norm_twin(x, weight, 1e-5))


def test_a_weight_of_another_width_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size"):
        rms_norm(torch.randn(2, 4), torch.randn(3), 1e-5)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 18])
def test_what_is_no_number_stays_in_its_row(wrong: float, place: int) -> None:
    x, weight = torch.randn(3, 19), torch.ones(19)
    x[1, place] = wrong
    y = rms_norm(x, weight, 1e-5)
    assert y[1].isnan().any()
    assert y[[0, 2]].isfinite().all()


def test_gradients_pass_through() -> None:
    x = torch.randn(2, 8, requires_grad=True)
    rms_norm(x, torch.ones(8), 1e-5).sum().backward()
    assert x.grad is not None
