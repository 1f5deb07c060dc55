"""Draw the settings of a run as widgets from the schema of RunConfig: type, bounds, choices, help and default.

Settings are named here only for their order and label. Only what the person typed is kept, as a draft that survives a
change of page and a reload of the browser.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.drafts import draft, keep_draft
from app.phrases import without_marks
from app.views.text import plain
from backend.errors import Problem
from backend.run.config import config_schema
from backend.utils.config_utils import dotted_names, field_schema, parse_value

Kind = Literal["choice", "choices", "switch", "whole", "number", "text", "lines", "pairs", "mixed"]

BASIC: Mapping[str, str] = {
    "objective.method": "Training method",
    "model.model_name_or_path": "Model",
    "data.train": "Training data",
    "data.validation": "Held-out data",
    "tuning.method": "Tuning method",
    "tuning.lora_r": "LoRA rank",
    "training.num_train_epochs": "Epochs",
    "training.per_device_train_batch_size": "Batch size",
    "training.learning_rate": "Learning rate",
    "data.max_length": "Longest row",
    "name": "Name",
}
"""The settings of the basic form with their labels, in the order drawn; the expert form has all. The help of each
shows its name in files and commands."""
_SPELLED = {
    "Bnb 4bit quant type": "4-bit quantization type",
    "Cpo alpha": "CPO alpha",
    "Desirable weight": "Weight of good answers",
    "Kd alpha": "Weight of the teacher",
    "Kd ce alpha": "Weight of the answers beside a teacher",
    "Init lora weights": "Initial LoRA weights",
    "Load in 4bit": "4-bit base (QLoRA)",
    "Load in 8bit": "8-bit base",
    "Loraplus lr ratio": "LoRA+ learning rate ratio",
    "Lora": "LoRA",
    "Lr scheduler type": "Learning rate schedule",
    "Neftune": "NEFTune",
    "Nnodes": "Machines",
    "Use bnb nested quant": "Nested quantization",
    "Use dora": "DoRA",
    "Use rslora": "rsLoRA",
    "Optim": "Optimizer",
    "Nproc per node": "Processes per machine",
    "Sha256": "SHA-256",
    "Simpo": "SimPO",
    "Tensorboard": "TensorBoard",
    "Undesirable weight": "Weight of bad answers",
}
FIXED = frozenset({"version"})
"""Settings with one possible value."""
_TYPED, _TURN = "new-run", "settings_turn"


@dataclass(frozen=True)
class Setting:
    """One setting as a form needs it. ``low`` and ``high`` are bounds where the schema has them.

    ``part_types``: the types in the schema of the parts of a list, or of pairs.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    optional: bool = False
    part_types: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """The label on the page: in plain words, or the last part of the setting's name."""
        if self.name in BASIC:
            return BASIC[self.name]
        words = self.name.rpartition(".")[2].replace("_", " ").capitalize()
        for short, spelled in _SPELLED.items():
            words = words.replace(short, spelled)
        return words


@cache
def settings() -> Mapping[str, Setting]:
    """Return every setting of RunConfig by its dotted name, in the schema's order."""
    schema = config_schema()
    names = [name for name in dotted_names(schema) if name not in FIXED]
    return {name: _setting(name, field_schema(name, schema)) for name in names}


def _setting(name: str, field: Mapping[str, Any]) -> Setting:
    branches: list[Mapping[str, Any]] = [
        branch for branch in field.get("anyOf", [field]) if branch.get("type") != "null"
    ]
    types = {str(branch.get("type")) for branch in branches}
    low = [branch[key] for branch in branches for key in ("minimum", "exclusiveMinimum") if key in branch]
    high = [branch[key] for branch in branches for key in ("maximum", "exclusiveMaximum") if key in branch]
    parts = [part for branch in branches for part in _parts(branch)]
    choices = next((each["enum"] for each in [branches[0], *parts] if "enum" in each), ())
    kind = _KINDS.get(frozenset(types), "mixed")
    return Setting(
        name=name,
        kind=_OF_CHOICES.get(kind, kind) if choices else kind,
        default=field.get("default"),
        help=f"{field.get('description', '')} `{name}`",
        choices=tuple(choices),
        low=low[0] if low else None,
        high=high[0] if high else None,
        optional=len(branches) < len(field.get("anyOf", [field])),
        part_types=frozenset(str(part.get("type")) for part in parts),
    )


