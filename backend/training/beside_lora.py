"""What is trained beside LoRA matrices: whole layers, such as embeddings and head, and the rows of single tokens.

Where embeddings and head share one matrix they go on sharing it: merged into one matrix, two copies that were trained
apart would lose one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.errors import ModelError
from backend.run.config import TuningConfig
from backend.run.methods import is_target
from backend.training.reach import Reach
from backend.utils.config_utils import closest


def whole_layers(model: PreTrainedModel, names: Sequence[str], reach: Reach) -> list[str]:
    """Return the full names of the layers that ``names`` (``modules_to_save``) mean.

    Raises ModelError ``no-such-module`` for a name that fits no layer with weights of its own that text reaches.
    """
    layers = [name for name, part in model.named_modules() if _is_layer(name, part, reach)]
    for name in names:
        if not any(is_target(layer, [name]) for layer in layers):
            known = sorted({layer.rpartition(".")[2] for layer in layers})
            near = closest(name.rpartition(".")[2], known)
            meant = f"; did you mean {near}?" if near else ""
            raise ModelError(
                f"tuning.modules_to_save names {name!r}, which is no single layer of this model{meant}.",
                remedy=f"Use some of {', '.join(known)}.",
                code="no-such-module",
            )
    return [layer for layer in layers if is_target(layer, names)]


def _is_layer(name: str, part: nn.Module, reach: Reach) -> bool:
    own = [f"{name}.{weight}" for weight, _ in part.named_parameters(recurse=False)]
    return any(reach.has_parameter(weight) for weight in own) and not any(True for _ in part.children())


def token_rows(
    model: PreTrainedModel, tokens: Sequence[int], *, tied: bool
) -> list[int] | dict[str, list[int]] | None:
    """Return ``trainable_token_indices`` as PEFT takes them: for embeddings and head, which may be one matrix.

    Raises ModelError ``unusable-tokens`` for an id beyond the embeddings, or a head with a bias: PEFT leaves it out.
    """
    if not tokens:
        return None
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    rows = first.weight.shape[0]
    if beyond := [token for token in tokens if not 0 <= token < rows]:
        raise ModelError(
            f"tuning.trainable_token_indices names the token {beyond[0]}; this model has {rows:,}, counted from 0.",
            remedy="Name a token that the model has.",
            code="unusable-tokens",
        )
    if getattr(last, "bias", None) is not None:
        raise ModelError(
            "tuning.trainable_token_indices cannot be used with this model: its head has a bias.",
            remedy="Train the embeddings whole, as tuning.modules_to_save.",
            code="unusable-tokens",
        )
    once = list(dict.fromkeys(tokens))
    ends = [first] if tied else [first, last]
    return {name: once for name, part in model.named_modules() if any(part is end for end in ends)}


def with_token_ids(tuning: TuningConfig, tokenizer: PreTrainedTokenizerBase | None) -> TuningConfig:
    """Return ``tuning`` with ids in the place of token texts. Raises ModelError ``unusable-tokens``."""
    ids = [_token_id(token, tokenizer) for token in tuning.trainable_token_indices]
    return tuning.model_copy(update={"trainable_token_indices": ids})


def _token_id(token: int | str, tokenizer: PreTrainedTokenizerBase | None) -> int:
    if isinstance(token, int):
        return token
    if tokenizer is None:
        raise ValueError(f"the token {token!r} needs a tokenizer")
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = (
        [vocabulary[token]] if token in vocabulary else tokenizer.encode(token, add_special_tokens=False)
    )
    if len(ids) == 1 and (ids[0] != tokenizer.unk_token_id or token == tokenizer.unk_token):
        return ids[0]
    near = closest(token, tokenizer.get_added_vocab())
    meant = f" Did you mean {near}?" if near else ""
    raise ModelError(
        f"tuning.trainable_token_indices: {token!r} is no single token of this model.{meant}",
        remedy="Name tokens that the tokenizer has, by text or id; new ones must be added to the model first.",
        code="unusable-tokens",
    )


def require_shared(adapted: PeftModel) -> None:
    """Raise ModelError ``tied-target`` if embeddings and head, one matrix before, are trained apart now."""
    base = adapted.get_base_model()
    first, last = base.get_input_embeddings(), base.get_output_embeddings()
    wrapped = [
        part for part in (first, last) if isinstance(part, ModulesToSaveWrapper | TrainableTokensWrapper)
    ]
    if wrapped and not (_share_rows(first, last) or first.weight is last.weight):
        raise ModelError(
            "Embeddings and head of this model share one matrix, and PEFT would train two copies of it apart.",
            remedy="Leave them out of tuning.modules_to_save and tuning.trainable_token_indices.",
            code="tied-target",
        )


def _share_rows(first: Any, last: Any) -> bool:
    both = isinstance(first, TrainableTokensWrapper) and isinstance(last, TrainableTokensWrapper)
    return both and last.token_adapter.tied_adapter is first.token_adapter


def keep_precision(model: nn.Module) -> None:
    """Let whole layers, which are trained in fp32, take and return numbers in the precision of the base."""
    for part in model.modules():
        if isinstance(part, ModulesToSaveWrapper):
            dtype = next(part.original_module.parameters()).dtype
            for layer in part.modules_to_save.values() if dtype != torch.float32 else ():
                layer.register_forward_pre_hook(_to_fp32)
                layer.register_forward_hook(lambda _layer, _given, output, dtype=dtype: output.to(dtype))


def _to_fp32(_layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in given)


def head_product(head: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return weight [V, h] and bias of a head whose logits are one product; None for one that computes more.

    A head that is trained whole, or in some rows, is still one product; one with an adapter is not.
    """
    if isinstance(head, TrainableTokensWrapper) and type(head.original_module) is nn.Linear:
        return head.weight, head.original_module.bias
    if isinstance(head, ModulesToSaveWrapper):
        in_use = bool(head.active_adapters) and not head.disable_adapters
        head = head.modules_to_save[head.active_adapters[0]] if in_use else head.original_module
    # exactly nn.Linear: a subclass computes its own logits
    return (head.weight, head.bias) if type(head) is nn.Linear else None
