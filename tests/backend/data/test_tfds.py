import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from backend.data.load import load_rows
from backend.data.records import Record
from backend.data.sources import read
from backend.data.tfds import fetch
from backend.errors import DataError

EXAMPLES = [
    {
        "text": "é 007".encode(),
        "n": np.float32(1.5),
        "tags": [b"a"],
        "image": np.zeros((2, 3)),
        "raw": b"\xff",
    }
]


class Source(list):
    dataset_info = SimpleNamespace(full_name="owner/set/1.0.0")


@pytest.fixture
def module(tmp_path, monkeypatch):
    made = ModuleType("tensorflow_datasets")
    made.asked = []

    def data_source(name, *, split, builder_kwargs, try_gcs):
        made.asked.append((name, split, builder_kwargs["file_format"]))
        if split == "nosplit":
            raise ValueError("Unknown split 'nosplit'.\nAvailable: train")
        return Source(EXAMPLES)

    made.data_source = data_source
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", made)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return made


def test_a_split_is_written_out_once_and_read_from_there(module, tmp_path):
    path = fetch("owner/set", None)
    assert path == tmp_path / "cache" / "tfds" / "owner-set-1.0.0-train.jsonl"
    assert module.asked == [("owner/set", "train", "array_record")]
    cells = {
        "text": "é 007",
        "n": "1.5",
        "tags": ["a"],
        "image": {"array": ["2", "3"]},
        "raw": {"bytes": "1"},
    }
    assert list(read(path)) == [Record(f"{path.name}:1", cells)]
    written = path.stat().st_mtime_ns
    assert fetch("owner/set", "train").stat().st_mtime_ns == written


def test_rows_with_pictures_are_refused_by_name(module):
    with pytest.raises(DataError, match="'image' is filled; only text"):
        load_rows("tfds://owner/set", columns={"text": "text"})


def test_an_unknown_split_is_an_error(module):
    with pytest.raises(
        DataError, match=r"'nosplit' of tfds://owner/set cannot be loaded: Unknown split 'nosplit'\."
    ) as caught:
        fetch("owner/set", "nosplit")
    assert caught.value.code == "tfds-dataset"


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError) as caught:
        fetch("squad", None)
    assert "pip install tensorflow-datasets" in caught.value.remedy
