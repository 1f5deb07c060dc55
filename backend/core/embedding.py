"""A text as one vector: the mean of the last hidden states over its tokens, of length 1. Floor F1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel


@torch.inference_mode()
def embed_text(model: PreTrainedModel, ids: Sequence[int]) -> list[float]:
    """The vector [hidden size] of one text, from the states that the head would read (after the last norm)."""
    given = torch.tensor([list(ids)], device=model.device)
    states: Tensor = model.base_model(input_ids=given, use_cache=False).last_hidden_state
    return normalize(states[0].float().mean(0), dim=0).tolist()
