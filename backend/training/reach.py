"""What of a model a text reaches: its parameters, and the layers that an adapter can stand beside.

Found by reading a few tokens: a parameter is reached where the loss hangs on it. A vision tower is not, nor is a bias
that only decides which expert is chosen.
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
from backend.inference.decoding import context_length
from backend.training.proof import at_rest, translated, two_rows

TOKENS = 9
"""Tokens that are read to see what is reached."""


@dataclass(frozen=True)
class Reach:
    """``parameters``: those that a text reaches, the numbers in their names as ``*``; None for all there are.

    ``several``: linear layers, named in the same way, that return more than one tensor, as some routers do.
    """

    parameters: frozenset[str] | None
    several: frozenset[str] = frozenset()

    @classmethod
    def everything(cls) -> Reach:
        """Return the reach of a model that is not run: all it has."""
        return cls(None)

    def has_parameter(self, name: str) -> bool:
        """Whether a text reaches this parameter, or the same one of another layer or expert."""
        return self.parameters is None or _numberless(name) in self.parameters

    def has_layer(self, name: str) -> bool:
        """Whether an adapter beside the layer ``name`` would have a part in what is said about a text."""
        return _numberless(name) not in self.several and self.has_parameter(f"{name}.weight")


def text_body(causal: PreTrainedModel) -> nn.Module:
    """Return the part of ``causal`` that turns token ids into last hidden states and reads nothing but text."""
    parts = (causal.get_decoder(), causal.base_model, *causal.children())
    inner: list[nn.Module] = [p for p in parts if isinstance(p, PreTrainedModel) and p is not causal]
    return inner[0] if inner else causal


def reach_of_text(model: PreTrainedModel) -> Reach:
    """Return what a text reaches in ``model``, which is run at rest on a few tokens and left as it was.

    Raises ModelError ``unsupported-architecture`` where it cannot be run on a text.
    """
    length = min(TOKENS, context_length(model))
    first, _ = two_rows(model.get_input_embeddings().weight.shape[0], length)
    ids = torch.from_numpy(first.input_ids)[None].to(model.device)
    with (
        translated(model),
        at_rest(model),
        one_thread(),
        torch.enable_grad(),
        _all_learning(model),
        _tuples(model) as several,
    ):
        states = text_body(model)(input_ids=ids, use_cache=False).last_hidden_state
        used = {id(leaf) for leaf in _leaves(model.get_output_embeddings()(states).sum())}
    every = model.named_parameters(remove_duplicate=False)
    reached = frozenset(_numberless(name) for name, part in every if id(part) in used)
    return Reach(reached, frozenset(map(_numberless, several)))


def fixed_parameters(model: PreTrainedModel) -> set[str]:
    """Return the names of the parameters that the architecture never trains, such as sinusoidal positions.

    Asked of a new model of that kind without weights: loading makes every parameter one that learns.
    """
    with torch.device("meta"):
        fresh = type(model)(copy.deepcopy(model.config))
    return {name for name, part in fresh.named_parameters() if not part.requires_grad}


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


@contextmanager
def _all_learning(model: nn.Module) -> Iterator[None]:
    """Let every parameter that can have a gradient be part of the graph meanwhile."""
    frozen = [part for part in model.parameters() if part.is_floating_point() and not part.requires_grad]
    for part in frozen:
        part.requires_grad = True
    try:
        yield
    finally:
        for part in frozen:
            part.requires_grad = False


@contextmanager
def _tuples(model: nn.Module) -> Iterator[set[str]]:
    """Collect the names of the linear layers that return something else than one tensor meanwhile."""
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
    """The parameters at the ends of the graph of ``loss``; nothing is computed for it."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [before for before, _ in node.next_functions]
