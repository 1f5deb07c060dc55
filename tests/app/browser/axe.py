"""axe-core in the page: what it finds that would keep somebody from reading or using it."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

THEMES = {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 22, 28)"}
"""The background of each theme."""
GRAVE = {"moderate", "serious", "critical"}
_DRAWN = """colour => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor === colour
  && !document.getAnimations().some(one => one instanceof CSSTransition && one.effect.target.checkVisibility())"""
"""What moves within a closed expander stands still, for ever: it is no part of what is seen."""
_EVERY_RULE: dict[str, Any] = {"resultTypes": ["violations"]}
_CONTRAST = {**_EVERY_RULE, "runOnly": ["color-contrast"]}


def findings(page: Page) -> list[str]:
    """What is wrong with the page: every rule in the light, contrast again in the dark."""
    page.wait_for_function(_DRAWN, arg=THEMES["light"])
    found = Axe().run(page, options=_EVERY_RULE).response["violations"]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(_DRAWN, arg=THEMES["dark"])
    found += Axe().run(page, options=_CONTRAST).response["violations"]
    page.emulate_media(color_scheme="light")
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found
        if each["impact"] in GRAVE
        for node in each["nodes"]
    ]
