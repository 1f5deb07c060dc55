import json

import pytest

from backend.data.lineage import LINEAGE, copied_columns
from backend.data.locate import locate

COLUMNS = {"prompt": "q", "completion": "a", "group": "g"}


def copy(folder, content):
    folder.mkdir()
    (folder / LINEAGE).write_text(content)
    (folder / "rows.jsonl").write_text("{}")
    return locate(folder / "rows.jsonl")


def test_a_copy_brings_the_columns_of_its_source(tmp_path):
    located = copy(tmp_path / "v001", json.dumps({"rows_sha256": "abc", "columns": COLUMNS}))
    assert copied_columns(located, "abc") == COLUMNS
    assert copied_columns(located, "other bytes") is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"rows_sha256": "abc", "columns": [1]}', '{"rows_sha256": "abc", "columns": {}}'],
)
def test_any_other_file_of_that_name_says_nothing(tmp_path, content):
    assert copied_columns(copy(tmp_path / "v001", content), "abc") is None
