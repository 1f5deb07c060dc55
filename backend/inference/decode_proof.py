"""Find out how a model can be decoded by trying it on a few tokens.

The decode loop uses a cache, batches rows of different lengths and prefills prompts in chunks. A model that supports
only part of this gives wrong answers without an error. So the log-probabilities of the loop are compared with those
of one forward pass over the whole row without a cache.
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
from backend.inference.decoding_mode import (
    DecodingMode,
    cannot_generate,
    causal_of,
    decoding_mode,
    set_decoding_mode,
)
from backend.inference.logprobs import answer_logprobs
from backend.inference.sampling import Sampler, Sampling

LENGTHS = (11, 5)
"""Tokens of the two test prompts; different, so that one is padded. Shorter if the context cannot hold them."""
STEPS = 3
"""The first step processes the prompt, the second uses its cache, the third the cache the second wrote."""
PIECE = 4
FAR = 0.25
"""Largest error in nats, as a share of what leaving away all tokens but the last changes there."""
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Errors up to this many nats count as rounding; in 16-bit formats ``SHORT_ROUNDING``."""
SHORT_ROUNDING = 0.1
_SAMPLING = Sampling(max_new_tokens=STEPS + 1, top_logprobs=20)
_REFUSALS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, NotImplementedError)


def prove_decoding(model: PreTrainedModel | PeftModel) -> DecodingMode:
    """Find the fastest decoding mode that gives correct log-probabilities, set it for ``model`` and return it.

    Tried in turn: batched with chunked prefill, batched with prompts in one pass, rows one by one. Raises ModelError
    ``cannot-generate`` if none is correct. The model stays in train or eval mode, as it was.
    """
    causal, promised = causal_of(model), decoding_mode(model)
    vocabulary = causal.get_input_embeddings().weight.shape[0]
    generator = np.random.default_rng(0)
    longest = min(LENGTHS[0], context_length(model) - STEPS - 1)
    lengths = longest, min(LENGTHS[1], longest - 1)
    prompts = [generator.integers(0, vocabulary, size=length).tolist() for length in lengths]
    rounding = ROUNDING.get(causal.dtype, SHORT_ROUNDING)
    for batched, chunked_prefill in ((True, True), (True, False), (False, False)):
        mode = replace(promised, batched=batched, chunked_prefill=chunked_prefill)
        set_decoding_mode(model, mode)
        try:
            with for_inference(model), one_thread():
                if all(_is_right(model, *row, rounding) for row in _trial_rows(model, *prompts)):
                    return mode
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS:
            continue  # the architecture refuses this mode; the next may do
    raise cannot_generate(causal, "with a cache they say something else than without one")


def _trial_rows(
    model: PreTrainedModel | PeftModel, long: list[int], short: list[int]
) -> Iterator[tuple[list[int], list[NewToken]]]:
    """Yield (prompt, generated tokens) of a row whose neighbour was dropped, and of one that joined later."""
    decoding = Decoding(model, [long, short], _SAMPLING, ())
    tokens = decoding.step()[1:]
    decoding.drop(0)
    yield short, [*tokens, *(token for _ in range(STEPS - 1) for token in decoding.step())]

    decoding = Decoding(model, [short], _SAMPLING, ())
    decoding.step()
    if not decoding.accepts_rows:
        decoding = Decoding(model, [], _SAMPLING, ())
    prefill = Prefill(model, long)
    while prefill.left:
        prefill.advance(PIECE)
    *_, last = decoding.join(prefill, [Sampler(_SAMPLING, long) for _ in range(2)])
    yield long, [token for _ in range(STEPS) for token in decoding.step() if token.row == last]


def _is_right(
    model: PreTrainedModel | PeftModel, prompt: list[int], tokens: Sequence[NewToken], rounding: float
) -> bool:
    """True if the log-probabilities at the last token agree with one forward pass over the whole row."""
    *before, last = tokens
    row = [*prompt, *(token.token_id for token in before)]
    ids, ours = zip(*last.top, strict=True)
    whole, without_context = (
        answer_logprobs(model, given, [last.token_id])[0, list(ids)].cpu() for given in (row, row[-1:])
    )
    error, effect = (float((other - whole).abs().max()) for other in (torch.tensor(ours), without_context))
    return error <= max(FAR * effect, rounding)
