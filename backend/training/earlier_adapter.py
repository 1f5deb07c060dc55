"""Train an earlier adapter further, as ``tuning.adapter_name_or_path`` asks: with other rows, from its weights on.

The optimizer starts anew. To go on with the same rows and the moments of the optimizer is a branch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from backend.core.model_folder import read_object
from backend.core.model_loader import load_adapter
from backend.errors import ModelError
from backend.inference.model_source import is_base_of, tuned_folder
from backend.run.adapter_settings import base_changed
from backend.run.folder import RunDir
from backend.utils.file_utils import sha256_file
from backend.utils.path_utils import user_path


def earlier_adapter(place: str | None, base: Path) -> Path | None:
    """Return the folder of the adapter at ``place``, a folder with one or that of a finished run; None for no place.

    Raises ModelError ``no-adapter`` where there is none, or none of LoRA; ``adapter-does-not-fit`` for one that a run
    trained over another model than ``base``, or over a base that its start has changed; RunError ``unfinished-run``.
    """
    if place is None:
        return None
    path = user_path(place)
    if (path / "config.yaml").is_file():
        run = RunDir.open(path)
        folder = tuned_folder(run)
        if folder == run.model:
            raise ModelError(
                f"The run {run.id} trained a whole model and no adapter.",
                remedy=f"Name its result as model.model_name_or_path: {run.model}.",
                code="no-adapter",
            )
        if not is_base_of(run, base):
            raise _misfit(place, f"the run {run.id} trained it over another model than {base}")
    else:
        folder = path
    settings = read_object(folder / "adapter_config.json", missing="no-adapter", damaged="no-adapter")
    if settings.get("peft_type") != "LORA":
        raise ModelError(
            f"The adapter in {folder} is of the kind {settings.get('peft_type')}, not LORA.",
            remedy="Give an adapter of LoRA, or train a new one.",
            code="no-adapter",
        )
    if base_changed(settings):
        raise _misfit(
            place, f"its start, {settings['init_lora_weights']}, has changed the base that it belongs to"
        )
    return folder


def adapter_fingerprint(folder: Path) -> str:
    """Return a hash of the settings and the weights of an adapter."""
    files = (folder / "adapter_config.json", folder / "adapter_model.safetensors")
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


def load_earlier(model: PreTrainedModel, folder: Path, *, dropout: float) -> PeftModel:
    """Return ``model`` with the adapter in ``folder``, to be trained with ``dropout``. Raises as ``load_adapter``."""
    adapted = load_adapter(model, folder, trainable=True)
    settings = adapted.peft_config["default"]
    settings.lora_dropout = dropout
    settings.base_model_name_or_path = model.name_or_path
    # as in the file: PEFT has taken the head out of layers that it ties, by which alone it sees that they are
    settings.modules_to_save = read_object(
        folder / "adapter_config.json", missing="no-adapter", damaged="no-adapter"
    ).get("modules_to_save")
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_dropout["default"] = nn.Dropout(dropout) if dropout else nn.Identity()
    return adapted


def _misfit(place: str, why: str) -> ModelError:
    return ModelError(
        f"tuning.adapter_name_or_path {place} cannot be trained further here: {why}.",
        remedy="Give an adapter of the model that model.model_name_or_path names.",
        code="adapter-does-not-fit",
    )
