import json

import pytest

from backend.data import hub, tfds
from backend.data.locate import choose, locate, split_of, take_part
from backend.data.records import Skipped
from backend.errors import DataError
from tests.backend.data.containers import saved_dataset


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")


def names(located):
    return [file.name for file in located.files]


def test_a_file_is_itself(tmp_path):
    touch(tmp_path, "a.jsonl")
    located = locate(tmp_path / "a.jsonl")
    assert [(file.path, file.name) for file in located.files] == [(tmp_path / "a.jsonl", "a.jsonl")]
    assert located.part is None


def test_a_slice_is_taken_off_the_name(tmp_path):
    touch(tmp_path, "a.jsonl")
    located = locate(f"{tmp_path}/a.jsonl[:80%]")
    assert (names(located), located.part) == (["a.jsonl"], "[:80%]")


def test_a_name_with_brackets_or_a_colon_that_exists_is_meant_as_it_stands(tmp_path):
    touch(tmp_path, "a[1:2].jsonl", "b:train.jsonl")
    assert names(locate(f"{tmp_path}/a[1:2].jsonl")) == ["a[1:2].jsonl"]
    assert names(locate(f"{tmp_path}/b:train.jsonl[:5]")) == ["b:train.jsonl"]


def test_a_folder_is_its_data_files_in_order(tmp_path):
    touch(tmp_path, "b.jsonl", "a/c.csv", "README.md", "notes.txt", ".git/x.json", "pic.png")
    located = locate(tmp_path)
    assert names(located) == ["a/c.csv", "b.jsonl"]
    assert {item.place: item.reason for item in located.skipped} == {
        ".git/x.json": "a hidden or system file",
        "README.md": "it describes the data and holds no rows",
        "notes.txt": "a text beside data files",
        "pic.png": "its ending is of no known kind",
    }


def test_a_folder_of_splits_is_its_training_split_unless_another_is_named(tmp_path):
    touch(
        tmp_path,
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "test.parquet",
        "dev/x.parquet",
    )
    assert names(locate(tmp_path)) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert names(locate(f"{tmp_path}:test")) == ["test.parquet"]
    assert names(locate(f"{tmp_path}:validation[:10]")) == ["dev/x.parquet"]
    assert Skipped("test.parquet", "it belongs to the split 'test'") in locate(tmp_path).skipped


def test_links_out_of_a_folder_are_left_aside(tmp_path):
    touch(tmp_path, "in/a.jsonl", "out.jsonl")
    (tmp_path / "in/b.jsonl").symlink_to(tmp_path / "out.jsonl")
    (tmp_path / "in/c.jsonl").symlink_to(tmp_path / "in/a.jsonl")
    (tmp_path / "in/d").symlink_to(tmp_path)
    located = locate(tmp_path / "in")
    assert names(located) == ["a.jsonl", "c.jsonl"]
    assert [item.reason for item in located.skipped] == ["a link that leads out of the folder"] * 2


def test_a_pattern_is_the_files_that_match(tmp_path):
    touch(tmp_path, "a1.jsonl", "a2.jsonl", "b.jsonl")
    assert names(locate(f"{tmp_path}/a*.jsonl")) == ["a1.jsonl", "a2.jsonl"]
    with pytest.raises(DataError, match="No file matches"):
        locate(f"{tmp_path}/x*.jsonl")


def test_a_saved_dataset_is_its_files_in_the_order_it_says(tmp_path):
    saved_dataset([{"text": "a"}], tmp_path / "saved")
    assert names(locate(tmp_path / "saved")) == ["data-00000-of-00001.arrow"]


def test_saved_splits_are_chosen_by_name(tmp_path):
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}), encoding="utf-8")
    saved_dataset([{"text": "a"}], tmp_path / "train")
    saved_dataset([{"text": "b"}], tmp_path / "test")
    assert names(locate(tmp_path)) == ["train/data-00000-of-00001.arrow"]
    assert names(locate(f"{tmp_path}:test")) == ["test/data-00000-of-00001.arrow"]
    assert locate(tmp_path).skipped == (Skipped("test", "it is the split 'test'"),)
    with pytest.raises(DataError, match="holds the splits train, test, but not 'dev'"):
        locate(f"{tmp_path}:dev")


@pytest.mark.parametrize("content", ["", "{", '{"splits": 1}', "[]"])
def test_a_broken_description_of_a_saved_dataset_is_ignored(tmp_path, content):
    (tmp_path / "dataset_dict.json").write_text(content, encoding="utf-8")
    touch(tmp_path, "a.jsonl")
    assert "a.jsonl" in names(locate(tmp_path))


def test_a_folder_without_data_files_is_an_error(tmp_path):
    touch(tmp_path, "pic.png")
    with pytest.raises(DataError, match=r"pic\.png: its ending is of no known kind") as caught:
        locate(tmp_path)
    assert caught.value.code == "no-files"


@pytest.mark.parametrize(
    ("typed", "revision", "name"),
    [
        ("owner/name", None, "train.jsonl"),
        ("hf://owner/name", None, "train.jsonl"),
        ("hf://datasets/owner/name@v1:test[:5]", "v1", "test.jsonl"),
    ],
)
def test_a_hub_id_is_fetched(tmp_path, monkeypatch, typed, revision, name):
    touch(tmp_path, "train.jsonl", "test.jsonl")
    asked = []

    def fetch(repo, revision, choose):
        asked.append((repo, revision, list(choose(["train.jsonl", "test.jsonl"]))))
        return tmp_path

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    assert names(locate(typed)) == [name]
    assert asked == [("owner/name", revision, [name])]


def test_a_tensorflow_data_set_is_fetched(tmp_path, monkeypatch):
    touch(tmp_path, "squad-test.jsonl")
    monkeypatch.setattr(tfds, "fetch", lambda name, split: tmp_path / f"{name}-{split}.jsonl")
    located = locate("tfds://squad:test[:10]")
    assert (names(located), located.part) == (["squad-test.jsonl"], "[:10]")


@pytest.mark.parametrize("typed", ["data/trian.jsonl", "here/trian", "nothing"])
def test_what_looks_like_a_path_is_not_asked_of_the_hub(tmp_path, monkeypatch, typed):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(DataError) as caught:
        locate(typed)
    assert caught.value.code == "file-not-found"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (None, (0, 10)),
        ("[:80%]", (0, 8)),
        ("[80%:]", (8, 10)),
        ("[2:5]", (2, 5)),
        ("[-3:]", (7, 10)),
        ("[:]", (0, 10)),
        ("[:33%]", (0, 3)),
        ("[:99]", (0, 10)),
    ],
)
def test_take_part(part, expected):
    part = take_part(10, part)
    assert (part.start, part.stop) == expected


def test_a_slice_that_is_none_is_an_error():
    with pytest.raises(DataError, match="is not understood"):
        take_part(10, "[1-2:%]")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/test-00000.parquet", "test"),
        ("dev.csv", "validation"),
        ("x/valid/part.csv", "validation"),
        ("training_set.csv", "train"),
        ("constraint.csv", None),
        ("latest.csv", None),
    ],
)
def test_split_of(name, split):
    assert split_of(name) == split


def test_choose_takes_everything_when_no_name_says_train():
    assert choose(["a.csv", "b.csv"], None) == (["a.csv", "b.csv"], [])
    assert choose(["a.csv", "test.csv"], None)[0] == ["a.csv", "test.csv"]
    assert choose(["a.txt", "b.md"], None)[0] == ["a.txt", "b.md"]
