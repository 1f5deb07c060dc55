"""Check 7, second part: changes that the chat template makes to rows unseen, found with the model at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backend.data.checks.base import Check, Example, Scan


def _found(slug: str) -> Callable[[Scan], Iterator[Example]]:
    """Return the check that yields the rows with the template fault ``slug``."""

    def over_all(scan: Scan) -> Iterator[Example]:
        for row, faults in zip(scan.rows, scan.template_faults, strict=True):
            if slug in faults:
                yield Example(row.place, faults[slug])

    return over_all


TEMPLATE_CHECKS = (
    Check(
        7,
        "asked-otherwise",
        "The model will be asked in another way than it is trained",
        "warn",
        "What it learns may not show when it answers. For a model that thinks first, set model.chat_template to "
        "no-thinking, or bring rows with reasoning and set it to thinking; both want one answer a row. For any other "
        "model take away white space before the answers.",
        over_all=_found("asked-otherwise"),
        needs="template",
    ),
    Check(
        7,
        "added-words",
        "The chat template puts words of its own before the answers",
        "warn",
        "The model learns to write them before each answer, and whoever asks it gets them too. For a model that "
        "thinks first, set model.chat_template to no-thinking.",
        over_all=_found("added-words"),
        needs="template",
    ),
    Check(
        7,
        "lost-parts",
        "The chat template leaves out parts of rows",
        "warn",
        "They stand in the rows, but the model neither reads nor learns them. Use a model or a model.chat_template "
        "that knows them, or write them into the user's message.",
        over_all=_found("lost-parts"),
        needs="template",
    ),
)
