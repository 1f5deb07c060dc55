"""The forward pass of training: a micro-batch in, its summed loss out.

Three optimizations apply where a model allows them: rows run packed instead of padded, the head is computed in
chunks, on trained tokens only, and the layers of known families are written out instead of left to autograd. Before
training, ``choose_forward`` proves them on the real model: two short rows run one by one as transformers computes
them, then together as training will. Packing is used only if the last hidden states agree and no row's states depend
on the row before it, written-out layers only if gradients agree too. A model that cannot be trained is refused there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core import packed_attention
from backend.core.device import ComputePlan, restored_globals
from backend.core.encoding.examples import Example
from backend.core.engine.decoder import Decoder
from backend.core.engine.library import kernels
from backend.core.lanes import one_thread
from backend.core.packed_attention import MicroBatch
from backend.core.rope import forget_lengths, steady_length
from backend.errors import ModelError
from backend.inference.decoding import context_length
from backend.training.batching import pack, split_long_rows
from backend.training.beside_lora import head_product
from backend.training.loss import (
    CHUNK,
    CrossEntropy,
    RowScores,
    TokenLoss,
    TokenScores,
    linear_loss,
    linear_token_scores,
    logit_loss,
)
from backend.training.neftune import noisy
from backend.training.proof import (
    FOREIGN,
    at_rest,
    distance,
    draws,
    is_all_attention,
    is_linked,
    moved,
    reraise_out_of_memory,
    tokens_of_rows,
    translated,
    two_rows,
    unsupported,
)
from backend.training.reach import text_body
from backend.training.tuning import uses_dropout

TRANSFORMERS = "transformers"
"""The value of ``layers_used`` where the model's own layers run."""
TOKENS = 17
"""Tokens of the longer row of the proof; fewer if the model's context is shorter."""
LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest relative difference between two computations of one loss, by the precision of matrix products."""
STATES_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""The same for the last hidden state of a token."""
GRADIENTS_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""The same for the gradient of all trained weights together."""
AGREEING = {torch.float32: 1.0, torch.bfloat16: 0.5}
"""Share of a row's tokens whose states must agree. In bfloat16 a router may choose another expert for some tokens;
if rows were mixed up, few tokens would agree."""


@dataclass(frozen=True)
class ForwardPass:
    """A model and the way to compute its loss: ``packed`` or padded rows, and NEFTune noise while training.

    ``draws``: the model itself draws random numbers in training mode, for dropout or in a router.
    ``steady_length``: rows of more tokens have rotary positions that depend on their length, so each runs alone.
    ``layers``: the layers written out, or why the model's own run, as part of a sentence.
    If ``is_random``, pack batches without shared beginnings: a shared token would be drawn once for several rows.
    """

    model: PreTrainedModel | PeftModel
    packed: bool
    neftune_noise_alpha: float = 0.0
    draws: bool = False
    steady_length: int | None = None
    layers: Decoder | str = "they were not asked for"

    @property
    def causal(self) -> PreTrainedModel:
        """The transformers model, without a PEFT wrapper."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def body(self) -> nn.Module:
        """The transformers model without its head: token ids in, last hidden states out."""
        return text_body(self.causal)

    @property
    def layers_used(self) -> str:
        """Whose code computes the layers, and with which kernels; together with the machine it decides the bits."""
        return f"tunesmith, {kernels()}" if isinstance(self.layers, Decoder) else TRANSFORMERS

    @property
    def is_random(self) -> bool:
        """True if a training pass draws random numbers: for dropout, in a router, or for NEFTune."""
        return self.neftune_noise_alpha > 0 or self.draws

    def autocast(self, plan: ComputePlan) -> AbstractContextManager[object]:
        """Return a context for bfloat16 products where the plan asks for them and the model's weights are fp32."""
        if plan.dtype == "bfloat16" and self.causal.dtype == torch.float32:
            return torch.autocast(plan.device_type, dtype=torch.bfloat16)
        return nullcontext()

    def loss_sum(
        self, batch: MicroBatch, token_loss: Callable[[MicroBatch], TokenLoss] | None = None
    ) -> Tensor:
        """Return the summed loss of the trained tokens of ``batch``, differentiable; by default cross-entropy, nats.

        ``token_loss`` makes another loss for the tokens of a micro-batch, which may be a part of ``batch``.
        """
        if self._must_split(batch):
            parts = split_long_rows(batch, self.steady_length or 0)
            return torch.stack([self.loss_sum(part, token_loss) for part in parts]).sum()
        return self.loss_of_states(self.hidden_states(batch), batch, token_loss and token_loss(batch))

    def _must_split(self, batch: MicroBatch) -> bool:
        """True if rows of ``batch`` are so long that their rotary positions would change those of the others."""
        return self.steady_length is not None and batch.longest > self.steady_length and len(batch.rows) > 1

    def loss_of_states(
        self, states: Tensor, batch: MicroBatch, token_loss: TokenLoss | None = None
    ) -> Tensor:
        """Return what ``loss_sum`` does, given the last hidden states [T, h] of ``batch``."""
        hidden = states.index_select(0, batch.select)
        head = self._plain_head()
        if head is not None:
            weight, bias = head
            return linear_loss(
                hidden, weight.to(hidden.dtype), token_loss or CrossEntropy(batch.labels), bias
            )
        logits = self._logits(hidden)
        if token_loss is not None:
            return logit_loss(logits, token_loss)
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    def token_logits(self, batch: MicroBatch) -> Iterator[Tensor]:
        """Yield the logits that predict the trained tokens of ``batch``, fp32 [up to CHUNK, V] at a time, in order.

        Rows of which one is too long to stand beside the others must be in batches of their own.
        """
        hidden = self.hidden_states(batch).index_select(0, batch.select)
        for start in range(0, len(hidden), CHUNK):
            yield self._logits(hidden[start : start + CHUNK])

    def row_scores(self, batch: MicroBatch) -> RowScores:
        """Return what the model says of the trained tokens of each row, in the order of ``batch.examples``."""
        if self._must_split(batch):
            parts = split_long_rows(batch, self.steady_length or 0)
            places = {id(example): n for n, example in enumerate(chain(*(part.examples for part in parts)))}
            scores = [self.row_scores(part) for part in parts]
            return RowScores.in_order(scores, [places[id(example)] for example in batch.examples])
        hidden = self.hidden_states(batch).index_select(0, batch.select)
        head = self._plain_head()
        if head is not None:
            weight, bias = head
            scores_of_tokens = linear_token_scores(hidden, weight.to(hidden.dtype), batch.labels, bias)
        else:
            scores_of_tokens = TokenScores.of_logits(self._logits(hidden), batch.labels)
        return RowScores.of(scores_of_tokens, [int(each.trained[1:].sum()) for each in batch.examples])

    def _plain_head(self) -> tuple[Tensor, Tensor | None] | None:
        """Return weight and bias of the head if the logits are its product and no more."""
        plain = _LogitTransform.of(self.causal) is None
        return head_product(self.causal.get_output_embeddings()) if plain else None

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.causal.get_output_embeddings()(hidden).float()
        transform = _LogitTransform.of(self.causal)
        return transform(logits) if transform else logits

    def hidden_states(self, batch: MicroBatch) -> Tensor:
        """Return the last hidden state of each distinct token of ``batch``, [T, h]."""
        body = self.body
        if not self.packed:
            return self._padded_states(body, batch)
        if isinstance(self.layers, Decoder) and not torch.is_autocast_enabled(batch.input_ids.device.type):
            with self._noise(batch.row_lengths()):
                return self.layers(batch)
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
        per_slot: list[Tensor] = []
        for grid, lengths in zip(batch.blocks, batch.lengths, strict=True):
            mask = torch.arange(grid.shape[1], device=grid.device)[None] < lengths[:, None]
            with self._noise(lengths[:, None].expand(grid.shape)):
                output = body(input_ids=batch.input_ids[grid], attention_mask=mask.long(), use_cache=False)
            per_slot.append(output.last_hidden_state.flatten(0, 1))
        return torch.cat(per_slot).index_select(0, batch.slot_of_token)

    def _noise(self, lengths: Tensor) -> AbstractContextManager[None]:
        alpha = self.neftune_noise_alpha if self.model.training else 0.0
        return noisy(self.causal.get_input_embeddings(), alpha, lengths)


