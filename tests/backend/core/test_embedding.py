"""A text as one vector: backend/core/embedding.py."""

from __future__ import annotations

import pytest
import torch

from backend.core.embedding import embed_text
from tests.tiny import Architecture, tiny_model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_is_the_mean_of_the_states_that_the_head_reads(architecture: Architecture) -> None:
    model, ids = tiny_model(architecture), [5, 6, 7]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    mean = states.mean(0)
    vector = torch.tensor(embed_text(model, ids))
    assert torch.allclose(vector, mean / mean.norm(), atol=1e-6)
    assert vector.norm() == pytest.approx(1)
