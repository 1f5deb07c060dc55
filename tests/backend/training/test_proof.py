"""Questions put to toy models of which the answer is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from backend.errors import ModelError
from backend.training.batching import pack
from backend.training.proof import (
    at_rest,
    distance,
    draws,
    is_all_attention,
    is_linked,
    reraise_out_of_memory,
    tokens_of_rows,
    translated,
    two_rows,
)
from tests.backend.core.odd_models import short_convolutions
from tests.tiny import tiny_model

EARLY, LATE = torch.arange(5), torch.arange(5, 10)


@given(vocabulary=st.integers(16, 300_000), length=st.integers(2, 40))
def test_the_rows_share_a_beginning_and_the_second_comes_later(vocabulary: int, length: int) -> None:
    first, later = two_rows(vocabulary, length)

    (batch,) = pack([later, first], budget=1000)

    assert batch.rows == ("0", "1")
    assert len(batch.input_ids) < batch.tokens
    assert len(first.input_ids) == length
    assert max(first.input_ids.max(), later.input_ids.max()) < vocabulary


@pytest.mark.parametrize("share", [True, False])
def test_the_tokens_of_rows_are_found_wherever_they_lie(share: bool) -> None:
    rows = two_rows(100, 17)
    (batch,) = pack(rows, budget=1000, share_prefixes=share)

    found = [batch.input_ids[tokens].tolist() for tokens in tokens_of_rows(batch, rows)]

    assert found == [row.input_ids.tolist() for row in rows]


def test_distance_is_relative_and_by_token() -> None:
    expected = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert distance(expected * 1.5, expected).tolist() == pytest.approx([0.5, 0.5])
    assert distance(expected, expected).tolist() == [0.0, 0.0]


def _states(mix: Callable[[Tensor], Tensor], dtype: torch.dtype) -> bool:
    """Whether the late tokens hang on the early ones where ``mix`` makes states of embeddings."""
    torch.manual_seed(0)
    embedding = nn.Embedding(20, 8, dtype=dtype)
    ids = torch.arange(10)[None]
    return is_linked(lambda: mix(embedding(ids))[0], embedding, of=LATE, to=EARLY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("mix", "linked"),
    [
        (lambda x: x * 2 + 1, False),
        (lambda x: F.layer_norm(x, (8,)), False),
        (lambda x: x * 0 + 1, False),
        (lambda x: x.mul_(2), False),
        (lambda x: x + 0.01 * x.roll(1, dims=1), True),
        (lambda x: x + 0.01 * x.roll(4, dims=1), True),
        (lambda x: x.cumsum(1), True),
        (lambda x: x + x.mean(1, keepdim=True), True),
        (lambda x: F.layer_norm(x + 0.1 * x.roll(1, dims=1), (8,)), True),
    ],
)
def test_a_link_between_tokens_is_seen_in_any_precision(
    mix: Callable[[Tensor], Tensor], linked: bool, dtype: torch.dtype
) -> None:
    assert _states(mix, dtype) is linked


def test_embeddings_that_are_not_called_say_nothing() -> None:
    with pytest.raises(ValueError, match="embeddings"):
        is_linked(lambda: torch.ones(10, 8, requires_grad=True), nn.Embedding(20, 8), of=LATE, to=EARLY)


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda: torch.ones(3), False),
        (lambda: F.dropout(torch.ones(3), 0.0, training=True), False),
        (lambda: F.dropout(torch.ones(3), 1e-9, training=True), True),
        (lambda: torch.rand(1), True),
        (random.random, True),
        (np.random.rand, True),
    ],
)
def test_any_draw_is_seen_whatever_came_of_it(compute: Callable[[], object], expected: bool) -> None:
    assert draws(compute) is expected


def test_convolutions_and_other_layers_are_no_attention() -> None:
    llama, convolving = tiny_model(), short_convolutions()
    assert is_all_attention(llama, llama.base_model)
    assert not is_all_attention(convolving, convolving.base_model)
    convolving.config.layer_types = None
    assert not is_all_attention(convolving, convolving.base_model)
    llama.config.layer_types = ["full_attention", "linear_attention"]
    assert not is_all_attention(llama, llama.base_model)


@pytest.mark.parametrize("training", [True, False])
def test_at_rest_nothing_is_kept_for_gradients(training: bool) -> None:
    model = tiny_model().train(training)
    with at_rest(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert all(part.training is training for part in model.modules())


def test_what_a_model_raises_is_told_and_memory_that_runs_out_is_not_its_fault() -> None:
    model = tiny_model()
    with pytest.raises(ModelError, match=r"llama cannot be trained.*KeyError") as caught, translated(model):
        raise KeyError("pixel_values")
    assert caught.value.code == "unsupported-architecture"
    with pytest.raises(torch.OutOfMemoryError), translated(model):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(RuntimeError, match="allocate"):
        reraise_out_of_memory(RuntimeError("can't allocate memory: you tried"))
