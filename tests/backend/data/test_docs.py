"""What the pages about data say is what the code does."""

import re
from pathlib import Path

from backend.data.checks import ALL
from backend.data.families import PARTS
from backend.data.fixes import FIXES
from backend.data.locate import PACKED, SUFFIXES
from backend.run.config import AugmentationConfig

DOCS = Path(__file__).parents[3] / "docs"
TEXT = "\n".join(
    (DOCS / name).read_text(encoding="utf-8") for name in ("data.md", "checking.md", "augmentation.md")
)
CODE = set(re.findall(r"`([^`\n]+)`", TEXT))


def test_every_check_is_listed_under_its_number():
    for check in ALL:
        line = next(line for line in TEXT.splitlines() if line.startswith(f"| {check.number} |"))
        assert f"`{check.slug}`" in line


def test_the_table_of_hits_has_every_check():
    table = TEXT.split("## How often it is right")[1].split("## Fixes")[0]
    assert re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", table, re.MULTILINE) == [
        (str(check.number), check.slug) for check in ALL
    ]


def test_every_fix_and_setting_is_listed():
    assert set(FIXES) - {"drop-rejected"} <= CODE
    assert set(AugmentationConfig.model_fields) <= CODE


def test_every_shape_is_listed_with_its_parts():
    for name, parts in PARTS.items():
        line = next(line for line in TEXT.splitlines() if line.startswith(f"| {name} |"))
        assert all(part in line for part in parts.required + parts.optional)


def test_the_endings_listed_are_known():
    listed = {each for each in CODE if re.fullmatch(r"\.[a-z0-9]+", each)}
    assert listed <= {*SUFFIXES, *PACKED}
    assert {".jsonl", ".csv", ".parquet", ".xlsx", ".zst", ".zip"} <= listed
