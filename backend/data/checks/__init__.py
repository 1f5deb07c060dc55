"""The checks of the data doctor, a file for each kind; ``ALL`` lists them by number, most harmful first."""

from __future__ import annotations

from backend.data.checks.amounts import AMOUNT_CHECKS
from backend.data.checks.balance import BALANCE_CHECKS
from backend.data.checks.base import Check, Example, Level, Scan
from backend.data.checks.contents import CONTENT_CHECKS
from backend.data.checks.conversations import CONVERSATION_CHECKS
from backend.data.checks.labels import LABEL_CHECKS
from backend.data.checks.leftovers import LEFTOVER_CHECKS
from backend.data.checks.personal import PERSONAL_CHECKS
from backend.data.checks.preferences import PREFERENCE_CHECKS
from backend.data.checks.repeats import REPEAT_CHECKS
from backend.data.checks.secrets import SECRET_CHECKS
from backend.data.checks.template import TEMPLATE_CHECKS
from backend.data.checks.tokens import TOKEN_CHECKS

__all__ = ["ALL", "OF_PROMPTS", "Check", "Example", "Level", "Scan"]

OF_PROMPTS = frozenset(
    {
        *("contamination", "near-contamination", "paraphrases", "duplicates", "near-duplicates"),
        *("empty-prompts", "damaged-text", "placeholders", "web-junk", "mixed-scripts"),
        *("secrets", "personal-data", "too-few-rows", "untrainable-rows"),
    }
)
"""The checks that matter where a model answers by itself and a row needs no answer."""

ALL: tuple[Check, ...] = tuple(
    sorted(
        (
            *REPEAT_CHECKS,
            *CONTENT_CHECKS,
            *LEFTOVER_CHECKS,
            *TOKEN_CHECKS,
            *TEMPLATE_CHECKS,
            *CONVERSATION_CHECKS,
            *PREFERENCE_CHECKS,
            *BALANCE_CHECKS,
            *LABEL_CHECKS,
            *SECRET_CHECKS,
            *PERSONAL_CHECKS,
            *AMOUNT_CHECKS,
        ),
        key=lambda check: check.number,
    )
)
