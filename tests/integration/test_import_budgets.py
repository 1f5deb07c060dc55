"""What each command may import and does once, counted and not timed: the seconds before a command begins its work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import SHORT, child_environment, learner_folder, write_rows

COMPILERS = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "networkx")
"""What torch and transformers would bring along for compiled and spread models."""
OTHERS = (
    "bitsandbytes",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "streamlit",
    "onnx",
    "altair",
    "datasets",
)
"""What a library of ours imports where it is installed, or what only another command needs."""
MODELS = ("torch", "transformers", "peft")

COUNTED = (
    "backend.training.inputs.data_report",
    "backend.training.proved.choose_forward",
    "backend.trainer_main.load_base",
    "backend.training.provenance.model_fingerprint",
)
"""What takes seconds with a large model or many rows, and is therefore done once by a command that trains."""

CODE = """
import importlib, json, sys
from backend.utils.lean_imports import install, is_awake
install()  # as in a program of ours
from backend.commands.cli import main
asked = json.loads(sys.stdin.read())
counts = {}
def counted(path):
    where, _, name = path.rpartition(".")
    module = importlib.import_module(where)
    function = getattr(module, name)
    def once_more(*given, **named):
        counts[path] = counts.get(path, 0) + 1
        return function(*given, **named)
    setattr(module, name, once_more)
for path in asked["counted"]:
    counted(path)
code = main(asked["argv"])
awake = [name for name in asked["modules"] if is_awake(name)]
print("\\n" + json.dumps({"code": code, "awake": awake, "counts": counts}))
"""


def asked(argv: list[str], counted: tuple[str, ...] = ()) -> dict[str, object]:
    """Run a command in a new process; return its exit code, the heavy modules it read, and how often it did what."""
    question = {"argv": argv, "counted": counted, "modules": [*MODELS, *COMPILERS, *OTHERS]}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps(question),
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What ``tunesmith train`` imported and did; its run is the only one in ``runs``."""
    here = tmp_path_factory.mktemp("inputs")
    model, rows = learner_folder(here / "model"), write_rows(here / "rows.jsonl")
    fixed = {"model.model_name_or_path": str(model), "data.train": str(rows), "data.validation": "0"} | SHORT
    flags = [word for name, value in fixed.items() for word in (f"--{name}", json.dumps(value).strip('"'))]
    return asked(["train", *flags, "--runs", str(runs)], COUNTED)


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["infer", "--help"], ["runs", "list"]])
def test_what_needs_no_model_imports_no_library_for_models(argv: list[str]) -> None:
    assert asked(argv)["awake"] == []


def test_training_imports_no_compiler_and_no_library_of_another_command(trained: dict[str, object]) -> None:
    assert (trained["code"], trained["awake"]) == (0, [*MODELS])


def test_training_checks_each_thing_once(trained: dict[str, object]) -> None:
    assert trained["counts"] == dict.fromkeys(COUNTED, 1)


def test_answering_imports_no_compiler_and_no_library_of_another_command(
    trained: dict[str, object], runs: Path
) -> None:
    (run,) = runs.glob("*/config.yaml")
    found = asked(["infer", str(run.parent), "--prompt", "hello", "--max-new-tokens", "1"])
    assert (trained["code"], found["code"], found["awake"]) == (0, 0, [*MODELS])
