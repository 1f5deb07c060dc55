"""Whether answers can be written with a model, and how: tried on a few tokens before anybody waits for one.

The decode loop keeps what a model has read in a cache, lets rows share a batch and reads prompts in pieces. A model
that heeds only a part of that answers wrongly without an error, so what the loop says is held against one pass over
the whole row without any cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from backend.core.lanes import one_thread
from backend.inference.decoding import Decoding, NewToken, Prefill, context_length, for_inference
from backend.inference.logprobs import answer_logprobs
from backend.inference.runner import Way, cannot_generate, causal_of, set_way, way_of
from backend.inference.sampling import Chooser, Sampling

LENGTHS = (11, 5)
"""Tokens of the two prompts that are tried: of different lengths, so that one of them is padded.

They are shorter where the model cannot take so many and ``STEPS`` more.
"""
STEPS = 3
"""The first reads the prompt, the second goes on from what was read, the third from what the second left."""
PIECE = 4
FAR = 0.25
"""The largest error in nats, as a share of what all tokens but the last change at that place."""
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
"""An error so small, in nats, is rounding; ``SHORT_ROUNDING`` in shorter formats."""
SHORT_ROUNDING = 0.1
_SAMPLING = Sampling(max_new_tokens=STEPS + 1, top_logprobs=20)
_REFUSALS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, NotImplementedError)


def prove_decoding(model: PreTrainedModel | PeftModel) -> Way:
    """Find the fastest way of writing answers under which the cache changes nothing, and keep to it from now on.

    Rows together and prompts in pieces is tried first, then prompts in one go, then rows one by one. Raises
    ModelError ``cannot-generate`` where none is right. Leaves the model in the mode it was in.
    """
    causal, promised = causal_of(model), way_of(model)
    vocabulary = causal.get_input_embeddings().weight.shape[0]
    dice = np.random.default_rng(0)
    longest = min(LENGTHS[0], context_length(model) - STEPS - 1)
    lengths = longest, min(LENGTHS[1], longest - 1)
    prompts = [dice.integers(0, vocabulary, size=length).tolist() for length in lengths]
    rounding = ROUNDING.get(causal.dtype, SHORT_ROUNDING)
    for together, in_pieces in ((True, True), (True, False), (False, False)):
        way = replace(promised, together=together, in_pieces=in_pieces)
        set_way(model, way)
        try:
            with for_inference(model), one_thread():
                if all(_is_right(model, *row, rounding) for row in _tried(model, *prompts)):
                    return way
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS:
            continue  # this architecture cannot be decoded in this way; the next one is tried on its own
    raise cannot_generate(causal, "with a cache they say something else than without one")


def _tried(
    model: PreTrainedModel | PeftModel, long: list[int], short: list[int]
) -> Iterator[tuple[list[int], list[NewToken]]]:
    """Yield rows and what they said: one whose neighbour left, and one that joined, read in pieces."""
    decoding = Decoding(model, [long, short], _SAMPLING, ())
    said = decoding.step()[1:]
    decoding.drop(0)
    yield short, [*said, *(token for _ in range(STEPS - 1) for token in decoding.step())]

    decoding = Decoding(model, [short], _SAMPLING, ())
    decoding.step()
    if not decoding.takes_rows:
        decoding = Decoding(model, [], _SAMPLING, ())
    prefill = Prefill(model, long)
    while prefill.left:
        prefill.advance(PIECE)
    *_, last = decoding.join(prefill, [Chooser(_SAMPLING, long) for _ in range(2)])
    yield long, [token for _ in range(STEPS) for token in decoding.step() if token.row == last]


def _is_right(
    model: PreTrainedModel | PeftModel, prompt: list[int], said: Sequence[NewToken], rounding: float
) -> bool:
    """Whether the last token that was said is as likely as in one pass over the whole row."""
    *before, last = said
    row = [*prompt, *(token.token_id for token in before)]
    ids, ours = zip(*last.top, strict=True)
    whole, blind = (
        answer_logprobs(model, read, [last.token_id])[0, list(ids)].cpu() for read in (row, row[-1:])
    )
    error, effect = (float((other - whole).abs().max()) for other in (torch.tensor(ours), blind))
    return error <= max(FAR * effect, rounding)
