"""Positions that depend on the length of a row come from that row alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from backend.core.rope import forget_lengths, steady_length
from tests.backend.core.odd_models import dynamic_rope, long_rope
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("build", "expected"),
    [(lambda: long_rope(16), 16), (lambda: dynamic_rope(24), 24), (tiny_model, None)],
)
def test_the_border_is_where_positions_begin_to_depend_on_the_length(
    build: Callable[[], PreTrainedModel], expected: int | None
) -> None:
    assert steady_length(build()) == expected


@pytest.mark.parametrize("build", [long_rope, dynamic_rope])
@torch.no_grad()
def test_a_row_is_what_it_is_whatever_was_read_before(build: Callable[[], PreTrainedModel]) -> None:
    ids = torch.arange(3, 63)[None]
    alone = {length: build()(ids[:, :length]).logits for length in (10, 30, 60)}
    model = build()

    forget_lengths(model)

    for length in (60, 30, 10, 30):
        torch.testing.assert_close(model(ids[:, :length]).logits, alone[length])


def test_other_models_stay_as_they_are() -> None:
    model = tiny_model()
    forget_lengths(model)
    assert not any("forward" in vars(module) for module in model.modules())
