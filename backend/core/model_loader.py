"""Load base models and adapters from folders. Only safetensors are read; no code of a model's author is ever run."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging as transformers_logging

from backend.core.fused_lora import run_experts_in_turn
from backend.core.lanes import one_thread
from backend.core.model_folder import check_model_folder, read_object, refuse_code
from backend.core.packages import require_bitsandbytes
from backend.core.quantized import Quantization, compute_exactly, round_weights
from backend.errors import ModelError
from backend.utils.warning_utils import unwarned

# what transformers raises on an invalid config.json
_CONFIG_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError),
    StrictDataclassError,
)


@torch.inference_mode(mode=False)  # mixture-of-experts layers reject weights created in inference mode
def load_base(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    quantization: Quantization | None = None,
    device: str = "cpu",
) -> PreTrainedModel:
    """Load the causal language model in folder ``path`` in ``dtype`` and eval mode, onto ``device``.

    With ``quantization`` its linear weights are packed while they are read, so that they never lie in memory whole.
    Raises ModelError: those of ``check_model_folder``, ``damaged-weights``, ``weights-do-not-fit`` (a weight is
    missing, unexpected or of another shape: none is ever initialised randomly), ``model-not-loadable``,
    ``needs-bitsandbytes``.
    """
    folder = Path(path)
    check_model_folder(folder)
    packed: dict[str, Any] = {}
    if quantization is not None:
        require_bitsandbytes(f"A base in {quantization.words}")
        packed = {"quantization_config": quantization.settings(), "device_map": {"": device}}
    with _alone_and_quiet(), _translated(folder):
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **packed,
        )
    odd = {kind: sorted(map(str, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    odd["unexpected"] = _without_buffers(folder, model, odd["unexpected"])
    for kind, names in odd.items():
        if names:
            raise _misfit(folder, f"{len(names)} {kind} weights, {names[0]} first")
    vars(model.config).pop("auto_map", None)  # or every copy saved later would refer to its author's code
    loaded: PreTrainedModel = model.eval()
    if quantization is None:
        return loaded.to(device)
    compute_exactly(loaded, dtype)
    return loaded


def load_dense(path: str | Path, *, dtype: torch.dtype, quantization: Quantization | None) -> PreTrainedModel:
    """Load the base that a run was trained over as a plain model in ``dtype``, in eval mode.

    With ``quantization`` its weights have the values that ``load_base`` packs. Raises what ``load_base`` raises.
    """
    if quantization is None:
        return load_base(path, dtype=dtype)
    require_bitsandbytes(f"A base in {quantization.words}")
    exact = dtype if dtype == quantization.dtype else torch.float32
    model = load_base(path, dtype=exact)
    round_weights(model, quantization)
    return model.to(dtype)


def load_skeleton(path: str | Path) -> PreTrainedModel:
    """Build the causal language model in folder ``path`` on the meta device: shapes without weights.

    Raises ModelError ``model-not-loadable``.
    """
    folder = Path(path)
    # weights without values need none at first; torch would go through filling them in Python
    with _alone_and_quiet(), _translated(folder), torch.device("meta"), no_init_weights():
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return skeleton


def _without_buffers(folder: Path, model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Return ``names`` without old buffers: earlier versions of some families saved their causal masks.

    Such a buffer belongs to a module without weights and is a mask [1, 1, n, n] or a boolean [n, n], or is called
    ``masked_bias``. Any other unexpected name is a real weight.
    """
    weightless = {name for name in names if _is_weightless(model, name.rpartition(".")[0])}
    buffers = set[str]()
    for path in sorted(folder.glob("*.safetensors")) if weightless else []:
        with safe_open(path, "pt") as file:
            for name in weightless.intersection(file.keys()):
                part = file.get_slice(name)
                if _is_mask(part.get_shape(), part.get_dtype()) or name.endswith(".masked_bias"):
                    buffers.add(name)
    return sorted(set(names) - buffers)


def _is_mask(shape: Sequence[int], dtype: str) -> bool:
    square = len(shape) >= 2 and shape[-1] == shape[-2] and math.prod(shape[:-2]) == 1
    return square and (len(shape) == 4 or dtype in {"BOOL", "U8"})


def _is_weightless(model: PreTrainedModel, name: str) -> bool:
    """True if ``name``, with or without the model's base prefix, is a module without weights of its own."""
    modules = dict(model.named_modules())
    module = modules.get(name) or modules.get(f"{model.base_model_prefix}.{name}")
    return module is not None and not any(True for _ in module.parameters(recurse=False))


