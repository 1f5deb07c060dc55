"""NEFTune: uniform noise on the embeddings of training rows (Jain et al. 2023, arXiv 2310.05914)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def noisy(embedding: nn.Module, alpha: float, lengths: Tensor) -> Iterator[None]:
    """Within it, ``embedding`` adds noise from -m to m to each of its outputs, m = alpha / sqrt(length * width).

    ``lengths`` holds the length in tokens of the row of every token, in the shape of the ids. That is the formula
    of the paper and of ``neftune_noise_alpha`` in transformers and TRL, which take the padded width of a batch for
    the length. An ``alpha`` of 0 changes nothing and draws nothing.
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