@dataclass(frozen=True)
class _LogitTransform:
    """A function that some families apply to their logits: cap * tanh(x / cap) (Gemma 2), or a constant factor."""

    softcap: float | None
    scale: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> _LogitTransform | None:
        config = model.config.get_text_config()
        caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        softcap = next((cap for name in caps if (cap := getattr(config, name, None)) is not None), None)
        scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        return None if softcap is None and scale == 1.0 else cls(softcap, scale)

    def __call__(self, logits: Tensor) -> Tensor:
        scaled = logits * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


def choose_forward(
    model: PreTrainedModel | PeftModel,
    *,
    longest_row: int | None = None,
    plan: ComputePlan | None = None,
    layers: str = "auto",
) -> ForwardPass:
    """Return the fastest forward pass that reproduces the model's own loss, in the precision of ``plan``.

    ``longest_row`` is the most tokens a row will have: a model whose attention window is shorter, or that has any
    window while ``longest_row`` is None, runs padded. With ``layers`` "transformers" the model's own layers run, with
    "tunesmith" those written out are required, with "auto" they are taken where they are proved. The model keeps its
    mode (train or eval), the random generators their state; the attention implementation is the one that the returned
    pass needs.
    Raises ModelError ``damaged-weights`` if the model's own loss is not finite, ``unsupported-architecture`` if not
    even padded rows reproduce it, if a token attends to later ones, or if no trained parameter gets a gradient, and
    ``layers-not-written-out`` if they are required and not possible.
    """
    forget_lengths(model)
    own = ForwardPass(model, packed=False, steady_length=steady_length(model))
    own_attention = own.causal.config._attn_implementation
    precision = own.autocast(plan) if plan else nullcontext()
    with restored_globals(), one_thread(), torch.enable_grad(), precision, translated(own.causal):
        proof = _Proof(own)
        chosen = proof.packed(longest_row)
        if chosen is None:
            own.causal.set_attn_implementation(own_attention)
            chosen = proof.padded()
        if layers != TRANSFORMERS:
            chosen = proof.written_out(chosen)
    if layers == "tunesmith" and isinstance(chosen.layers, str):
        raise ModelError(
            f"The layers of this model are not computed by Tunesmith: {chosen.layers}.",
            remedy="Set training.layers_implementation to auto.",
            code="layers-not-written-out",
        )
    # an expert that no token of the proof was routed to may have dropout all the same
    return replace(chosen, draws=chosen.draws or uses_dropout(model))


