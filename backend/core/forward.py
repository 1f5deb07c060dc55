"""One micro-batch through a model to its summed loss, and the proof that the short cuts change nothing.

Two short cuts are taken where a model allows them: rows run packed instead of padded, and the head is computed
chunk by chunk on trained tokens only. Before training, ``prove`` runs two short rows both ways through the real
model and keeps a short cut only if it gives the model's own numbers. Floor F1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core import packed_attention
from backend.core.batching import MicroBatch, pack
from backend.core.device import ComputePlan
from backend.core.examples import Example
from backend.core.loss import linear_cross_entropy
from backend.core.neftune import noisy
from backend.core.tuning import uses_dropout
from backend.errors import ModelError

PROOF_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest relative difference of two ways to the same loss, by the precision of the weights."""


@dataclass(frozen=True)
class ForwardPass:
    """How this model's loss is computed: ``packed`` rows or padded ones, and NEFTune noise while training.

    Noise needs batches that share no beginnings, so that every row draws its own.
    """

    model: PreTrainedModel | PeftModel
    packed: bool
    neftune_noise_alpha: float = 0.0

    @property
    def causal(self) -> PreTrainedModel:
        """The transformers model under an adapter, or the model itself."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def is_random(self) -> bool:
        """Whether a pass draws random numbers while training: dropout or noise."""
        return self.neftune_noise_alpha > 0 or uses_dropout(self.model)

    def autocast(self, plan: ComputePlan) -> AbstractContextManager[object]:
        """bfloat16 products over fp32 weights, where the plan says bfloat16 and those weights are trained."""
        if plan.dtype == "bfloat16" and self.causal.dtype == torch.float32:
            return torch.autocast(plan.device_type, dtype=torch.bfloat16)
        return nullcontext()

    def loss_sum(self, batch: MicroBatch) -> Tensor:
        """Summed cross-entropy in nats over the trained tokens of ``batch``; differentiable."""
        hidden = self.hidden_states(batch).index_select(0, batch.select)
        head = self.causal.get_output_embeddings()
        transform = _LogitTransform.of(self.causal)
        if type(head) is nn.Linear and transform is None:
            return linear_cross_entropy(hidden, head.weight.to(hidden.dtype), batch.labels, head.bias)
        logits = head(hidden).float()
        logits = transform(logits) if transform else logits
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    def hidden_states(self, batch: MicroBatch) -> Tensor:
        """Last hidden states of every distinct token of ``batch``: [T, h]."""
        body = self.causal.base_model
        if not self.packed:
            return self._padded_states(body, batch)
        with self._noise(batch.row_lengths()[None]):
            output = body(
                input_ids=batch.input_ids[None],
                position_ids=batch.position_ids[None],
                attention_mask=None,
                use_cache=False,
                packed=batch,
            )
        states: Tensor = output.last_hidden_state[0]
        return states

    def _padded_states(self, body: nn.Module, batch: MicroBatch) -> Tensor:
        cells: list[Tensor] = []
        for grid, lengths in zip(batch.cells, batch.lengths, strict=True):
            mask = torch.arange(grid.shape[1], device=grid.device)[None] < lengths[:, None]
            with self._noise(lengths[:, None].expand(grid.shape)):
                output = body(input_ids=batch.input_ids[grid], attention_mask=mask.long(), use_cache=False)
            cells.append(output.last_hidden_state.flatten(0, 1))
        return torch.cat(cells).index_select(0, batch.cell_of_token)

    def _noise(self, lengths: Tensor) -> AbstractContextManager[None]:
        alpha = self.neftune_noise_alpha if self.model.training else 0.0
        return noisy(self.causal.get_input_embeddings(), alpha, lengths)


@dataclass(frozen=True)
class _LogitTransform:
    """What some families do to their logits: cap * tanh(x / cap) (Gemma 2), times or divided by a constant."""

    softcap: float | None
    scale: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> _LogitTransform | None:
        config = model.config.get_text_config()
        softcap = getattr(config, "final_logit_softcapping", None)
        scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        return None if softcap is None and scale == 1.0 else cls(softcap, scale)

    def __call__(self, logits: Tensor) -> Tensor:
        scaled = logits * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


def prove(model: PreTrainedModel | PeftModel, *, longest_row: int | None = None) -> ForwardPass:
    """Choose the fastest way to the loss that gives the model's own loss on two short rows.

    ``longest_row`` is the length in tokens of the longest row to come: a model with a shorter sliding window, or
    with any where it is not given, runs padded. Raises ModelError when not even padded rows reproduce the model's
    own loss. Leaves the model in the mode it was in, on the attention implementation it chose.
    """
    slow = ForwardPass(model, packed=False)
    causal = slow.causal
    vocabulary = causal.get_input_embeddings().weight.shape[0]
    ids = np.random.default_rng(0).integers(0, vocabulary, size=17)
    rows = [ids, np.concatenate([ids[:6], ids[8:]])]
    examples = [Example(row, np.ones(len(row), dtype=bool), str(index)) for index, row in enumerate(rows)]
    own_attention = causal.config._attn_implementation
    tolerance = PROOF_TOLERANCE.get(causal.dtype, PROOF_TOLERANCE[torch.bfloat16])
    with _without_dropout(model):
        expected = sum(_own_loss(model, row) for row in rows)
    if _sees_whole_rows(causal, longest_row) and _takes_packed_attention(causal):
        fast = ForwardPass(model, packed=True)
        try:
            _loss(fast, examples)  # as training will call it: a model may refuse there what it takes at rest
            with _without_dropout(model):
                if _close(_loss(fast, examples), expected, tolerance):
                    return fast
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError):
            pass  # this architecture cannot run packed; the padded way below is proved on its own
    causal.set_attn_implementation(own_attention)
    with _without_dropout(model):
        padded = _loss(slow, examples)
    if not _close(padded, expected, tolerance):
        raise ModelError(
            f"The loss of {causal.config.model_type} models cannot be reproduced from their hidden states.",
            remedy="Choose a model of another architecture.",
            code="unsupported-architecture",
        )
    return slow


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _sees_whole_rows(causal: PreTrainedModel, longest_row: int | None) -> bool:
    window = getattr(causal.config.get_text_config(), "sliding_window", None)
    return window is None or (longest_row is not None and longest_row <= window)


def _takes_packed_attention(causal: PreTrainedModel) -> bool:
    """Select packed attention where attention is all that links tokens and can be replaced."""
    if causal._is_stateful or not causal._supports_attention_backend:
        return False
    causal.set_attn_implementation(packed_attention.register())
    return True


def _own_loss(model: PreTrainedModel | PeftModel, row: np.ndarray) -> float:
    device = next(model.parameters()).device
    ids = torch.from_numpy(row).to(device)[None]
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        return float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))


def _loss(forward: ForwardPass, examples: list[Example]) -> float:
    device = next(forward.model.parameters()).device
    batches = pack(examples, budget=1 << 20, share_prefixes=forward.packed)
    with torch.inference_mode():
        return sum(float(forward.loss_sum(batch.to(device))) for batch in batches)


def _close(value: float, expected: float, tolerance: float) -> bool:
    return abs(value - expected) <= tolerance * abs(expected)
