from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.core.engine import causal_attention
from backend.core.engine.causal_attention import attend, attend_backward
from backend.core.packed_attention import MicroBatch
from backend.training.batching import pack
from tests.backend.core.rows import random_rows

WIDTH, HEADS, KEYS = 6, 4, 2


def _batch(lengths: list[int], shared: int) -> MicroBatch:
    (batch,) = pack(random_rows(lengths, shared=shared), budget=10_000)
    return batch


def _given(batch: MicroBatch, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    widths = (HEADS * WIDTH, KEYS * WIDTH, KEYS * WIDTH)
    return [torch.randn(len(batch.input_ids), width, generator=generator).to(dtype) for width in widths]


def _row_by_row(q: Tensor, k: Tensor, v: Tensor, batch: MicroBatch) -> Tensor:
    """Attention as torch computes it, one row after the other."""
    slots = []
    for block in batch.blocks:
        for line in block:
            heads = [each[line].view(len(line), -1, WIDTH).transpose(0, 1)[None] for each in (q, k, v)]
            out = F.scaled_dot_product_attention(*heads, is_causal=True, scale=0.4, enable_gqa=True)
            slots.append(out[0].transpose(0, 1).reshape(len(line), -1))
    return torch.cat(slots)[batch.slot_of_token]


@pytest.mark.parametrize("stripe", [3, 256])
@pytest.mark.parametrize(
    ("lengths", "shared"), [([2], 0), ([9], 0), ([12, 9, 10], 4), ([5, 30, 6, 31, 7], 3), ([8, 8], 0)]
)
def test_rows_attend_as_each_does_alone(
    lengths: list[int], shared: int, stripe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_attention, "STRIPE", stripe)
    monkeypatch.setattr(causal_attention, "STRIPE_BYTES", stripe * 1000)
    batch = _batch(lengths, shared)
    given = [each.requires_grad_() for each in _given(batch)]
    wanted = _row_by_row(*given, batch)
    d_out = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(wanted, given, d_out)
    q, k, v = (each.detach() for each in given)

    torch.testing.assert_close(attend(q, k, v, batch, WIDTH, 0.4), wanted.detach(), rtol=1e-5, atol=1e-5)
    for found, expected in zip(attend_backward(d_out, q, k, v, batch, WIDTH, 0.4), gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_rounded_at_the_ends_only() -> None:
    batch = _batch([12, 9, 10], 4)
    given = _given(batch, torch.bfloat16)
    out = attend(*given, batch, WIDTH, 0.4)
    exact = _row_by_row(*(each.float() for each in given), batch)

    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.to(torch.bfloat16))
    assert all(each.dtype == torch.bfloat16 for each in attend_backward(out, *given, batch, WIDTH, 0.4))