def load_adapter(model: PreTrainedModel, adapter_folder: str | Path, *, trainable: bool = False) -> PeftModel:
    """Return ``model`` with the adapter in ``adapter_folder`` added, unmerged; ``model`` is changed in place.

    Raises ModelError: ``no-adapter``, ``remote-code``, ``damaged-weights``, ``adapter-does-not-fit``,
    ``tied-target``.
    """
    folder = Path(adapter_folder)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if read_object(config, missing="no-adapter", damaged="no-adapter").get("megatron_config") is not None:
        raise ModelError(f"{config} asks for Megatron.", code="remote-code", remedy="Use another adapter.")
    refuse_code(config)
    if not weights.is_file():
        raise ModelError(
            f"{folder} has no {weights.name}.",
            code="no-adapter",
            remedy="Give the adapter folder of a finished run; pickled adapters (.bin) are not read.",
        )
    try:
        with _alone_and_quiet(), unwarned():
            tuned = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
            wanted = adapter_weights(tuned).keys()
        with safe_open(weights, "pt") as file:
            stored = set(file.keys())
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise _foreign_adapter(folder, _first_line(error)) from error
    odd = sorted(stored ^ wanted)
    if odd:
        raise _foreign_adapter(folder, f"{len(odd)} weights are in only one of the two, {odd[0]} first")
    _refuse_tied_ends(tuned, folder)
    run_experts_in_turn(tuned)
    return tuned.train(trainable)


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return the tensors of an adapter by the names in its file, without any of the base.

    Use this to save, restore or compare adapters: by default PEFT adds the base's embeddings if the adapter touches
    them.
    """
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tensors


def _refuse_tied_ends(model: PeftModel, folder: Path) -> None:
    """Raise ModelError ``tied-target`` if the adapter changes one of embeddings and head, and they share weights.

    It was trained to change that one alone; merged into the shared weights it would change both.
    """
    base = model.get_base_model()
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if None in ends:
        return
    before = {id(_original(part).weight) for part in ends}
    now = {id(part.weight) for part in ends if not isinstance(part, TrainableTokensWrapper)}
    apart = len(now) == 2 or any(isinstance(part, BaseTunerLayer) for part in ends)
    if len(before) == 1 and apart:
        raise ModelError(
            f"The adapter in {folder} changes the head or the embeddings alone, which share their weights here.",
            code="tied-target",
            remedy="Train again without lm_head and embed_tokens in tuning.lora_target_modules; in "
            "tuning.modules_to_save both are trained as one.",
        )


def _original(end: Any) -> Any:
    """Return an end of the base as it was before an adapter."""
    return end.original_module if isinstance(end, AuxiliaryTrainingWrapper) else end


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Merge the adapter into the base's weights and return the base; ``model`` must not be used again.

    If training parted head and embeddings that shared their weights, the configuration says so afterwards.
    Raises ModelError ``adapter-not-finite`` if the adapter has NaN or infinity.
    """
    try:
        with unwarned((UserWarning, "Input and output embeddings are no longer tied"), _MERGED_BEFORE):
            with one_thread():  # memory decides the time; two threads on a busy core wait for each other
                _merge_plain_layers(model)
            merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"This adapter cannot be merged: {_first_line(error)}.",
            code="adapter-not-finite",
            remedy="Go back to an earlier checkpoint, and train with a lower learning rate.",
        ) from error
    return merged


_MERGED_BEFORE = (UserWarning, "All adapters are already merged")


@torch.no_grad()
def _merge_plain_layers(model: PeftModel) -> None:
    """Merge the linear layers that are LoRA and no more, to the bits that PEFT gives them; it merges the others.

    PEFT would copy each weight first and look at each value of the sum by itself, which takes most of the time.
    Raises ValueError for NaN or infinity, as PEFT does.
    """
    for layer in model.modules():
        if type(layer) is not LoraLinear or layer.merged or len(layer.active_adapters) != 1:
            continue
        (name,) = layer.active_adapters
        weight = layer.get_base_layer().weight
        is_plain = name in layer.lora_A and name not in layer.lora_variant and not layer.lora_bias[name]
        if not is_plain or not weight.is_floating_point():
            continue
        merged = weight.data + layer.get_delta_weight(name).to(weight.dtype)
        # a finite sum has finite parts only; a sum of large ones may overflow all the same
        if not math.isfinite(float(merged.sum())) and not bool(torch.isfinite(merged).all()):
            raise ValueError("NaNs detected in the merged weights")
        weight.data = merged
        layer.merged_adapters.append(name)


_LOADING = threading.Lock()
"""Held while a model is loaded: transformers builds it under process-wide settings, so two threads at once get models
with weights missing."""


@contextmanager
def _alone_and_quiet() -> Iterator[None]:
    """Load nothing else inside the block, and silence transformers' progress bars and warnings; errors are raised."""
    with _LOADING:
        level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            if bars:
                transformers_logging.enable_progress_bar()


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except SafetensorError as error:
        raise ModelError(
            f"The weights in {folder} are damaged: {_first_line(error)}.",
            code="damaged-weights",
            remedy="Download or convert the model again.",
        ) from error
    except RuntimeError as error:
        raise _misfit(folder, _first_line(error)) from error
    except _CONFIG_ERRORS as error:
        raise ModelError(
            f"The model in {folder} cannot be loaded: {_first_line(error)}.",
            code="model-not-loadable",
            remedy="Check its config.json, and whether it needs a package that is not installed.",
        ) from error


def _misfit(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"The weights in {folder} do not fit its config.json: {what}.",
        code="weights-do-not-fit",
        remedy="Use the config.json that came with these weights, or download the model again.",
    )


def _foreign_adapter(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"The adapter in {folder} does not fit this model: {what}.",
        code="adapter-does-not-fit",
        remedy="Load it over the base model that its adapter_config.json names.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[:2]).rstrip(". ")
