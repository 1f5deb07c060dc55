"""NEFTune: uniform noise on the embeddings of training rows (Jain et al., 2023, arXiv:2310.05914)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def noisy(embedding: nn.Module, alpha: float, lengths: Tensor) -> Iterator[None]:
    """Inside the block, ``embedding`` adds uniform noise in [-m, m] to its outputs, m = alpha / sqrt(length * width).

    ``lengths``, in the shape of the ids, holds for every token the length of its row in tokens. transformers and TRL
    (``neftune_noise_alpha``) use the padded length of the batch instead, so there a row's noise depends on the rows
    beside it. An ``alpha`` of 0 adds nothing and draws no random numbers.
    """
    if not alpha:
        yield
        return

    def add(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        magnitude = alpha / (lengths * output.shape[-1]).sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * magnitude[..., None].to(output.dtype)

    hook = embedding.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
