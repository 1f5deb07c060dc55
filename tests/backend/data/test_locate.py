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
    assert choose(["a.csv", "text/b.csv"], None)[0] == ["a.csv", "text/b.csv"]
    assert choose(["a.txt", "b.md"], None)[0] == ["a.txt", "b.md"]


def test_a_document_called_training_is_a_chapter_among_others_that_name_no_split():
    read, aside = choose(["data.md", "testing.md", "training.md"], None)
    assert read == ["data.md", "training.md"]
    assert [skipped.place for skipped in aside] == ["testing.md"]
    assert choose(["train.txt", "valid.txt"], None)[0] == ["train.txt"]
    assert choose(["data.csv", "train.csv"], None)[0] == ["train.csv"]
    assert choose(["data.md", "training.md"], "train")[0] == ["training.md"]


HELD_OUT = ["test", "validation", "valid", "val", "dev", "eval", "evaluation", "testing", "heldout"]


@pytest.mark.parametrize("word", HELD_OUT)
@pytest.mark.parametrize(
    "form", ["{}", "foods-{}", "foods_{}", "{}.v2", "{}1", "part-{}-00001-of-2", "{}/a", "foods.{}"]
)
def test_files_called_after_a_held_out_split_are_never_training_rows(word, form):
    name = f"{form.format(word)}.jsonl"
    read, aside = choose(["data.jsonl", name], None)
    assert read == ["data.jsonl"]
    assert [(item.place, item.reason.partition(" '")[0]) for item in aside] == [
        (name, "it belongs to the split")
    ]


@pytest.mark.parametrize(
    "name", ["contest.jsonl", "latest.jsonl", "devices.jsonl", "evaluated.jsonl", "Valley.csv"]
)
def test_names_that_only_contain_such_a_word_are_read(name):
    assert choose(["data.jsonl", name], None)[0] == ["data.jsonl", name]


def test_capitals_within_a_name_part_its_words():
    assert (split_of("foodTest.jsonl"), split_of("TrainSet.jsonl")) == ("test", "train")
    assert split_of("dev", whole=True) == "validation"
    assert split_of("my-dev", whole=True) is None


def test_a_folder_of_held_out_files_alone_says_how_to_name_the_split(tmp_path):
    touch(tmp_path, "rows-eval.jsonl")
    with pytest.raises(DataError, match="holds no file that can be read") as caught:
        locate(tmp_path)
    assert caught.value.remedy.endswith(f"{tmp_path}:validation")
    assert names(locate(f"{tmp_path}:validation")) == ["rows-eval.jsonl"]


def test_a_pattern_that_names_a_split_asks_for_it(tmp_path):
    touch(tmp_path / "dev", "a.jsonl", "test-1.jsonl", "test-2.jsonl")
    assert names(locate(f"{tmp_path}/dev/test*.jsonl")) == ["test-1.jsonl", "test-2.jsonl"]
    assert names(locate(f"{tmp_path}/dev/*.jsonl")) == ["a.jsonl"]


@pytest.mark.parametrize("pattern", [".hid/*.jsonl", ".hid/**/*.jsonl", "*/.deep/*.jsonl", ".h*/a.jsonl"])
def test_a_pattern_that_names_a_hidden_folder_finds_what_is_in_it(tmp_path, pattern):
    touch(tmp_path, ".hid/a.jsonl", "x/.deep/a.jsonl", "x/b.jsonl")
    assert names(locate(f"{tmp_path}/{pattern}")) == ["a.jsonl"]


def test_a_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "rows.jsonl", "more/b.jsonl")
    assert names(locate("~/rows.jsonl")) == ["rows.jsonl"]
    assert (names(locate("~/rows.jsonl[:5]")), locate("~/rows.jsonl[:5]").part) == (["rows.jsonl"], "[:5]")
    assert names(locate("~/more/*.jsonl")) == ["b.jsonl"]


@pytest.mark.parametrize("name", ["../private", "/etc", "a/b", "..", "."])
def test_a_saved_data_set_stays_in_its_folder(tmp_path, name):
    touch(tmp_path, "private/rows.jsonl", "set/a/b/rows.jsonl")
    (tmp_path / "set/dataset_dict.json").write_text(json.dumps({"splits": [name]}), encoding="utf-8")
    with pytest.raises(DataError, match="leads out of it") as caught:
        locate(tmp_path / "set")
    assert caught.value.code == "unsafe-dataset"


def test_links_of_a_saved_data_set_stay_in_its_folder_too(tmp_path):
    touch(tmp_path, "private/rows.jsonl")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train").symlink_to(tmp_path / "private")
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train"]}', encoding="utf-8")
    with pytest.raises(DataError, match="leads out of it"):
        locate(tmp_path / "set")


def test_a_saved_data_set_of_held_out_rows_alone_has_to_be_asked_for_them(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test"]}', encoding="utf-8")
    saved_dataset([{"text": "a"}], tmp_path / "test")
    with pytest.raises(DataError, match="holds the splits test"):
        locate(tmp_path)
    assert names(locate(f"{tmp_path}:test")) == ["test/data-00000-of-00001.arrow"]
