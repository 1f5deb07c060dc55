"""The table of families in the docs says what happens: every family is built tiny and tried again."""

from __future__ import annotations

import re

import pytest

from tests.families import FAMILIES, answered, trained
from tests.house import ROOT
from tests.tables import partly

DOCS = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
LINES = [re.split(r" ?\| ?", line, maxsplit=2)[1:] for line in DOCS.splitlines() if line.startswith("| ")]
TABLE = {family: cells.removesuffix(" |").rpartition(" | ") for family, cells in LINES if family != "family"}

COMMON = {
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma3_text", "gpt2", "phi3", "gpt_oss"),
    *("stablelm", "qwen3_next", "falcon_mamba"),
}
OFTEN = COMMON | {*{line: family for family, line in reversed(TABLE.items())}.values()}
"""What people train most, and the first family of each line that the table has; the others say what these say."""


def test_those_that_are_always_tried_are_in_the_table() -> None:
    assert COMMON - TABLE.keys() == set()


def test_the_table_holds_every_family_that_transformers_knows() -> None:
    unbuilt = re.findall(r"[\w.-]+", DOCS.partition("Not built tiny here:")[2].rpartition(".")[0])
    assert sorted([*TABLE, *unbuilt]) == list(FAMILIES)
    assert len(TABLE) >= 150


@pytest.mark.filterwarnings("ignore")  # of a family's own code
@pytest.mark.parametrize("family", partly(TABLE.keys(), OFTEN, pytest.mark.long))
def test_a_family_is_trained_as_the_table_says(family: str) -> None:
    assert trained(family) == TABLE[family][0]
    assert "off by" not in TABLE[family][0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", partly(list(TABLE)[::6], OFTEN, pytest.mark.long))
def test_a_family_answers_as_the_table_says(family: str) -> None:
    assert answered(family) == TABLE[family][2]
