"""Properties of a model found by running it: dependence between tokens, random draws, distance between states.

``forward.choose_forward`` checks them before training, in the precision of the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core.device import is_out_of_memory
from backend.core.encoding.examples import Example
from backend.core.packed_attention import MicroBatch
from backend.errors import ModelError

LINKED = 1e-4
"""A token counts as dependent on another from this share of the largest gradient on."""
SHARED = 6
"""Tokens at the beginning of the two rows of a proof that are equal, if the rows are long enough."""

FOREIGN = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError, ArithmeticError)
"""Exceptions that model code raises for a call it does not support."""

_PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "attention"}


def two_rows(vocabulary: int, length: int) -> list[Example]:
    """Return two rows of random tokens with a common beginning; the second is two tokens shorter and sorts later."""
    ids = np.random.default_rng(0).integers(0, vocabulary, size=2 * length)
    shared = min(SHARED, length // 2)
    left = max(1, length - shared - 2)
    first, later = ids[:length].copy(), np.concatenate([ids[:shared], ids[length : length + left]])
    first[shared], later[shared] = int(first[shared]) // 2, vocabulary - 1
    return [
        Example(row, np.ones(len(row), dtype=bool), str(place)) for place, row in enumerate((first, later))
    ]


def tokens_of_rows(batch: MicroBatch, rows: Sequence[Example]) -> list[Tensor]:
    """Return, for each row, where its tokens stand in the states of ``batch``; the rows must differ."""
    found = {}
    for grid, lengths in zip(batch.blocks, batch.lengths, strict=True):
        for line, length in zip(grid, lengths.tolist(), strict=True):
            found[tuple(batch.input_ids[line[:length]].tolist())] = line[:length]
    return [found[tuple(row.input_ids.tolist())] for row in rows]


def distance(states: Tensor, expected: Tensor) -> Tensor:
    """Return each token's relative L2 distance, [tokens], between two tensors [tokens, h]."""
    difference = (states.float() - expected.float()).norm(dim=-1)
    relative: Tensor = difference / expected.float().norm(dim=-1).clamp_min(1e-12)
    return relative


def is_linked(compute: Callable[[], Tensor], embeddings: nn.Module, of: Tensor, to: Tensor) -> bool:
    """True if the states of the tokens ``of`` depend on the embeddings of the tokens ``to``.

    ``compute`` returns the last hidden states [T, h] of T tokens and calls ``embeddings`` once. The gradient decides,
    and not a change of tokens: without a dependence it is exactly zero in any precision, whatever experts a router
    chooses. Raises ValueError if ``embeddings`` was not called.
    """
    with torch.enable_grad(), _leaves(embeddings) as embedded:
        states = compute()[of].float()
        if not embedded:
            raise ValueError("this model does not call its embeddings")
        # different weights, since after a LayerNorm the plain sum of a state is constant and has no gradient
        weights = torch.linspace(-1.0, 2.0, states.numel(), device=states.device).view_as(states)
        total = (states * weights).sum()
        (slope,) = torch.autograd.grad(total, embedded[:1], allow_unused=True, materialize_grads=True)
    each = slope.reshape(-1, slope.shape[-1]).float().norm(dim=-1)
    return bool(each[to].max() > LINKED * each.max())


@contextmanager
def _leaves(embeddings: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs of ``embeddings`` inside the block, in order, as leaf tensors."""
    seen: list[Tensor] = []

    def watch(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # some models multiply it in place, which autograd forbids for a leaf

    hook = embeddings.register_forward_hook(watch)
    try:
        yield seen
    finally:
        hook.remove()


def is_all_attention(causal: PreTrainedModel, body: nn.Module) -> bool:
    """True if attention, which can be replaced, is all that mixes tokens, as far as modules and configuration show.

    False for convolutions, linear attention, state spaces, and models that keep a state.
    """
    layers = set(getattr(causal.config.get_text_config(), "layer_types", None) or ())
    convolves = any(isinstance(part, nn.Conv1d) for part in body.modules())
    links_otherwise = causal._is_stateful or convolves or not layers <= _PLAIN_LAYERS
    return not links_otherwise and bool(causal._supports_attention_backend)


def draws(compute: Callable[[], object]) -> bool:
    """True if ``compute`` draws from a global random generator.

    The generators' states are compared, not two results: dropout of 0.1 % often changes none.
    """
    before = _generators()
    compute()
    return _generators() != before


def _generators() -> tuple[object, ...]:
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpu = torch.cuda.get_rng_state() if in_use else torch.empty(0)
    numpy: Any = np.random.get_state()
    return torch.get_rng_state().tolist(), gpu.tolist(), random.getstate(), numpy[1].tobytes(), numpy[2:]


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode, without gradients, inside the block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextmanager
def moved(model: nn.Module) -> Iterator[None]:
    """Give trained matrices that are all zero, such as B of LoRA at its start, small values inside the block."""
    zeros = [part for part in model.parameters() if part.requires_grad and part.ndim == 2 and not part.any()]
    with torch.no_grad():
        for part in zeros:
            spread = torch.linspace(-1.0, 1.0, part.numel(), device=part.device).view_as(part)
            part.copy_(spread.sin_().mul_(37.0).sin_().mul_(0.02))
    try:
        yield
    finally:
        with torch.no_grad():
            for part in zeros:
                part.zero_()


@contextmanager
def translated(causal: PreTrainedModel) -> Iterator[None]:
    """Turn whatever a model raises on text into ModelError ``unsupported-architecture``."""
    try:
        yield
    except FOREIGN as error:
        reraise_out_of_memory(error)
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise unsupported(causal, f"fails on rows of text ({type(error).__name__}: {first})") from error


def reraise_out_of_memory(error: BaseException) -> None:
    """Raise ``error`` again if it means that memory ran out: that says nothing about the architecture."""
    if is_out_of_memory(error):
        raise error


def unsupported(causal: PreTrainedModel, why: str) -> ModelError:
    """Return the error for a model that cannot be trained; ``why`` completes the sentence "it …"."""
    return ModelError(
        f"This model of the family {causal.config.model_type} cannot be trained: it {why}.",
        remedy="Choose a model of another architecture.",
        code="unsupported-architecture",
    )
