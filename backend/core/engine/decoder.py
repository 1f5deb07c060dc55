"""The layers of a transformers model of the Llama family, run by ``decoder_layer`` in place of the model's own code.

What a model is, is read from its modules: exactly the classes named here, with plain weights in one precision, and
plain LoRA at most. For everything else ``Decoder.of`` says why not, and the model's own layers run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralModel, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model, Qwen3RMSNorm

from backend.core.engine.decoder_layer import Linear, Norms, Place, run_layer
from backend.core.fused_lora import plain_adapter
from backend.core.packed_attention import MicroBatch

_FAMILIES: dict[type[nn.Module], tuple[type[nn.Module], type[nn.Module]]] = {
    LlamaModel: (LlamaDecoderLayer, LlamaRMSNorm),
    MistralModel: (MistralDecoderLayer, MistralRMSNorm),
    Qwen2Model: (Qwen2DecoderLayer, Qwen2RMSNorm),
    Qwen3Model: (Qwen3DecoderLayer, Qwen3RMSNorm),
}
"""Models whose layers are written out, by their class: the classes of their layers and norms."""
_SILU = {"silu", "swish"}


@dataclass(frozen=True)
class Decoder:
    """A body whose layers are written out. Call it with a micro-batch for the last hidden states [T, h].

    Its weights are those of the modules, looked up at each call: an adapter that is switched off has no effect.
    """

    body: nn.Module

    @classmethod
    def of(cls, causal: PreTrainedModel, body: nn.Module) -> Decoder | str:
        """Return the decoder for ``body``, or why its layers are not written out, as part of a sentence."""
        return next(_obstacles(causal, body), None) or cls(body)

    def __call__(self, batch: MicroBatch) -> Tensor:
        """Return the last hidden states [T, h], differentiable; embeddings and last norm run as modules."""
        body: Any = self.body
        states: Tensor = body.embed_tokens(batch.input_ids)
        # angles in float32, whatever the precision of the states
        cos, sin = body.rotary_emb(
            torch.empty(0, dtype=torch.float32, device=states.device), batch.position_ids[None]
        )
        for layer in body.layers:
            attention = layer.self_attn
            half = attention.head_dim // 2
            place = Place(
                batch=batch,
                cos=cos[0, :, :half].contiguous(),
                sin=sin[0, :, :half].contiguous(),
                width=attention.head_dim,
                scale=attention.scaling,
                eps=layer.input_layernorm.variance_epsilon,
                recompute=layer.gradient_checkpointing and layer.training,
            )
            states = run_layer(states, place, _norms(layer), [_linear(part) for part in _projections(layer)])
        last: Tensor = body.norm(states)
        return last


def _projections(layer: Any) -> Iterator[nn.Module]:
    """Yield the modules of the products of a layer, in the order that ``run_layer`` takes them."""
    attention, mlp = layer.self_attn, layer.mlp
    yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _norm_modules(layer: Any) -> Iterator[Any]:
    """Yield the norms before attention and before the MLP, then those of query and key heads, if there are any."""
    yield from (layer.input_layernorm, layer.post_attention_layernorm)
    if hasattr(layer.self_attn, "q_norm"):
        yield from (layer.self_attn.q_norm, layer.self_attn.k_norm)


def _norms(layer: Any) -> Norms:
    weights = [norm.weight for norm in _norm_modules(layer)]
    return Norms(*weights, *[None] * (len(Norms._fields) - len(weights)))


def _linear(part: Any) -> Linear:
    """Return weights and adapter of a product as they are at this moment."""
    if not isinstance(part, LoraLayer):
        return Linear(part.weight, part.bias, None, None, 1.0)
    base, name = part.get_base_layer(), plain_adapter(part)
    if name is None:  # switched off, or merged into the weight
        return Linear(base.weight, base.bias, None, None, 1.0)
    return Linear(
        base.weight, base.bias, part.lora_A[name].weight, part.lora_B[name].weight, part.scaling[name]
    )


def _obstacles(causal: PreTrainedModel, body: nn.Module) -> Iterator[str]:
    """Yield why the layers of ``body`` are not written out; later reasons assume that there are no earlier ones."""
    config: Any = causal.config.get_text_config()
    if type(body) not in _FAMILIES:
        yield f"the family {causal.config.model_type} is not written out"
    if causal.device.type != "cpu":
        yield "they are for processors"
    if config.hidden_act not in _SILU:
        yield f"the activation {config.hidden_act} is not written out"
    if getattr(config, "attention_dropout", 0.0):
        yield "attention has dropout"
    layers: list[Any] = list(body.layers)  # type: ignore[arg-type]
    layer_class, norm_class = _FAMILIES[type(body)]
    for layer in layers:
        norms = [*_norm_modules(layer)]
        if type(layer) is not layer_class or any(type(norm) is not norm_class for norm in norms):
            yield "its layers are not those of transformers"
        if len({norm.variance_epsilon for norm in norms}) > 1:
            yield "its norms differ"
        yield from filter(None, map(_odd_product, _projections(layer)))
    weights = [each for layer in layers for part in _projections(layer) for each in _linear(part)[:2]]
    weights += [each for layer in layers for each in _norms(layer)]
    precisions = {each.dtype for each in weights if each is not None}
    if len(precisions) > 1 or not precisions <= {torch.float32, torch.bfloat16}:
        yield "its weights have several precisions"


def _odd_product(part: Any) -> str:
    """Return why a product is computed in another way than with plain weights and plain LoRA; empty if it is not."""
    base = part.get_base_layer() if isinstance(part, LoraLayer) else part
    if type(base) is not nn.Linear:
        return "its weights are not plain matrices"
    if not base.weight.is_floating_point():
        return "its weights are quantized"
    is_adapted = isinstance(part, LoraLayer) and bool(part.active_adapters)
    return "its adapter has dropout, DoRA or biases" if is_adapted and plain_adapter(part) is None else ""
