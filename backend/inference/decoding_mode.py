"""How a model can be decoded: what its class and configuration claim, or what ``decode_proof`` has found.

Models differ: whether rows of different lengths may share a batch, whether a prompt may be prefilled in chunks, and
whether rotary frequencies change with a row's length.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from peft import PeftModel
from transformers import PreTrainedModel

from backend.core.rope import rope_border
from backend.errors import ModelError

CACHES = ("past_key_values", "cache_params")
"""The names of the argument by which models take a cache: attention models, pure state-space models."""


@dataclass(frozen=True)
class DecodingMode:
    """The ways of decoding that a model supports. ``cache`` is the name of the argument that takes its cache.

    ``batched``: rows of different lengths may share a batch. ``chunked_prefill``: a prompt may be prefilled in
    chunks. ``rope_border``: rows of more tokens use other rotary frequencies, at all their positions (longrope).
    """

    cache: str
    batched: bool
    chunked_prefill: bool
    rope_border: int | None

    def is_past_border(self, length: int) -> bool:
        """True if a row of ``length`` tokens, the next input included, is longer than ``rope_border``."""
        return self.rope_border is not None and length > self.rope_border

    def needs_one_pass(self, length: int) -> bool:
        """True if a prompt of ``length`` tokens must be processed whole, by the step that gives its first token."""
        return not (self.batched and self.chunked_prefill) or self.is_past_border(length)


_proved: WeakKeyDictionary[PreTrainedModel, DecodingMode] = WeakKeyDictionary()


def causal_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the transformers model, without a PEFT wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def decoding_mode(model: PreTrainedModel | PeftModel) -> DecodingMode:
    """Return how to decode ``model``: the proved mode, or before a proof what its class and configuration claim.

    Raises ModelError ``cannot-generate`` for a model that takes no cache.
    """
    causal = causal_of(model)
    if causal in _proved:
        return _proved[causal]
    arguments = inspect.signature(causal.forward).parameters
    cache = next((name for name in CACHES if name in arguments), None)
    if cache is None:
        raise cannot_generate(causal, "they take no cache of what they have read")
    return DecodingMode(
        cache=cache,
        batched="attention_mask" in arguments,
        chunked_prefill=not causal._is_stateful,
        rope_border=rope_border(causal.config),
    )


def set_decoding_mode(model: PreTrainedModel | PeftModel, mode: DecodingMode) -> None:
    """Set how ``model`` is decoded from now on."""
    _proved[causal_of(model)] = mode


def cannot_generate(causal: PreTrainedModel, why: str) -> ModelError:
    """Return the error for a model that cannot be decoded; ``why`` completes "they cannot write answers: …"."""
    return ModelError(
        f"Models of type {causal.config.model_type} cannot write answers here: {why}.",
        remedy="Choose a model of another architecture.",
        code="cannot-generate",
    )
