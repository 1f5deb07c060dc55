"""Texts as vectors: the mean of the last hidden states over the tokens of each, of length 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

PIECE_TOKENS = 256
"""Most tokens of one piece of work, unless a single text is longer: whoever waits for a turn waits for a piece."""


def pieces(lengths: Sequence[int], border: int | None) -> Iterator[list[int]]:
    """Yield the numbers of texts to be read together: alike in length, and few enough not to hold others up.

    ``lengths`` are in tokens; texts on two sides of ``border``, see ``rope.rope_border``, never share a piece.
    """
    piece: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        length = lengths[number]
        crosses = border is not None and bool(piece) and lengths[piece[-1]] <= border < length
        if piece and (crosses or (len(piece) + 1) * length > PIECE_TOKENS):
            yield piece
            piece = []
        piece.append(number)
    if piece:
        yield piece


@torch.inference_mode()
def embed_texts(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the vector [hidden size] of each text, from the states that the head would read (after the last norm).

    Texts are padded on the right, where a causal model does not look.
    """
    rows = [torch.tensor(list(ids), device=model.device) for ids in texts]
    given = pad_sequence(rows, batch_first=True)
    states: Tensor = model.base_model(input_ids=given, use_cache=False).last_hidden_state
    means = [state[: len(ids)].float().mean(0) for state, ids in zip(states, texts, strict=True)]
    return [normalize(mean, dim=0).tolist() for mean in means]
