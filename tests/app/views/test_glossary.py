"""The words of fine-tuning: app/views/glossary.py."""

from __future__ import annotations

from app.views.glossary import TERMS


def test_each_is_a_sentence_and_they_stand_in_order() -> None:
    assert all(text.endswith(".") and len(text) < 200 for text in TERMS.values())
    assert list(TERMS) == sorted(TERMS)
    assert {"Adapter", "Loss", "Token", "Masked tokens"} <= set(TERMS)
