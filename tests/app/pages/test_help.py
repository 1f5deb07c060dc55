"""The page Help: app/pages/help.py."""

from __future__ import annotations

from app.views.glossary import TERMS
from tests.app.conftest import OpenPage
from tests.app.waiting import texts


def test_the_tour_leads_to_every_page_of_the_journey(open_page: OpenPage) -> None:
    links = [link.proto.page for link in open_page("help").get("page_link")]
    for name in ("data", "new_run", "run", "compare", "playground", "export"):
        assert name in links


def test_every_word_is_explained_and_can_be_found(open_page: OpenPage) -> None:
    app = open_page("help")
    assert all(f"**{term}**" in texts(app) for term in TERMS)
    app.text_input(key="term").set_value("LORA").run()
    assert "**LoRA**" in texts(app)
    assert "**Warm-up**" not in texts(app)
    app.text_input(key="term").set_value("zebra").run()
    assert "That word is not here." in texts(app)
