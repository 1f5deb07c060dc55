"""A name, a folder or a GGUF file in; a base model, with or without an adapter, out.

Only safetensors are read and no code of a model's author is ever run. Floor F1; imports errors and gguf_import.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from backend.errors import ModelError


def load_base(
    path: str | Path, *, dtype: torch.dtype = torch.float32, attn_implementation: str | None = None
) -> PreTrainedModel:
    """The causal language model in folder ``path``, in ``dtype`` and eval mode."""
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be loaded: {error}.", code="model-not-readable", remedy="Check the folder."
        ) from error
    return model.eval()


def resolve_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    local_only: bool = False,
    cache_dir: Path | None = None,
) -> Path | str:
    """The folder that ``name_or_path`` stands for, or the Hub id itself."""
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    raise ModelError(f"{name_or_path} is not a folder.", code="model-not-found", remedy="Check the path.")
