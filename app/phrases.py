"""What the studio says to do next: the button for each step, and settings by their names.

The modules below name steps, codes and settings; ``backend.commands.phrases`` is the same for the terminal.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from backend.errors import MARKED_SETTING, NextStep, unmarked
from backend.manager.explain import Explanation
from backend.run.files import RunFiles

PHRASES: Mapping[NextStep, str] = MappingProxyType(
    {
        NextStep.START: "Press Start when you are ready.",
        NextStep.START_NOW: "Press Start to begin at once, ahead of its turn.",
        NextStep.RESUME: "Press Resume to go on from the newest good checkpoint.",
        NextStep.COMPUTE_LESS: "Branch off from a command line: "
        "tunesmith runs resume {about} --training.micro_batch_tokens N",
        NextStep.EXPLAIN: "Its log shows what happened, and what to go on from.",
        NextStep.LIST_RUNS: "The page Runs has them all.",
        NextStep.MAKE_SLOTS: "The page Queue says how many may train at once.",
        NextStep.EXPORT_BUNDLE: "From a command line: tunesmith runs export-bundle RUN",
        NextStep.STOP_SERVER: "The Playground has a button for the server.",
        NextStep.SERVE: "Try it by hand from a command line: tunesmith serve --port 0",
        NextStep.CHECK_INSTALLATION: "Check the installation from a command line: tunesmith doctor",
        NextStep.WATCH: "Its page shows how far it is.",
        NextStep.STOP: "Press Stop to let it save and stop.",
        NextStep.END: "To go on from its newest checkpoint, press Stop, and Resume once it has ended.",
    }
)


def without_marks(text: str) -> str:
    """Return a remedy with each setting by its bare name, and the value that it should have."""
    return MARKED_SETTING.sub(lambda found: " = ".join(filter(None, unmarked(found))), text)


def command(run: RunFiles, explanation: Explanation) -> str:
    """Return the command for advice that the studio has no button for; empty without such advice."""
    if explanation.branch:
        words = ["tunesmith", "runs", "resume", str(run.path), *_flags(explanation.branch)]
    elif explanation.again:
        words = ["tunesmith", "train", str(run.config), *_flags(explanation.again)]
    else:
        words = []
    return shlex.join(words)


def _flags(settings: Mapping[str, str]) -> list[str]:
    """Return settings as the words of a command line."""
    named = {name if "." in name else name.replace("_", "-"): value for name, value in settings.items()}
    return [word for name, value in named.items() for word in (f"--{name}", value)]


def what_to_do(remedy: str, next_step: NextStep | None, about: str) -> str:
    """Return a remedy, and the button or place for what comes next. ``about`` is the run, or the like."""
    step = PHRASES[next_step].format(about=about) if next_step else ""
    return f"{without_marks(remedy)} {step}".strip()