def _parts(branch: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return what a part of a list or of pairs may be."""
    part = branch.get("items", branch.get("additionalProperties"))
    found: Sequence[Mapping[str, Any]] = part.get("anyOf", [part]) if isinstance(part, dict) else []
    return found


_OF_CHOICES: Mapping[Kind, Kind] = {"text": "choice", "lines": "choices"}
_KINDS: Mapping[frozenset[str], Kind] = {
    frozenset({"boolean"}): "switch",
    frozenset({"integer"}): "whole",
    frozenset({"number"}): "number",
    frozenset({"string"}): "text",
    frozenset({"array"}): "lines",
    frozenset({"object"}): "pairs",
}


# --- what the person typed --------------------------------------------------------------------------------


def typed() -> dict[str, Any]:
    """Return the settings that the person changed, dotted name → value; all others have their default."""
    return draft(_TYPED)


def change(values: Mapping[str, Any], *, forget: bool = False) -> None:
    """Put values into the form as if typed; ``forget`` clears all other values first."""
    kept = {} if forget else dict(typed())
    known = settings()
    kept |= values
    keep_draft(
        _TYPED,
        {name: value for name, value in kept.items() if name in known and value != known[name].default},
    )
    st.session_state[_TURN] = (
        st.session_state.get(_TURN, 0) + 1
    )  # with new keys widgets start from these values


def draw(names: Sequence[str]) -> dict[str, DeltaGenerator]:
    """Draw the widgets of these settings and keep what is typed; return a place below each for its errors."""
    places = {}
    for name in names:
        setting = settings()[name]
        _remember(setting, _WIDGETS[setting.kind](setting, typed().get(name, setting.default), key_of(name)))
        places[name] = st.empty()
    keep_draft(_TYPED)
    return places


def mark(problems: Sequence[Problem], places: Mapping[str, DeltaGenerator]) -> list[Problem]:
    """Draw each problem below its widget; return the problems of settings that are not drawn."""
    for problem in problems:
        if problem.field in places:
            text = plain(f"{problem.message} {without_marks(problem.remedy)}", 400)
            places[problem.field].error(text, icon=":material/error:")
    return [problem for problem in problems if problem.field not in places]


def key_of(name: str) -> str:
    """Return the widget key of a setting."""
    return f"setting {name} {st.session_state.get(_TURN, 0)}"


def _remember(setting: Setting, value: Any) -> None:
    if value == setting.default:
        typed().pop(setting.name, None)
    else:
        typed()[setting.name] = value


# --- one widget a kind: the setting, its value now and its key in; the value out -----------------------------


def _choice(setting: Setting, value: Any, key: str) -> Any:
    place = setting.choices.index(value) if value in setting.choices else 0
    return st.selectbox(setting.label, setting.choices, place, help=setting.help, key=key)


def _choices(setting: Setting, value: Any, key: str) -> Any:
    known = [one for one in value or () if one in setting.choices]
    return st.multiselect(setting.label, setting.choices, known, help=setting.help, key=key)


def _switch(setting: Setting, value: Any, key: str) -> Any:
    if setting.optional:
        known: Sequence[Any] = tuple(_SWITCHED)
        return st.selectbox(
            setting.label,
            known,
            known.index(value),
            format_func=_SWITCHED.__getitem__,
            help=setting.help,
            key=key,
        )
    return st.toggle(setting.label, bool(value), help=setting.help, key=key)


def _whole(setting: Setting, value: Any, key: str) -> Any:
    low, high = (None if bound is None else int(bound) for bound in (setting.low, setting.high))
    return st.number_input(
        setting.label, low, high, value if value is None else int(value), step=1, help=setting.help, key=key
    )


def _number(setting: Setting, value: Any, key: str) -> Any:
    """Draw a number as a text field: a number field needs a step, and 2e-5 has no sensible one."""
    shown = "" if value is None else value if isinstance(value, str) else _spelled(value)
    text = st.text_input(
        setting.label,
        shown,
        help=setting.help,
        key=key,
        placeholder="chosen for you" if setting.optional else "",
    ).strip()
    if not text:
        return None if setting.optional else text
    try:
        return float(text)
    except ValueError:
        return text


def _spelled(value: float) -> str:
    """Return the shortest spelling that reads back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _text(setting: Setting, value: Any, key: str) -> Any:
    text = st.text_input(setting.label, value or "", help=setting.help, key=key)
    return text or (None if setting.optional or setting.default is None else "")


def _lines(setting: Setting, value: Any, key: str) -> Any:
    shown = "\n".join(json.dumps(one) if isinstance(one, dict) else str(one) for one in value or ())
    text = st.text_area(setting.label, shown, help=f"One a line. {setting.help}", key=key)
    return [_part(setting, line.strip()) for line in text.splitlines() if line.strip()]


def _pairs(setting: Setting, value: Any, key: str) -> Any:
    shown = "\n".join(f"{part}: {one}" for part, one in (value or {}).items())
    text = st.text_area(setting.label, shown, help=f"One a line. {setting.help}", key=key)
    lines = (line for line in text.splitlines() if line.strip())
    pairs = (line.partition(": " if ": " in line else ":") for line in lines)  # a name may hold a colon
    return {part.strip(): _part(setting, one.strip()) for part, _, one in pairs}


def _part(setting: Setting, text: str) -> Any:
    """Return one part of a list or of pairs: a number or a mapping where the setting takes such and it is one."""
    if "object" in setting.part_types:
        return parse_value(text)
    if "integer" in setting.part_types and text.isdecimal():
        return int(text)
    try:
        return float(text) if "number" in setting.part_types else text
    except ValueError:
        return text


def _mixed(setting: Setting, value: Any, key: str) -> Any:
    """Draw a text field for text or a number, or for text or a list separated by commas."""
    shown = ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    text = st.text_input(setting.label, shown, help=setting.help, key=key).strip()
    if _takes(setting.name, "array") and "," in text:
        return [part.strip() for part in text.split(",") if part.strip()]
    if _takes(setting.name, "number"):
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _takes(name: str, kind: str) -> bool:
    return any(branch.get("type") == kind for branch in field_schema(name, config_schema()).get("anyOf", ()))


_SWITCHED: Mapping[Any, str] = {None: "chosen for you", True: "on", False: "off"}
_WIDGETS: Mapping[Kind, Callable[[Setting, Any, str], Any]] = {
    "choice": _choice,
    "choices": _choices,
    "switch": _switch,
    "whole": _whole,
    "number": _number,
    "text": _text,
    "lines": _lines,
    "pairs": _pairs,
    "mixed": _mixed,
}


# --- what else a form shows ---------------------------------------------------------------------------------

PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Quick try": (
        "30 steps, to see that everything works.",
        {"training.max_steps": 30, "evaluation.eval_steps": 0.0, "evaluation.sample_rows": 2},
    ),
    "Careful": (
        "Three passes, evaluated and saved often, the best checkpoint kept.",
        {"training.num_train_epochs": 3.0, "evaluation.eval_steps": 0.1, "training.save_steps": 0.05},
    ),
    "Long": (
        "Ten passes with a cosine schedule and more capacity, for larger data.",
        {
            "training.num_train_epochs": 10.0,
            "training.lr_scheduler_type": "cosine",
            "tuning.lora_r": 64,
            "tuning.lora_alpha": 128,
        },
    ),
}
"""Name → purpose, and the settings that the preset changes."""


def command_words(values: Mapping[str, Any]) -> list[str]:
    """Return these settings as flags of a command line."""
    return [f"--{name}={_flag(value)}" for name, value in values.items()]


def command_line(values: Mapping[str, Any]) -> str:
    """Return the command that trains with these settings, quoted for a shell."""
    return shlex.join(["tunesmith", "train", *command_words(values)])


def _flag(value: Any) -> str:
    """Return a value as the command line reads it back; a text that looks like a number gets quotes."""
    unquoted = isinstance(value, str) and parse_value(value) == value
    return value if unquoted else json.dumps(value, ensure_ascii=False)
