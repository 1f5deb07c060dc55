"""Packed attention gives what each row gets alone: value, gradient, and nothing of its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from backend.core import packed_attention
from backend.core.encoding.examples import Example
from backend.core.packed_attention import MicroBatch, attend, register
from backend.training.batching import pack
from tests.backend.core.rows import example, lively_model, random_rows

WIDTH = 8
ROWS = {
    "one row": random_rows([7]),
    "rows of one length": random_rows([6, 6, 6]),
    "several blocks": random_rows([2, 3, 9, 11, 30, 40]),
    "a shared beginning": random_rows([9, 14, 12, 30], shared=8),
    "rows inside rows": [example(list(range(n)), row=str(n)) for n in (2, 5, 6, 20)],
}
SHAPES = {"each its own": (4, 4), "two share": (4, 2), "all share": (4, 1)}


def _packed(rows: list[Example]) -> MicroBatch:
    (batch,) = pack(rows, budget=1000)
    return batch


def _tokens(batch: MicroBatch, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(batch.input_ids))
    shapes = [(count, len(batch.input_ids), WIDTH) for count in (heads, kv_heads, kv_heads)]
    q, k, v = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    return q, k, v


def _alone(q: Tensor, k: Tensor, v: Tensor, batch: MicroBatch, scale: float) -> Tensor:
    """[T, H, D]: plain attention of each row on its own, written out in float64."""
    out = torch.zeros(q.shape[1], q.shape[0], WIDTH, dtype=torch.float64)
    for grid, lengths in zip(batch.blocks, batch.lengths, strict=True):
        for line, length in zip(grid, lengths, strict=True):
            at = line[:length]
            q_row, k_row, v_row = (t.double()[:, at] for t in (q, k, v))
            k_row, v_row = (t.repeat_interleave(len(q) // len(k), 0) for t in (k_row, v_row))
            scores = (q_row @ k_row.transpose(1, 2) * scale).masked_fill(
                torch.ones(int(length), int(length)).triu(1).bool(), float("-inf")
            )
            out = out.index_copy(0, at, (scores.softmax(-1) @ v_row).transpose(0, 1))
    return out


def _gradients(
    way: Callable[..., Tensor], batch: MicroBatch, heads: int, kv_heads: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = _tokens(batch, heads, kv_heads)
    out = way(*inputs, batch, 0.3)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    return out.detach(), torch.autograd.grad((out * weight).sum(), inputs)


@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_output_and_gradients_are_those_of_the_rows_alone(
    rows: list[Example], heads: int, kv_heads: int
) -> None:
    batch = _packed(rows)

    out, gradients = _gradients(attend, batch, heads, kv_heads)
    expected_out, expected = _gradients(_alone, batch, heads, kv_heads)

    torch.testing.assert_close(out.double(), expected_out, rtol=1e-5, atol=1e-6)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("limit", [1, 5_000, 20_000])
def test_a_backward_pass_in_pieces_gives_the_same_gradients(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = _packed(ROWS["several blocks"])
    _, whole = _gradients(attend, batch, 4, 2)
    monkeypatch.setattr(packed_attention, "BACKWARD_BYTES", limit)

    _, pieces = _gradients(attend, batch, 4, 2)

    for found, wanted in zip(pieces, whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_no_more_scores_than_allowed_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "BACKWARD_BYTES", 2 * 2 * 30 * 30 * 4)
    sizes: list[int] = []
    plain = torch.baddbmm

    def watched(*args: Tensor, **options: float) -> Tensor:
        result = plain(*args, **options)
        sizes.append(result.numel() * 4)
        return result

    monkeypatch.setattr(torch, "baddbmm", watched)
    _gradients(attend, _packed(random_rows([30] * 8)), 4, 2)

    assert sizes
    assert max(sizes) == packed_attention.BACKWARD_BYTES


def test_other_rows_do_not_notice_when_one_row_changes() -> None:
    batch = _packed(random_rows([9, 12, 11, 30]))
    q, k, v = (t.detach() for t in _tokens(batch, 4, 2))
    before = attend(q, k, v, batch, 0.3)
    changed = batch.blocks[0][0, : batch.lengths[0][0]]

    for tensor in (q, k, v):
        tensor[:, changed] += 3.0
    after = attend(q, k, v, batch, 0.3)

    others = torch.ones(len(batch.input_ids), dtype=torch.bool)
    others[changed] = False
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[changed], before[changed])


def test_a_token_does_not_see_what_comes_after_it() -> None:
    batch = _packed(random_rows([12]))
    q, k, v = (t.detach() for t in _tokens(batch, 4, 2))
    before = attend(q, k, v, batch, 0.3)

    k[:, 6:] += 3.0
    v[:, 6:] += 3.0
    after = attend(q, k, v, batch, 0.3)

    assert torch.equal(after[:6], before[:6])
    assert (after[6:] - before[6:]).abs().amin(dim=(1, 2)).gt(0).all()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_model_gives_packed_rows_the_states_they_have_alone(architecture: str) -> None:
    model = lively_model(architecture)
    rows = random_rows([5, 9, 14, 33], shared=4)
    batch = _packed(rows)
    alone = {
        row.row: model.base_model(torch.tensor(row.input_ids)[None]).last_hidden_state[0] for row in rows
    }

    model.set_attn_implementation(register())
    packed = model.base_model(
        input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], packed=batch, use_cache=False
    ).last_hidden_state[0]

    by_length = {len(row.input_ids): alone[row.row] for row in rows}
    found = {
        int(length): packed[line[:length]]
        for grid, lengths in zip(batch.blocks, batch.lengths, strict=True)
        for line, length in zip(grid, lengths, strict=True)
    }
    assert found.keys() == by_length.keys()
    for length, states in found.items():
        torch.testing.assert_close(states, by_length[length], rtol=1e-4, atol=1e-5)


def test_transformers_makes_no_mask_for_packed_rows() -> None:
    name = register()

    assert AttentionMaskInterface()[name](1, 7, 7, mask_function=None) is None
    assert AttentionInterface()[name] is packed_attention.packed_attention


def _call(batch: MicroBatch | None, mask: Tensor | None = None, **options: object) -> Tensor:
    q, k, v = (t.detach()[None] for t in _tokens(_packed(ROWS["one row"]), 4, 2))
    out, weights = packed_attention.packed_attention(nn.Identity(), q, k, v, mask, packed=batch, **options)
    assert weights is None
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 6},
        {"softcap": 50.0},
        {"s_aux": torch.zeros(4)},
        {"dropout": 0.1},
        {"mask": torch.ones(1, 1, 7, 7)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_packed_rows_cannot_give_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"pack|window"):
        _call(_packed(ROWS["one row"]), **options)


def test_without_the_packed_batch_nothing_is_computed() -> None:
    with pytest.raises(ValueError, match="needs the packed batch"):
        _call(None)


@pytest.mark.parametrize("options", [{"sliding_window": 7}, {"sliding_window": None}, {"dropout": 0.0}])
def test_what_changes_nothing_is_no_reason_to_refuse(options: dict[str, object]) -> None:
    batch = _packed(ROWS["one row"])

    assert torch.equal(_call(batch, **options), _call(batch))


def test_the_scale_is_the_models_own_or_the_usual_one() -> None:
    batch = _packed(ROWS["one row"])
    q, k, v = (t.detach() for t in _tokens(batch, 4, 2))

    assert torch.equal(_call(batch)[0], attend(q, k, v, batch, WIDTH**-0.5))
    assert torch.equal(_call(batch, scaling=0.7)[0], attend(q, k, v, batch, 0.7))


def test_queries_and_keys_follow_the_precision_of_the_values() -> None:
    batch = _packed(ROWS["one row"])
    q, k, v = (t.detach()[None] for t in _tokens(batch, 4, 2))

    mixed, _ = packed_attention.packed_attention(nn.Identity(), q, k, v.bfloat16(), None, packed=batch)

    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), _call(batch), rtol=0.05, atol=0.02)


def test_the_way_a_gpu_takes_gives_the_same() -> None:
    q, k, v = (t.detach()[None] for t in _tokens(_packed(ROWS["one row"]), 4, 2))

    ours = packed_attention._attend_block(q, k, v, 0.3)

    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, theirs)
