"""``tunesmith config``: the settings, as a schema for machines and as a commented file for people."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from backend.commands.output import print_json, say
from backend.errors import ConfigError, Problem
from backend.run.config import commented_yaml, config_schema
from backend.utils.file_utils import write_text_durably

config = App(name="config")


@config.command
def schema() -> int:
    """Print the JSON schema of a configuration file.

    Example
    -------
    tunesmith config schema > schema.json
    """
    print_json(config_schema())
    return 0


@config.command
def init(
    path: Annotated[Path | None, Parameter(help="File to write; printed if left out.")] = None, /
) -> int:
    """Write a configuration file with every setting, its default and its help.

    Example
    -------
    tunesmith config init run.yaml
    """
    if path is None:
        say(commented_yaml().rstrip())
        return 0
    try:
        if path.exists():
            problem = Problem(str(path), "exists already.", "Choose another name.")
            raise ConfigError([problem], code="file-exists")
        write_text_durably(path, commented_yaml())
    except OSError as error:
        problem = Problem(str(path), f"cannot be written: {error.strerror}.", "Choose another place.")
        raise ConfigError([problem], code="cannot-write") from error
    say(f"Wrote {path}. Set data.train in it, then: tunesmith train {shlex.quote(str(path))}")
    return 0
