"""Noise on embeddings has the magnitude of the paper's formula, and is gone afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backend.training.neftune import noisy

WIDTH = 64
IDS = torch.arange(40)[None]
LENGTHS = torch.tensor([10] * 10 + [30] * 30)[None]


def embedding() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(40, WIDTH)


def noise(alpha: float, seed: int = 0) -> torch.Tensor:
    table = embedding()
    with noisy(table, alpha, LENGTHS), torch.no_grad():
        torch.manual_seed(seed)
        return (table(IDS) - table.weight[IDS])[0]


@pytest.mark.parametrize(("rows", "length"), [(slice(10), 10), (slice(10, 40), 30)])
def test_it_is_uniform_up_to_alpha_over_the_root_of_length_and_width(rows: slice, length: int) -> None:
    bound = 5.0 / (length * WIDTH) ** 0.5
    drawn = noise(5.0)[rows]
    assert float(drawn.abs().max()) == pytest.approx(bound, rel=0.02)
    assert float(drawn.abs().max()) <= bound * (1 + 1e-5)
    assert float(drawn.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert abs(float(drawn.mean())) < bound / 10


def test_the_seed_decides() -> None:
    assert torch.equal(noise(5.0, seed=1), noise(5.0, seed=1))
    assert not torch.equal(noise(5.0, seed=1), noise(5.0, seed=2))


def test_without_alpha_nothing_changes_and_nothing_is_drawn() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    table = nn.Embedding(40, WIDTH)
    state = torch.get_rng_state()
    with noisy(table, 0.0, LENGTHS):
        assert torch.equal(table(IDS), table.weight[IDS])
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_gone_afterwards_even_after_an_error() -> None:
    table = embedding()
    with pytest.raises(RuntimeError, match="halfway"), noisy(table, 5.0, LENGTHS):
        raise RuntimeError("halfway")
    assert torch.equal(table(IDS), table.weight[IDS])
