"""A certificate, drawn: app/views/certificate.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.app.reading import unescaped
from tests.app.test_exports import make_export
from tests.app.waiting import texts


def page(folder) -> None:  # type: ignore[no-untyped-def]
    """One certificate."""
    from app.exports import read_export
    from app.views.certificate import draw_certificate, draw_checks

    draw_certificate(read_export(folder))
    draw_checks(read_export(folder))


@pytest.mark.parametrize(
    ("light", "words"),
    [("green", "As trained"), ("amber", "Worth a look"), ("red", "Do not use"), ("?", "Do not")],
)
def test_every_light_has_its_face_in_words(tmp_path: Path, light: str, words: str) -> None:
    app = AppTest.from_function(page, args=(make_export(tmp_path, light=light),), default_timeout=30).run()
    said = unescaped(texts(app))
    assert words in said
    assert ("One row of 32 differs." in said) == (light != "green")
    assert app.dataframe[0].value["finding"].tolist() == ["<b>31</b> of 32 are equal."]