class _Proof:
    """Compare another forward pass with the model's own, computed for two rows one by one."""

    def __init__(self, own: ForwardPass) -> None:
        self._own = own
        length = min(TOKENS, own.steady_length or TOKENS, context_length(own.causal))
        self._rows = two_rows(own.causal.get_input_embeddings().weight.shape[0], length)
        exact = own.causal.dtype == torch.float32 and not torch.is_autocast_enabled(own.causal.device.type)
        self._precision = torch.float32 if exact else torch.bfloat16
        self._loss = 0.0
        with at_rest(own.model):
            self._states = [self._checked_states(row) for row in self._rows]
        batch = self._batch(own, self._rows[:1])
        tokens = torch.arange(length)
        if self._is_linked(own, batch, of=tokens[: length // 2], to=tokens[length // 2 :]):
            raise unsupported(own.causal, "sees the tokens that come after the one it is to predict")

    def packed(self, longest_row: int | None) -> ForwardPass | None:
        """Return the packed forward pass if it is proved, else None; both may leave packed attention switched on."""
        if not is_all_attention(self._own.causal, self._own.body):
            return None
        fast = replace(self._own, packed=True)
        self._own.causal.set_attn_implementation(packed_attention.register())
        try:
            with packed_attention.noted_windows() as windows:
                fast = self._trained_once(
                    fast
                )  # in training mode a model may raise where it did not in eval mode
                is_same = self._is_close(fast) and self._are_independent(fast)
        except FOREIGN as error:
            reraise_out_of_memory(error)
            return None
        sees_whole_rows = not windows or (longest_row is not None and longest_row <= min(windows))
        return fast if is_same and sees_whole_rows else None

    def written_out(self, chosen: ForwardPass) -> ForwardPass:
        """Return ``chosen`` with its layers written out if they are proved, else with the reason why not."""
        if not chosen.packed:
            return replace(chosen, layers="rows of this model run padded")
        if torch.is_autocast_enabled(chosen.causal.device.type):
            return replace(chosen, layers="weights are in float32 and products in bfloat16")
        found = Decoder.of(chosen.causal, chosen.body)
        fast = replace(chosen, layers=found)
        if isinstance(found, str):
            return fast
        try:
            is_same = (
                self._is_close(fast) and self._are_independent(fast) and self._has_gradients_of(chosen, fast)
            )
        except FOREIGN as error:
            reraise_out_of_memory(error)
            is_same = False
        return fast if is_same else replace(chosen, layers="they gave other numbers than the model's own")

    def _has_gradients_of(self, plain: ForwardPass, fast: ForwardPass) -> bool:
        """True if both passes give the same gradient, with no trained matrix at zero, which would hide others."""
        with moved(plain.model):
            expected, found = (self._gradient(forward) for forward in (plain, fast))
        if expected is None or found is None:
            return expected is found
        return bool((found - expected).norm() <= GRADIENTS_TOLERANCE[self._precision] * expected.norm())

    def _gradient(self, forward: ForwardPass) -> Tensor | None:
        """Return the gradient of all trained parameters as one vector; None if nothing is trained."""
        trained = [part for part in forward.model.parameters() if part.requires_grad]
        loss = forward.loss_sum(self._batch(forward, self._rows))
        if not trained or not loss.requires_grad:
            return None
        found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        return torch.cat([each.float().flatten() for each in found])

    def padded(self) -> ForwardPass:
        """Return the padded forward pass. Raises ModelError if padding changes the states of a row."""
        if not self._is_close(self._own):
            raise unsupported(
                self._own.causal, "computes a row differently when a longer one stands beside it"
            )
        return self._trained_once(self._own)

    def _trained_once(self, forward: ForwardPass) -> ForwardPass:
        """Run one training pass with its gradient and record in ``draws`` whether it drew random numbers.

        Raises ModelError if no trained parameter gets a gradient.
        """
        return replace(forward, draws=draws(lambda: self._train(forward)))

    def _train(self, forward: ForwardPass) -> None:
        trained = [part for part in forward.model.parameters() if part.requires_grad]
        loss = forward.loss_sum(self._batch(forward, self._rows))
        gradients = (
            torch.autograd.grad(loss, trained, allow_unused=True) if trained and loss.requires_grad else []
        )
        if trained and all(gradient is None for gradient in gradients):
            raise unsupported(forward.causal, "does not use what is to be trained when it reads a text")

    def _checked_states(self, row: Example) -> Tensor:
        """Return the last hidden states of ``row`` alone, after checking that they give the model's own loss."""
        expected = _own_loss(self._own.model, row)
        if not math.isfinite(expected):
            raise ModelError(
                f"The base model's own loss is {expected}: its weights are damaged.",
                remedy="Download or convert the model again.",
                code="damaged-weights",
            )
        self._loss += expected
        batch = self._batch(self._own, [row])
        states = self._own.hidden_states(batch)
        if not self._is_near(float(self._own.loss_of_states(states, batch)), expected):
            raise unsupported(
                self._own.causal, "has a loss that cannot be computed from its last hidden states"
            )
        return states

    def _is_near(self, loss: float, expected: float) -> bool:
        return abs(loss - expected) <= LOSS_TOLERANCE[self._precision] * abs(expected)

    def _is_close(self, forward: ForwardPass) -> bool:
        """True if both rows in one batch have the loss and the hidden states that each has alone."""
        batch = self._batch(forward, self._rows)
        with at_rest(forward.model):
            together = forward.hidden_states(batch)
            loss = float(forward.loss_of_states(together, batch))
        tolerance, agreeing = STATES_TOLERANCE[self._precision], AGREEING[self._precision]
        rows = zip(tokens_of_rows(batch, self._rows), self._states, strict=True)
        return self._is_near(loss, self._loss) and all(
            bool(distance(together[tokens], alone).quantile(agreeing) <= tolerance) for tokens, alone in rows
        )

    def _are_independent(self, forward: ForwardPass) -> bool:
        """True if neither row depends on tokens that only the other has."""
        batch = self._batch(forward, self._rows)
        first, later = tokens_of_rows(batch, self._rows)
        only_later = later[~torch.isin(later, first)]
        only_first = first[~torch.isin(first, later)]
        linked = self._is_linked(forward, batch, of=only_later, to=only_first)
        return not linked and not self._is_linked(forward, batch, of=first, to=only_later)

    def _is_linked(self, forward: ForwardPass, batch: MicroBatch, *, of: Tensor, to: Tensor) -> bool:
        return is_linked(
            lambda: forward.hidden_states(batch), forward.causal.get_input_embeddings(), of=of, to=to
        )

    def _batch(self, forward: ForwardPass, rows: Sequence[Example]) -> MicroBatch:
        (batch,) = pack(rows, budget=1 << 20, share_prefixes=forward.packed)
        return batch.to(next(forward.model.parameters()).device)


def _own_loss(model: PreTrainedModel | PeftModel, row: Example) -> float:
    ids = torch.from_numpy(row.input_ids).to(next(model.parameters()).device)[None]
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
