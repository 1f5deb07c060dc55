"""Choose the training method of a new run by what there is to learn from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.commands import Answer
from app.forms import change, key_of, settings, typed

CHOICES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sft": (
            "Questions and their answers",
            "The model learns to answer like that: supervised fine-tuning (SFT).",
        ),
        "cpt": (
            "Plain text or documents",
            "The model learns their subject and style, not how to answer: continued pre-training (CPT).",
        ),
        "dpo": (
            "Pairs of a better and a worse answer",
            "The model learns to prefer the better one: preference optimization (DPO).",
        ),
        "kto": (
            "Answers marked good or bad",
            "The model learns from thumbs up and down, no pairs needed (KTO).",
        ),
        "grpo": (
            "Questions and a check for good answers",
            "The model tries answers and learns from those that pass; name the check below as a reward (GRPO).",
        ),
    }
)
"""What a person has, with what comes of it, by the method that is usual for it."""
PAIR_METHODS: Mapping[str, str] = MappingProxyType(
    {
        "dpo": "DPO: the usual one, held to the model before training",
        "orpo": "ORPO: also learns the better answers themselves",
        "cpo": "CPO: like DPO without a model to be held to, so it may drift",
        "simpo": "SimPO: by probability per token, so that length counts less",
    }
)


METHOD = "objective.method"


def draw_first_choice() -> dict[str, DeltaGenerator]:
    """Draw what the model learns from; return a place below for errors.

    Another choice forgets what was set for the method before.
    """
    method = typed().get(METHOD, settings()[METHOD].default)
    chosen = _choice(method, key_of(METHOD))
    if chosen != method:
        _take(chosen)
    return {METHOD: st.empty()}


def _choice(method: str, turn: str) -> str:
    """Draw the choice with ``method`` chosen, and return the method chosen now; ``turn`` ends the widgets' keys."""
    kinds, pairs = list(CHOICES), list(PAIR_METHODS)
    kind = st.radio(
        "I have …",
        kinds,
        kinds.index(_in_words(method)),
        format_func=lambda one: CHOICES[one][0],
        captions=[caption for _, caption in CHOICES.values()],
        key=f"learn from {turn}",
    )
    if kind not in PAIR_METHODS:
        return kind
    return st.selectbox(
        "Method for pairs",
        pairs,
        pairs.index(method) if method in pairs else 0,
        format_func=PAIR_METHODS.__getitem__,
        key=f"method for pairs {turn}",
    )


def _in_words(method: str) -> str:
    """Return the choice that a method belongs to."""
    return "dpo" if method in PAIR_METHODS else method


def _take(method: str) -> None:
    known = settings()
    before = {name: known[name].default for name in known if name.startswith("objective.")}
    change({**before, METHOD: method})
    st.rerun()


def offer_fitting(answer: Answer) -> None:
    """Draw the button for the method that rows like these are for, if it is not the one chosen.

    ``answer``: what the estimate found; it names the method where the chosen one does not learn from the rows.
    """
    fitting = str(answer.value.get("usual_method") or answer.settings.get(METHOD, ""))
    if fitting not in CHOICES or fitting == _in_words(typed().get(METHOD, settings()[METHOD].default)):
        return
    have, what = CHOICES[fitting]
    if answer.ok:
        st.info(f"These rows are {have[0].lower()}{have[1:]}. {what}", icon=":material/lightbulb:")
    if st.button(f"Use {fitting.upper()}", icon=":material/swap_horiz:"):
        _take(fitting)
