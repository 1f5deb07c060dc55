"""Texts as vectors, several at a time: backend/inference/embedding.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.inference.embedding import BATCH_TOKENS, batches, embed_texts
from tests.backend.core.decoding import LONG, PROMPTS, decoder
from tests.tiny import Architecture, tiny_model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_is_the_mean_of_the_states_that_the_head_reads(architecture: Architecture) -> None:
    model, ids = tiny_model(architecture), [5, 6, 7]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    mean = states.mean(0)

    vector = torch.tensor(embed_texts(model, [ids])[0])

    assert torch.allclose(vector, mean / mean.norm(), atol=1e-6)
    assert vector.norm() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "sliding window", "states", "states and attention"])
def test_a_text_beside_others_has_the_vector_that_it_has_alone(kind: str) -> None:
    model = decoder(kind)

    together = embed_texts(model, PROMPTS)

    alone = [embed_texts(model, [prompt])[0] for prompt in PROMPTS]
    assert torch.allclose(torch.tensor(together), torch.tensor(alone), atol=1e-5)


def test_texts_of_both_sides_of_a_rope_border_are_read_apart() -> None:
    model, texts = decoder("two ropes"), [LONG[:5], LONG]
    apart = [embed_texts(model, [text])[0] for text in texts]

    read = [embed_texts(model, [texts[number] for number in batch]) for batch in batches([5, len(LONG)], 16)]

    assert torch.equal(torch.tensor([vector for each in read for vector in each]), torch.tensor(apart))


@given(st.lists(st.integers(1, 2 * BATCH_TOKENS), max_size=40), st.none() | st.integers(1, 300))
def test_every_text_is_in_one_piece_and_no_piece_is_large(lengths: list[int], border: int | None) -> None:
    found = list(batches(lengths, border))

    assert sorted(number for batch in found for number in batch) == list(range(len(lengths)))
    widths = [(len(batch), max(lengths[number] for number in batch)) for batch in found]
    assert all(count == 1 or count * width <= BATCH_TOKENS for count, width in widths)
    sides = [{border is not None and lengths[number] > border for number in batch} for batch in found]
    assert all(len(side) == 1 for side in sides)
