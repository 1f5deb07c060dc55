"""The parameters of a model that text input reaches, and the layers that an adapter can be added to.

They are found by running a few tokens and walking the autograd graph: a parameter is reached if the logits depend on
it. Those of a vision tower are not, nor is a bias that only chooses experts.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core.lanes import one_thread
from backend.core.quantized import is_packed
from backend.inference.decoding import context_length
from backend.training.proof import at_rest, translated, two_rows

TOKENS = 9
"""Tokens that are run to find what is reached."""


@dataclass(frozen=True)
class Reach:
    """``parameters``: names of those that text reaches, with ``*`` for layer and expert numbers; None means all.

    ``several``: linear layers, named in the same way, that return more than one tensor, as some routers do: PEFT
    cannot adapt them.
    """

    parameters: frozenset[str] | None
    several: frozenset[str] = frozenset()

    @classmethod
    def everything(cls) -> Reach:
        """Return the reach of a model that was not run: all its parameters."""
        return cls(None)

    def has_parameter(self, name: str) -> bool:
        """True if text reaches this parameter, or the same one in another layer or expert."""
        return self.parameters is None or _numberless(name) in self.parameters

    def has_layer(self, name: str) -> bool:
        """True if an adapter on the layer ``name`` would have an effect on text."""
        return _numberless(name) not in self.several and self.has_parameter(f"{name}.weight")


def text_body(causal: PreTrainedModel) -> nn.Module:
    """Return the part of ``causal`` that maps token ids to last hidden states and takes text alone."""
    parts = (causal.get_decoder(), causal.base_model, *causal.children())
    inner: list[nn.Module] = [p for p in parts if isinstance(p, PreTrainedModel) and p is not causal]
    return inner[0] if inner else causal


def reach_of_text(model: PreTrainedModel) -> Reach:
    """Run ``model`` in eval mode on a few tokens and return what they reach; the model is left as it was.

    Raises ModelError ``unsupported-architecture`` if it cannot be run on text.
    """
    length = min(TOKENS, context_length(model))
    first, _ = two_rows(model.get_input_embeddings().weight.shape[0], length)
    ids = torch.from_numpy(first.input_ids)[None].to(model.device)
    with (
        translated(model),
        at_rest(model),
        one_thread(),
        torch.enable_grad(),
        _all_require_grad(model),
        _multiple_outputs(model) as several,
        _stand_ins(model) as stand_ins,
    ):
        states = text_body(model)(input_ids=ids, use_cache=False).last_hidden_state
        used = {id(leaf) for leaf in _leaves(model.get_output_embeddings()(states).sum())}
    every = [*model.named_parameters(remove_duplicate=False), *stand_ins.items()]
    reached = frozenset(_numberless(name) for name, part in every if id(part) in used)
    return Reach(reached, frozenset(map(_numberless, several)))


def fixed_parameters(model: PreTrainedModel) -> set[str]:
    """Return the names of the parameters that the architecture itself freezes, such as sinusoidal positions.

    A fresh model on the meta device tells them: loading weights sets requires_grad on every parameter.
    """
    with torch.device("meta"):
        fresh = type(model)(copy.deepcopy(model.config))
    return {name for name, part in fresh.named_parameters() if not part.requires_grad}


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


@contextmanager
def _all_require_grad(model: nn.Module) -> Iterator[None]:
    """Set requires_grad on every floating-point parameter inside the block."""
    frozen = [part for part in model.parameters() if part.is_floating_point() and not part.requires_grad]
    for part in frozen:
        part.requires_grad = True
    try:
        yield
    finally:
        for part in frozen:
            part.requires_grad = False


@contextmanager
def _stand_ins(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Add a zero that requires a gradient, inside the block, to what layers with packed weights return.

    Integers have no gradient of their own. The zeros come by the names of the weights.
    """
    packed = {name: part for name, part in model.named_modules() if is_packed(part)}
    zeros = {f"{name}.weight": torch.zeros((), requires_grad=True) for name in packed}
    hooks = [
        part.register_forward_hook(lambda _module, _given, output, zero=zero: output + zero.to(output))
        for part, zero in zip(packed.values(), zeros.values(), strict=True)
    ]
    try:
        yield zeros
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _multiple_outputs(model: nn.Module) -> Iterator[set[str]]:
    """Collect, inside the block, the names of linear layers that return anything but one tensor."""
    found: set[str] = set()

    def watch(name: str, output: object) -> None:
        if not isinstance(output, Tensor):
            found.add(name)

    hooks = [
        part.register_forward_hook(lambda _module, _given, output, name=name: watch(name, output))
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield the leaf tensors of the graph of ``loss``, without computing a gradient."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [before for before, _ in node.next_functions]
