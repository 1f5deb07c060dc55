"""A model folder in; a base model, with or without an adapter, out.

Only safetensors are read and no code of a model's author is ever run. Floor F1; imports errors, utils and the model
folder's rules.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from backend.core.fused_lora import run_experts_in_turn
from backend.core.model_folder import check_model_folder, read_object, refuse_code
from backend.errors import ModelError
from backend.utils.warning_utils import unwarned

# what transformers raises on a config.json that makes no sense
_CONFIG_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError),
    StrictDataclassError,
)


@torch.inference_mode(mode=False)  # experts refuse weights that were made in it
def load_base(
    path: str | Path, *, dtype: torch.dtype = torch.float32, attn_implementation: str | None = None
) -> PreTrainedModel:
    """The causal language model in folder ``path``, all weights from its files, in ``dtype`` and eval mode.

    Raises ModelError: those of ``check_model_folder``, ``damaged-weights``, ``weights-do-not-fit`` (a weight is
    missing, left over or of another shape: never filled with random values), ``model-not-loadable``.
    """
    folder = Path(path)
    check_model_folder(folder)
    with _alone_and_quiet(), _translated(folder):
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    odd = {kind: sorted(map(str, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    for kind, names in odd.items():
        if names:
            raise _misfit(folder, f"{len(names)} {kind} weights, {names[0]} first")
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_skeleton(path: str | Path) -> PreTrainedModel:
    """The causal language model in folder ``path`` without its weights: every tensor has a shape and no numbers.

    Raises ModelError ``model-not-loadable``.
    """
    folder = Path(path)
    with _alone_and_quiet(), _translated(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return skeleton


def load_adapter(model: PreTrainedModel, adapter_folder: str | Path, *, trainable: bool = False) -> PeftModel:
    """``model`` with the adapter in ``adapter_folder`` laid over it; ``model`` itself is changed in place.

    Raises ModelError: ``no-adapter``, ``remote-code``, ``damaged-weights``, ``adapter-does-not-fit``.
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
            wanted = set(get_peft_model_state_dict(tuned))
        with safe_open(weights, "pt") as file:
            stored = set(file.keys())
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise _foreign_adapter(folder, _first_line(error)) from error
    odd = sorted(stored ^ wanted)
    if odd:
        raise _foreign_adapter(folder, f"{len(odd)} weights are in only one of the two, {odd[0]} first")
    run_experts_in_turn(tuned)
    return tuned.train(trainable)


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """The base model with its adapter added into the weights; ``model`` is used up.

    Raises ModelError (``adapter-not-finite``) where the adapter holds NaN or infinity.
    """
    try:
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"This adapter cannot be merged: {_first_line(error)}.",
            code="adapter-not-finite",
            remedy="Go back to an earlier checkpoint, and train with a lower learning rate.",
        ) from error
    return merged


_LOADING = threading.Lock()
"""One model is loaded at a time: transformers makes it under settings of the whole process, so that two threads get
models with weights missing, and its verbosity is one of them."""


@contextmanager
def _alone_and_quiet() -> Iterator[None]:
    """Load nothing else meanwhile, and silence transformers' bars and advice; what matters is raised."""
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
