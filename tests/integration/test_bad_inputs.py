"""Wrong inputs of every kind: one sentence with place and remedy, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backend.commands.cli import main
from backend.run.folder import RunDir
from tests.runs import DISTINCT, ROWS, child_environment, learner_folder, make_run, tree, write_rows
from tests.tiny import tiny_tokenizer

TRAIN = ["train", "--model.model_name_or_path"]
FINE = [*TRAIN, "model", "--data.train"]
PICKLE = b"\x80\x04cposix\nsystem\n"


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, trained: RunDir, rows_file: Path) -> Path:
    """A folder with everything a person could get wrong; each test works in a copy."""
    place = tmp_path_factory.mktemp("furnished")
    learner_folder(place / "model")
    _configurations(place)
    _data(place)
    _models(place)
    _runs(place, trained, rows_file)
    return place


def _configurations(place: Path) -> None:
    texts = {
        "list.yaml": "- data\n- training\n",
        "broken.yaml": "data: [train\n",
        "twice.yaml": "seed: 1\nseed: 2\n",
        "alias.yaml": "data: &x {train: rows.jsonl}\nmodel: *x\n",
        "code.yaml": "data: !!python/object/apply:os.system [touch harm]\n",
        "unknown.yaml": "data: {train: rows.jsonl}\ntraining: {lerning_rate: 1}\n",
        "wrong.yaml": "data: {train: rows.jsonl, max_length: long}\ntuning: {lora_r: 0}\nseed: true\n",
        "scalar.yaml": "data: {train: rows.jsonl}\ntraining: fast\n",
        "nan.yaml": "data: {train: rows.jsonl}\ntraining: {learning_rate: .nan}\n",
        "future.yaml": "version: 2\ndata: {train: rows.jsonl}\n",
    }
    for name, text in texts.items():
        (place / name).write_text(text)
    (place / "latin.yaml").write_bytes("name: Küche\n".encode("latin-1"))


def _data(place: Path) -> None:
    write_rows(place / "rows.jsonl", DISTINCT)
    write_rows(place / "same.jsonl", ROWS[:1] * 4)
    write_rows(place / "long.jsonl", [*ROWS, {"prompt": "word " * 2000, "completion": "x"}])
    write_rows(place / "null.jsonl", [*ROWS, {"prompt": "x", "completion": None}])
    write_rows(place / "missing.jsonl", [*ROWS, {"prompt": "x"}])
    write_rows(place / "strange.jsonl", [{"left": "a", "right": "b"}] * 3)
    (place / "empty.jsonl").write_text("")
    (place / "half.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "compl')
    (place / "latin.jsonl").write_bytes(b'{"prompt": "K\xfcche", "completion": "x"}\n')
    (place / "ragged.csv").write_text("prompt,completion\na,b\nc,d,e\n")
    (place / "head.csv").write_text("prompt,completion\n")
    (place / "rows.pkl").write_bytes(PICKLE)
    (place / "nothing").mkdir()


def _models(place: Path) -> None:
    def like(name: str, *without: str) -> Path:
        folder = Path(shutil.copytree(place / "model", place / name))
        for file in without:
            (folder / file).unlink()
        return folder

    like("no-weights", "model.safetensors")
    like("no-config", "config.json")
    like("no-tokenizer", "tokenizer.json")
    (like("pickled", "model.safetensors") / "pytorch_model.bin").write_bytes(PICKLE)
    (like("damaged-config") / "config.json").write_text('{"model_type": ')
    config = json.loads((place / "model" / "config.json").read_text())
    code = config | {"model_type": "somebodys", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (like("with-code") / "config.json").write_text(json.dumps(code))
    other = config | {"model_type": "bert", "architectures": ["BertModel"]}
    (like("no-language-model") / "config.json").write_text(json.dumps(other))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    tokenizer.save_pretrained(like("unmaskable"))


def _runs(place: Path, trained: RunDir, rows_file: Path) -> None:
    root = place / "runs"
    make_run(root, place / "model", rows_file).path.rename(root / "20300101-000000-new-aaaa")
    for name in ("20200101-000000-done-aaaa", "20200101-000000-done-bbbb", "20200101-000000-hurt-cccc"):
        shutil.copytree(trained.path, root / name)
    adapter = root / "20200101-000000-hurt-cccc" / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1])
    cut = make_run(root, place / "model", rows_file)
    cut.config.write_text(cut.config.read_text()[:100])
    cut.path.rename(root / "20200101-000000-cut-dddd")


# what a person types → what the sentence names (place) and advises (remedy)
CASES: dict[str, tuple[list[str], list[str]]] = {
    # the configuration
    "no file of that name": (["train", "unknwon.yaml"], ["unknwon.yaml", "Did you mean unknown.yaml?"]),
    "a folder for a file": (["train", "model"], ["model: is a folder", "Give the path of a YAML file"]),
    "a list for settings": (["train", "list.yaml"], ["list.yaml", "Write lines such as"]),
    "broken YAML": (["train", "broken.yaml"], ["broken.yaml", "line 1", "Mend the line"]),
    "a setting twice": (["train", "twice.yaml"], ["twice.yaml", "line 2: seed is set twice"]),
    "an alias": (["train", "alias.yaml"], ["alias.yaml", "line 2: aliases are not allowed"]),
    "code in YAML": (["train", "code.yaml"], ["code.yaml", "line 1", "not allowed"]),
    "another encoding": (["train", "latin.yaml"], ["latin.yaml", "UTF-8", "byte 7"]),
    "an unknown setting": (["train", "unknown.yaml"], ["Did you mean training.learning_rate?"]),
    "three wrong values": (
        ["train", "wrong.yaml"],
        ["data.max_length: 'long'", "tuning.lora_r: 0", "seed: True", "The default is 42."],
    ),
    "a value for a section": (["train", "scalar.yaml"], ["training: 'fast'", "Write its settings below it"]),
    "not a number": (["train", "nan.yaml"], ["training.learning_rate: nan", "finite"]),
    "a format of the future": (["train", "future.yaml"], ["version: 2"]),
    "no data at all": (["train"], ["data.train: is required", "--data.train rows.jsonl"]),
    "a flag without its value": ([*FINE, "rows.jsonl", "--seed"], ["seed: has no value", "--seed VALUE"]),
    "a stray word": ([*FINE, "rows.jsonl", "fast"], ["fast: is not a setting", "--section.key value"]),
    "a flag through a value": (
        [*FINE, "rows.jsonl", "--seed.more", "1", "--seed", "1", "--seed.x", "2"],
        ["seed", "Remove one of the two"],
    ),
    "an unknown flag": ([*FINE, "rows.jsonl", "--lora-r", "8"], ["lora_r", "Did you mean tuning.lora_r?"]),
    "an unknown command": (["trian"], ["trian", "--help"]),
    # the data
    "no such data": ([*FINE, "row.jsonl"], ["row.jsonl does not exist", "Did you mean", "rows.jsonl"]),
    "no such held-out file": ([*FINE, "rows.jsonl", "--data.validation", "x"], ["/x does not exist"]),
    "an empty file": ([*FINE, "empty.jsonl"], ["empty.jsonl is empty", "at least one row"]),
    "an empty folder": ([*FINE, "nothing"], ["nothing holds no file", ".jsonl"]),
    "half a line": ([*FINE, "half.jsonl"], ["half.jsonl:2", "data.max_rejected_share"]),
    "data in another encoding": ([*FINE, "latin.jsonl"], ["latin.jsonl:1", "0xFC", "encoding"]),
    "a null answer": ([*FINE, "null.jsonl"], ["null.jsonl:19", "completion"]),
    "a missing answer": ([*FINE, "missing.jsonl"], ["missing.jsonl:19", "completion"]),
    "columns of no known name": ([*FINE, "strange.jsonl"], ["left", "data.columns"]),
    "a ragged table": ([*FINE, "ragged.csv"], ["ragged.csv:3", "Mend"]),
    "only a head": ([*FINE, "head.csv"], ["head.csv", "row"]),
    "a pickle": ([*FINE, "rows.pkl"], ["rows.pkl"]),
    "one prompt only": ([*FINE, "same.jsonl"], ["same prompt", "set data.validation to 0"]),
    "a row too long": ([*FINE, "long.jsonl"], ["long.jsonl:19", "data.max_length", "data.truncation"]),
    "no such column": (
        [*FINE, "rows.jsonl", "--data.columns", "{prompt: question}"],
        ["question", "prompt"],
    ),
    # the model
    "a misspelt alias": (
        [*TRAIN, "smolm2-135m", "--data.train", "rows.jsonl"],
        ["Did you mean smollm2-135m?"],
    ),
    "no such folder": ([*TRAIN, "./modle", "--data.train", "rows.jsonl"], ["./modle", "Give a model folder"]),
    "a name the Hub cannot give": (
        [*TRAIN, "org/none", "--data.train", "rows.jsonl"],
        ["org/none", "network"],
    ),
    "a file that is no model": ([*TRAIN, "rows.jsonl", "--data.train", "rows.jsonl"], ["not a .gguf file"]),
    "no weights": ([*TRAIN, "no-weights", "--data.train", "rows.jsonl"], ["no-weights has no weights"]),
    "no config": ([*TRAIN, "no-config", "--data.train", "rows.jsonl"], ["no-config has no readable config"]),
    "no tokenizer": ([*TRAIN, "no-tokenizer", "--data.train", "rows.jsonl"], ["has no tokenizer.json"]),
    "pickled weights": ([*TRAIN, "pickled", "--data.train", "rows.jsonl"], ["a pickle", "safetensors"]),
    "a damaged config": ([*TRAIN, "damaged-config", "--data.train", "rows.jsonl"], ["config.json"]),
    "an author's code": ([*TRAIN, "with-code", "--data.train", "rows.jsonl"], ["auto_map", "never runs"]),
    "no language model": (
        [*TRAIN, "no-language-model", "--data.train", "rows.jsonl"],
        ["no causal language model", "ForCausalLM"],
    ),
    "a template that hides answers": (
        [*TRAIN, "unmaskable", "--data.train", "rows.jsonl"],
        ["template", "give that message the weight 0"],
    ),
    # the run folder
    "no such run": (["runs", "show", "2020-done"], ["2020-done", "Did you mean"]),
    "two runs of that beginning": (
        ["runs", "resume", "20200101-000000-done"],
        ["2 runs", "longer beginning"],
    ),
    "a folder that is no run": (["runs", "resume", "./model"], ["model is no run folder", "runs list"]),
    "an unfinished run": (["infer", "latest", "--prompt", "x"], ["has no result", "runs resume"]),
    "no such checkpoint": (
        ["infer", "20200101-000000-done-aaaa", "--prompt", "x", "--checkpoint", "3"],
        ["no checkpoint 3", "step-000010"],
    ),
    "a damaged result": (
        ["infer", "20200101-000000-hurt-cccc", "--prompt", "x"],
        ["hurt-cccc/adapter", "wrong size"],
    ),
    "a damaged configuration": (["infer", "20200101-000000-cut-dddd", "--prompt", "x"], ["config.yaml"]),
    "nothing to say": (["infer", "20200101-000000-done-aaaa", "--prompt", " "], ["prompt is empty", "Write"]),
    "prompts that are not there": (
        ["infer", "20200101-000000-done-aaaa", "--file", "x.csv", "--out", "y"],
        ["x.csv does not exist"],
    ),
    "an unfinished run to score": (["evaluate", "20300101"], ["has no result", "runs resume"]),
}


def test_there_are_more_than_enough() -> None:
    assert len(CASES) > 50


@pytest.fixture
def place(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(furnished, tmp_path / "place"))
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_exit_code_2_nothing_written(
    case: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, named = CASES[case]
    before = tree(place)
    assert main(words) == 2
    screen = capsys.readouterr()
    assert screen.out == "" or words[0] == "evaluate"
    assert screen.err.startswith(("Error: ", "Errors:\n"))
    assert [part for part in named if part not in screen.err] == []
    assert "Traceback" not in screen.err
    assert len(screen.err) < 1200
    assert tree(place) == before


@pytest.mark.parametrize("case", ["three wrong values", "half a line", "pickled weights", "no such run"])
def test_the_same_as_json(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, named = CASES[case]
    before = tree(place)
    assert main([*words, "--json"]) == 2
    printed, screen = capsys.readouterr()
    error = json.loads(printed)["error"]
    assert screen == ""
    assert [part for part in named if part not in f"{error['message']} {error['remedy']}"] == []
    assert tree(place) == before


@pytest.mark.parametrize("case", ["broken YAML", "a missing answer"])
def test_the_same_from_a_process_of_its_own(case: str, place: Path) -> None:
    words, named = CASES[case]
    before = tree(place)
    child = subprocess.run(
        [sys.executable, "-m", "backend.commands.cli", *words],
        capture_output=True,
        text=True,
        env=child_environment(PYTHONPATH=str(Path(__file__).parents[2])),
        check=False,
        timeout=120,
        cwd=place,
    )
    assert (child.returncode, child.stdout) == (2, "")
    assert [part for part in [*named, "Error"] if part not in child.stderr] == []
    assert "Traceback" not in child.stderr
    assert tree(place) == before
