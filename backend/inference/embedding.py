"""Text embeddings: the mean of the last hidden states over a text's tokens, scaled to length 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

BATCH_TOKENS = 256
"""Most tokens of one batch, unless a single text is longer. Small, since other requests wait for a whole batch."""


def batches(lengths: Sequence[int], border: int | None) -> Iterator[list[int]]:
    """Yield the indices of texts to embed together: similar in length, at most ``BATCH_TOKENS`` with padding.

    ``lengths`` are in tokens. Texts on two sides of ``border``, see ``rope.rope_border``, never share a batch.
    """
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        length = lengths[number]
        crosses = border is not None and bool(batch) and lengths[batch[-1]] <= border < length
        if batch and (crosses or (len(batch) + 1) * length > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


@torch.inference_mode()
def embed_texts(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the vector [hidden size] of each text of token ids, from the hidden states after the last norm.

    Texts are padded on the right, where causal attention never looks, so no mask is needed.
    """
    rows = [torch.tensor(list(ids), device=model.device) for ids in texts]
    given = pad_sequence(rows, batch_first=True)
    states: Tensor = model.base_model(input_ids=given, use_cache=False).last_hidden_state
    means = [state[: len(ids)].float().mean(0) for state, ids in zip(states, texts, strict=True)]
    return [normalize(mean, dim=0).tolist() for mean in means]
