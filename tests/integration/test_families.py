"""The table of families in the docs says what happens: every family is built tiny and tried again."""

from __future__ import annotations

import re

import pytest

from tests.families import FAMILIES, answered, trained
from tests.house import ROOT

DOCS = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
LINES = [re.split(r" ?\| ?", line, maxsplit=2)[1:] for line in DOCS.splitlines() if line.startswith("| ")]
TABLE = {family: cells.removesuffix(" |").rpartition(" | ") for family, cells in LINES if family != "family"}


def test_the_table_holds_every_family_that_transformers_knows() -> None:
    unbuilt = re.findall(r"[\w.-]+", DOCS.partition("Not built tiny here:")[2].rpartition(".")[0])
    assert sorted([*TABLE, *unbuilt]) == list(FAMILIES)
    assert len(TABLE) >= 150


@pytest.mark.filterwarnings("ignore")  # of a family's own code
@pytest.mark.parametrize("family", TABLE)
def test_a_family_is_trained_as_the_table_says(family: str) -> None:
    assert trained(family) == TABLE[family][0]
    assert "off by" not in TABLE[family][0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", list(TABLE)[::6])
def test_a_family_answers_as_the_table_says(family: str) -> None:
    assert answered(family) == TABLE[family][2]
