"""Gradient checkpointing: a layer keeps its input alone, and the backward pass computes the rest again.

Memory for activations then grows with the number of layers times the width, not with all that a layer computes
inside (Chen et al., 2016, arXiv:1604.06174). The second computation is the first one again, so the gradient is equal
to the last bit.
"""

from __future__ import annotations

from functools import partial

from peft import PeftModel
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from backend.errors import ModelError


def recompute_layers(model: PreTrainedModel | PeftModel) -> None:
    """Have every layer of ``model`` computed again in the backward pass of training.

    The layers' own switch is set, not the model's method, whose name changes between versions of transformers. It
    acts in training mode only. ``use_reentrant=False`` is the form that runs on several threads at once and under
    ``torch.autograd.grad``; random numbers are drawn again as they were. A layer is computed to its end, since some
    have to put away what they prepared (peft, for experts).
    Raises ModelError ``no-layers-to-recompute`` if the architecture has no layers with that switch.
    """
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no layers that can be computed again.",
            remedy="Set training.gradient_checkpointing to false, and lower training.micro_batch_tokens instead.",
            code="no-layers-to-recompute",
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, early_stop=False)
