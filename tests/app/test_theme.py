"""The theme that is shipped: readable in light and dark, and nobody is told anything."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.app.views.test_charts import contrast

CONFIG = tomllib.loads(
    (Path(__file__).parents[2] / "app" / ".streamlit" / "config.toml").read_text(encoding="utf-8")
)
THEMES = ["light", "dark"]
CAPTION = 0.6
"""Streamlit draws captions at this share of the text's colour."""


def mixed(front: str, back: str, share: float) -> str:
    parts = [(int(front[at : at + 2], 16), int(back[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(share * one + (1 - share) * other):02x}" for one, other in parts)


@pytest.mark.parametrize("name", THEMES)
@pytest.mark.parametrize("ground", ["backgroundColor", "secondaryBackgroundColor"])
def test_text_captions_and_links_can_be_read(name: str, ground: str) -> None:
    theme = CONFIG["theme"][name]
    back = theme[ground]
    caption = mixed(theme["textColor"], back, CAPTION)
    for colour in (theme["textColor"], theme["linkColor"], caption):
        assert contrast(colour, back) >= 4.5


@pytest.mark.parametrize("name", THEMES)
def test_white_on_a_primary_button_can_be_read(name: str) -> None:
    theme = CONFIG["theme"][name]
    assert contrast("#ffffff", theme["primaryColor"]) >= 4.5
    assert contrast(theme["primaryColor"], theme["backgroundColor"]) >= 3


def test_nobody_else_is_served_or_told() -> None:
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert CONFIG["server"]["allowedHosts"] == ["127.0.0.1", "localhost"]
    assert CONFIG["browser"]["gatherUsageStats"] is False
    assert CONFIG["server"]["fileWatcherType"] == "none"
    assert CONFIG["client"]["showErrorDetails"] == "none"
    assert "url" not in str(CONFIG["theme"]["font"])
