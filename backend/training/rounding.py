"""Quantization-aware training of an adapter for GGUF's Q4_0: compute with the weights that such a file will have.

From a step on, each matrix W of the base is replaced by Q4_0(W + s B A) - s B A, anew after every step. With its
adapter it then makes Q4_0(W + s B A), and A and B have the gradients of an ordinary adapter, which pass through the
rounding as if it were none (straight-through: Bengio et al., 2013, arXiv:1308.3432). So they learn what the rounded
model needs. The result is an adapter like any other; merged into W and stored in Q4_0 it gives these weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from backend.core.device import products_in
from backend.core.model_loader import load_base
from backend.core.q4_0 import layers_in_q4_0, round_q4_0
from backend.errors import ModelError
from backend.training.forward import ForwardPass
from backend.training.lora import lora_layers


class Rounding:
    """Rounds the weights of the model in ``forward`` from step ``after`` on; ``folder`` is that of its base.

    From then on adapted layers are held twice: exact in float32, rounded in the model. Rounded are the
    ``layers_in_q4_0``, with an adapter or without.
    Raises ModelError ``unsupported-adapter`` for an adapter whose update is more than a product of two matrices.
    """

    def __init__(self, forward: ForwardPass, folder: Path, after: int) -> None:
        self._model, self._folder, self._after = forward.causal, folder, after
        self._adapted: dict[str, LoraLayer] = {}
        self._exact: dict[str, Tensor] = {}
        for name, layer in lora_layers(forward.model):
            without_dropout = all(isinstance(part, nn.Identity) for part in layer.lora_dropout.values())
            if layer.lora_variant or not without_dropout:
                raise ModelError(
                    f"The adapter of {name} adds more to its layer than a product of two matrices, so training "
                    "cannot round the two together.",
                    remedy="Leave tuning.qat_scheme out.",
                    code="unsupported-adapter",
                )
            self._adapted[name] = layer

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Round the weights for the adapter as it is after ``step`` steps; before step ``after`` do nothing."""
        if step < self._after:
            return
        with products_in("highest"):  # full float32, as an export computes; no lane is at work here
            if not self._exact:
                self._start()
            for name, exact in self._exact.items():
                layer = self._adapted[name]
                update = layer.get_delta_weight("default")  # as peft merges it
                layer.get_base_layer().weight.copy_(round_q4_0(exact + update) - update)

    def _start(self) -> None:
        """Keep the exact weights of adapted layers, and round the others for good."""
        own = dict(self._model.named_modules())
        for name, layer in layers_in_q4_0(load_base(self._folder)):
            if name in self._adapted:
                self._exact[name] = layer.weight
            else:
                own[name].weight.copy_(round_q4_0(layer.weight))
