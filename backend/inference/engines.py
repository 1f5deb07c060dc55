"""Which models are decoded by our own engine, proved for each when it is loaded, and why the others are not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from backend.core.engine.block import UnsupportedError
from backend.core.engine.engine import Engine
from backend.core.engine.forward import Reading
from backend.core.engine.library import kernels
from backend.core.engine.seat import Seat
from backend.core.lanes import one_thread
from backend.core.proofs import recall, remember
from backend.errors import InferenceError
from backend.inference.decoding_mode import causal_of

PRECISIONS = ("exact", "fast")
"""``exact``: the weights as they were loaded. ``fast``: in 8 bits, a scale for every 64 of a row."""
EXACT = {torch.float32: 1e-3, torch.bfloat16: 0.25}
FAST = 0.5
"""Largest difference of a log-probability from that of transformers, as a share of how far those of a place spread
(their standard deviation): by the weights' dtype; for ``fast``.

In bfloat16 it is transformers that rounds every value in between; the engine computes in float32.
"""
TOKENS = 12
"""Tokens of the trial row: one half is read at once, the other token by token."""
LIKELIEST = 20
_KIND = "engine that decodes"
_log = logging.getLogger("tunesmith.engine")
_Model: TypeAlias = PreTrainedModel | PeftModel
_engines: WeakKeyDictionary[_Model, Engine] = WeakKeyDictionary()
_of_trained: WeakKeyDictionary[_Model, Engine] = WeakKeyDictionary()
"""Engines of models that train, which decode only ``with_current_weights``."""


def check_precision(precision: str) -> None:
    """Raise InferenceError ``bad-precision`` unless ``precision`` is one of ``PRECISIONS``."""
    if precision not in PRECISIONS:
        raise InferenceError(
            f"The precision is {precision!r}.", remedy=f"Use {' or '.join(PRECISIONS)}.", code="bad-precision"
        )


def engine_of(model: _Model) -> Engine | None:
    """Return the engine that decodes ``model``; None if transformers does."""
    return _engines.get(model)


def add_engine(
    model: PreTrainedModel, precision: str, about: Callable[[], Mapping[str, object]] | None = None
) -> str:
    """Decode ``model`` with the engine from now on, if it can and agrees; return "" or the reason why it does not.

    Both compute the log-probabilities of the likeliest tokens at every place of a few random tokens. ``about``
    returns what decides them; where they agreed about the same before, they are believed (``core/proofs``).
    """
    engine = _proved(model, precision, about)
    if isinstance(engine, str):
        return engine
    _engines[model] = engine
    return ""


def add_engine_of_trained(model: _Model) -> str:
    """Let the engine decode ``model``, which trains, inside ``with_current_weights``; return "" or why it does not.

    The model must be as it generates, in eval mode, and no matrix of its adapter zero, which would hide another.
    """
    engine = _proved(model, "exact")
    if isinstance(engine, str):
        return engine
    _of_trained[model] = engine
    return ""


@contextmanager
def with_current_weights(model: _Model) -> Iterator[None]:
    """Decode a model that trains with the engine inside the block, if that was proved, from the weights of now."""
    engine = _of_trained.get(model)
    if engine is None:
        yield
        return
    engine.reread(causal_of(model))
    _engines[model] = engine
    try:
        yield
    finally:
        _engines.pop(model, None)


def _proved(
    model: _Model, precision: str, about: Callable[[], Mapping[str, object]] | None = None
) -> Engine | str:
    """Return an engine that agrees with ``model``, or why there is none."""
    causal = causal_of(model)
    try:
        engine = Engine(causal, eight_bits=precision == "fast")
    except UnsupportedError as error:
        return str(error)
    bound = FAST if precision == "fast" else EXACT[causal.dtype]
    decides = {**about(), "precision": precision, "kernels": kernels()} if about is not None else None
    if decides is not None and recall(_KIND, decides) is not None:
        return engine
    apart = disagreement(causal, engine)
    if not apart <= bound:  # nor if it is not a number
        why = f"its log-probabilities differ from those of transformers by {apart:.2g} of their spread"
        _log.warning("the engine is not used: %s", why)
        return why
    if decides is not None:
        remember(_KIND, decides, {"apart": apart})
    return engine


@torch.inference_mode()
def disagreement(model: PreTrainedModel, engine: Engine) -> float:
    """Return the largest difference at any of ``TOKENS`` places, over its ``LIKELIEST`` tokens; see ``EXACT``."""
    longest = min(TOKENS, engine.block.vocabulary, model.config.max_position_embeddings - 1)
    ids: Sequence[int] = np.random.default_rng(0).integers(0, engine.block.vocabulary, size=longest).tolist()
    seat, half = Seat(engine.block), longest // 2
    with one_thread():
        theirs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        pieces = [ids[:half], *([token] for token in ids[half:])]
        ours = torch.cat([engine.read([Reading(seat, piece)]) for piece in pieces if piece]).log_softmax(-1)
    theirs = theirs[longest - len(ours) :]
    likely = theirs.topk(min(LIKELIEST, theirs.shape[1])).indices
    spread = theirs.std(-1, keepdim=True)
    return float(((ours - theirs) / spread).gather(1, likely).abs().max())
