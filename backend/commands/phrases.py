"""What the terminal says to do next: the command for each step, and settings as flags.

The modules below name steps, codes and settings; ``app.phrases`` is the same for the studio.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from backend.errors import (
    MARKED_SETTING,
    ConfigError,
    NextStep,
    TunesmithError,
    UnsoundDataError,
    unmarked,
)

PHRASES: Mapping[NextStep, str] = MappingProxyType(
    {
        NextStep.START: "Start it with: tunesmith runs resume {about}",
        NextStep.START_NOW: "Start it now with: tunesmith runs resume {about}",
        NextStep.RESUME: "Resume it with: tunesmith runs resume {about}",
        NextStep.COMPUTE_LESS: "Branch off with: tunesmith runs resume {about} --training.micro_batch_tokens N",
        NextStep.EXPLAIN: "See what to go on from with: tunesmith runs explain {about}",
        NextStep.WATCH: "Watch it with: tunesmith runs watch {about}",
        NextStep.STOP: "Let it save and stop with: tunesmith runs stop {about}",
        NextStep.END: "To go on from its newest checkpoint, end it with: tunesmith runs stop {about} --now",
        NextStep.LIST_RUNS: "See them all with: tunesmith runs list",
        NextStep.MAKE_SLOTS: "Make slots with: tunesmith runs queue slots 1 --device {about}",
        NextStep.EXPORT_BUNDLE: "Write a bundle with: tunesmith runs export-bundle RUN",
        NextStep.STOP_SERVER: "The studio's server has a button in its Playground.",
        NextStep.SERVE: "Try it by hand with: tunesmith serve --port 0",
        NextStep.CHECK_INSTALLATION: "Check the installation with: tunesmith doctor",
    }
)


def with_flags(text: str) -> str:
    """Return a remedy with each marked setting as its flag: ``base_model`` is ``--base-model``."""

    def flag(found: re.Match[str]) -> str:
        name, value = unmarked(found)
        return " ".join([_flag(name), *([] if value is None else [shlex.quote(value)])])

    return MARKED_SETTING.sub(flag, text)


def _flag(name: str) -> str:
    return f"--{name if '.' in name else name.replace('_', '-')}"


def flags(settings: Mapping[str, str]) -> list[str]:
    """Return settings as the words of a command line."""
    return [word for name, value in settings.items() for word in (_flag(name), value)]


def what_to_do(remedy: str, next_step: NextStep | None, about: str) -> str:
    """Return a remedy with its flags, and the command for what comes next. ``about`` is the run, or the like."""
    step = PHRASES[next_step].format(about=about) if next_step else ""
    return f"{with_flags(remedy)} {step}".strip()


def error_text(error: TunesmithError) -> str:
    """Return an error as the terminal says it: every problem, each with its remedy."""
    if isinstance(error, ConfigError):
        return "\n".join(str(replace(each, remedy=with_flags(each.remedy))) for each in error.problems)
    if isinstance(error, UnsoundDataError):
        return with_flags(str(error))
    return f"{error.message} {what_to_do(error.remedy, error.next_step, shlex.quote(error.about))}".strip()
