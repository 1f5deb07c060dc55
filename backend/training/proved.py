"""The forward pass and the way to decode a model in training, proved once and remembered (``core/proofs``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from peft import PeftModel
from transformers import PreTrainedModel

from backend.core import packed_attention
from backend.core.engine.decoder import Decoder
from backend.core.engine.library import kernels
from backend.core.proofs import recall, remember
from backend.core.rope import forget_lengths, steady_length
from backend.run.config import RunConfig
from backend.run.environment import ComputePlan, Facts
from backend.training.forward import ForwardPass, choose_forward

_KIND = "forward pass of training"


def proved_forward(
    model: PreTrainedModel | PeftModel, config: RunConfig, facts: Facts, plan: ComputePlan, layers: str
) -> ForwardPass:
    """Return what ``choose_forward`` returns for ``model``, which ``config`` made trainable, or raise what it raises.

    What it found before is taken from memory if model, adapter, settings and machine are the same.
    """
    about = {
        "model": facts.model,
        "adapter": facts.adapter,
        "settings": config.model.model_dump(mode="json", exclude={"model_name_or_path", "revision"}),
        "tuning": config.tuning.model_dump(mode="json", exclude={"adapter_name_or_path"}),
        "recomputes": config.training.gradient_checkpointing,
        "without_dropout": config.objective.facts.needs_reference or config.objective.facts.samples,
        "kernels": kernels(),
        "longest": config.data.max_length,
        "plan": [plan.device, plan.dtype, plan.matmul_precision],
        "layers": layers,
    }
    found = recall(_KIND, about, device=plan.device)
    known = None if found is None else _as_before(model, found)
    if known is not None:
        return known
    chosen = choose_forward(model, longest_row=config.data.max_length, plan=plan, layers=layers)
    written_out = isinstance(chosen.layers, Decoder)
    kept = {
        "packed": chosen.packed,
        "draws": chosen.draws,
        "layers": "" if written_out else chosen.layers,
        "attention": chosen.causal.config._attn_implementation,
    }
    remember(_KIND, about, kept, device=plan.device)
    return chosen


def _as_before(model: PreTrainedModel | PeftModel, found: Mapping[str, object]) -> ForwardPass | None:
    """Return the forward pass that ``found`` describes; None if it does not fit the model after all."""
    forget_lengths(model)
    packed, draws, layers, attention = (
        found.get(name) for name in ("packed", "draws", "layers", "attention")
    )
    if not (isinstance(packed, bool) and isinstance(draws, bool) and isinstance(layers, str)):
        return None
    forward = ForwardPass(model, packed=packed, draws=draws, steady_length=steady_length(model))
    decoder = layers or Decoder.of(forward.causal, forward.body)
    if not layers and isinstance(decoder, str):
        return None
    if packed:
        forward.causal.set_attn_implementation(packed_attention.register())
    if forward.causal.config._attn_implementation != attention:
        return None
    return replace(forward, layers=decoder)
