"""Parse a configuration, make it mean the same from any folder, and read that of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend.errors import ConfigError, ModelError
from backend.run.config import LONGEST_TEMPLATE, RunConfig, config_schema
from backend.run.config_problems import problems_of
from backend.run.conflicts import conflicts
from backend.run.files import RunFiles
from backend.run.model_names import MODEL_ALIASES
from backend.run.records import read_config_text
from backend.utils.config_utils import (
    apply_overrides,
    environment_overrides,
    parse_flags,
    parse_yaml,
    read_yaml,
)
from backend.utils.path_utils import absolute_source, user_path

TEMPLATE_NAMES = ("chatml", "alpaca", "vicuna", "plain", "thinking", "no-thinking")
"""Chat templates that have a name; ``core.named_templates`` knows what each of them is."""


def parse_config(raw: Mapping[str, Any]) -> RunConfig:
    """Turn nested plain values into a RunConfig.

    Raises ConfigError with every problem at once, each with its dotted field and a remedy.
    """
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(problems_of(error, config_schema())) from error
    if problems := conflicts(config):
        raise ConfigError(problems)
    return config


def run_config(run: RunFiles) -> RunConfig:
    """Return the configuration a run was made with.

    Raises RunError where its file is missing or cut short, ConfigError for what this version cannot use.
    """
    return _parsed(read_config_text(run.config), str(run.config))


@lru_cache(maxsize=256)
def _parsed(text: str, where: str) -> RunConfig:
    """Parse a configuration once: a server is asked for the same runs at every request."""
    return parse_config(parse_yaml(text, where=where))


def resolve_config(settings: Sequence[str], accept: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a command line: file, then environment, then flags; ``accept`` joins data.accept.

    Paths are made absolute, and the content of a chat template's file stands in place of its path, so that the run
    folder holds all it needs. Raises ConfigError with every problem at once, and those of ``template_text``.
    """
    files = [settings[0]] if settings and not settings[0].startswith("--") else []
    raw: dict[str, Any] = read_yaml(Path(files[0])) if files else {}
    overrides = environment_overrides(os.environ) | parse_flags(settings[len(files) :])
    raw = apply_overrides(raw, overrides)
    return with_absolute_paths(parse_config(raw).accepting(accept))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return ``config`` as a run keeps it: absolute paths, and the text of a chat template in place of its file.

    Paths are those of data and its teacher, reviewed paraphrases, reward functions and, where it is no name, of the
    model. A file that
    is edited later, or looked for from another folder, then changes nothing. Raises ModelError as ``template_text``.
    """
    data: dict[str, object] = {"train": absolute_source(config.data.train)}
    if isinstance(config.data.validation, str):
        data["validation"] = absolute_source(config.data.validation)
    if config.data.mix:
        data["mix"] = absolute_source(config.data.mix)
    if config.data.teacher_logprobs:
        data["teacher_logprobs"] = absolute_source(config.data.teacher_logprobs)
    review = config.augmentation.paraphrases
    model: dict[str, object] = {}
    name, template = config.model.model_name_or_path, config.model.chat_template
    if name not in MODEL_ALIASES and user_path(name).exists():
        model["model_name_or_path"] = str(user_path(name).absolute())
    tuning: dict[str, object] = {}
    adapter = config.tuning.adapter_name_or_path
    if adapter is not None and user_path(adapter).exists():
        tuning["adapter_name_or_path"] = str(user_path(adapter).absolute())
    if template is not None:
        model["chat_template"] = template_text(template)
    files = [name.rpartition(":") for name in config.objective.reward_funcs]
    functions = [f"{user_path(file).absolute()}:{function}" for file, _, function in files]
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "augmentation": config.augmentation.model_copy(
                update={"paraphrases": absolute_source(review) if review else ""}
            ),
            "model": config.model.model_copy(update=model),
            "objective": config.objective.model_copy(update={"reward_funcs": functions}),
            "tuning": config.tuning.model_copy(update=tuning),
        }
    )


def template_text(setting: str) -> str:
    """Return what ``model.chat_template`` means: a name or Jinja as it is, of a file its content.

    Raises ModelError: ``unknown-template`` where it is none of these, ``bad-template`` for a file that holds no
    Jinja or is too long to be kept in a configuration.
    """
    if setting in TEMPLATE_NAMES or _is_jinja(setting):
        return setting
    try:
        text = user_path(setting).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(
            f"model.chat_template {setting!r} is neither a known name nor a readable file ({reason}).",
            remedy=f"Use one of {', '.join(TEMPLATE_NAMES)}, or the path of a Jinja file.",
            code="unknown-template",
        ) from error
    if not _is_jinja(text):
        raise ModelError(
            f"{setting} holds no Jinja template.", remedy="It must print the messages.", code="bad-template"
        )
    if len(text) > LONGEST_TEMPLATE:
        raise ModelError(
            f"{setting} has {len(text):,} characters; a chat template may have {LONGEST_TEMPLATE:,}.",
            remedy="Shorten it.",
            code="bad-template",
        )
    return text


def _is_jinja(text: str) -> bool:
    return "{{" in text or "{%" in text
