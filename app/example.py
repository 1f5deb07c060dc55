"""The example run that one click starts, on the food rows that come with Tunesmith."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from backend.run.config import RunConfig
from backend.run.settings import parse_config, with_absolute_paths
from backend.utils.config_utils import apply_overrides, environment_overrides, read_yaml
from backend.utils.file_utils import sha256_file

_FILE = Path("examples") / "food-category.yaml"


def example_config() -> RunConfig:
    """Return the example's configuration with overrides of the environment, as ``tunesmith train`` reads it.

    It is pinned to the present content of its data files.
    """
    base = _base()
    raw: dict[str, Any] = apply_overrides(read_yaml(base / _FILE), environment_overrides(os.environ))
    for name in ("train", "validation"):
        if isinstance(raw["data"].get(name), str):
            raw["data"][name] = str(base / raw["data"][name])
    config = with_absolute_paths(parse_config(raw))
    files = [
        Path(source) for source in (config.data.train, config.data.validation) if isinstance(source, str)
    ]
    return config.pinned({str(file): sha256_file(file) for file in files if file.is_file()})


def _base() -> Path:
    """Return the folder of ``examples``: inside this package if it is installed, beside it in a checkout."""
    here = Path(__file__).parent
    return here if (here / _FILE).is_file() else here.parent
