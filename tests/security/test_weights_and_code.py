"""S01 to S03, S06, S09: no pickle is opened, no author's code runs, no name becomes a flag or a shell's word."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import struct
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from backend import data_pipeline
from backend.core.gguf.file import read_gguf
from backend.core.model_loader import load_adapter, load_base
from backend.core.model_resolver import resolve_model
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError, TunesmithError
from backend.manager.process_manager import trainer_command
from backend.run.config import DataConfig, config_schema
from backend.run.folder import RunDir
from backend.utils.config_utils import dotted_names

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("backend/**/*.py"), *ROOT.glob("app/**/*.py")])
PICKLING = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "picklescan",
    "fickling",
}


class Harm:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that must not appear."""
    return tmp_path / "harm"


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text("utf-8"))) for path in SOURCES]


def calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.name}:{node.lineno} {ast.unparse(node.func)}", node)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


class TestPickles:
    def test_s01_nothing_of_ours_can_open_one(self) -> None:
        imported = {
            name.split(".")[0]
            for _, tree in trees()
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        }
        assert imported & PICKLING == set()
        assert "safetensors" in imported
        opening = [place for place, _ in calls() if place.endswith(("torch.load", "np.load", "numpy.load"))]
        assert opening == []

    @pytest.mark.parametrize(
        "name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"]
    )
    def test_s01_a_model_that_is_one_is_refused_unopened(self, model: Path, mark: Path, name: str) -> None:
        (model / "model.safetensors").unlink()
        (model / name).write_bytes(pickle.dumps(Harm(mark)))
        with pytest.raises(ModelError, match="pickle") as caught:
            load_base(model)
        assert caught.value.code == "pickled-weights"
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
    def test_s01_an_adapter_that_is_one_is_refused_unopened(
        self, model: Path, tmp_path: Path, mark: Path, name: str
    ) -> None:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
        (adapter / name).write_bytes(pickle.dumps(Harm(mark)))
        with pytest.raises(ModelError, match="pickled adapters"):
            load_adapter(load_base(model), adapter)
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors"])
    def test_s01_one_under_a_safe_name_is_damage(self, model: Path, mark: Path, name: str) -> None:
        (model / "model.safetensors").write_bytes(pickle.dumps(Harm(mark)))
        with pytest.raises(ModelError):
            load_base(model)
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["rows.pkl", "rows.pt", "rows.jsonl", "rows.npy"])
    def test_s01_rows_that_are_one_are_refused_unopened(self, tmp_path: Path, mark: Path, name: str) -> None:
        (tmp_path / name).write_bytes(pickle.dumps(Harm(mark)))
        with pytest.raises(TunesmithError, match=name):
            data_pipeline.load(DataConfig(train=str(tmp_path / name)), seed=1)
        assert not mark.exists()


def test_s02_what_we_stand_on_is_new_enough() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    floors = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(project["dependencies"]), re.MULTILINE))
    wanted = {"torch": "2.10", "transformers": "5.3", "jinja2": "3.1.6"}
    pins = dict(re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    wanted_pins = wanted | {"starlette": "1.1", "python-multipart": "0.0.22"}
    lowered = {name.lower().replace("_", "-"): pin for name, pin in pins.items()}
    assert {name: floors[name] for name in wanted if number(floors[name]) < number(wanted[name])} == {}
    old = {
        n: lowered[n] for n, low in wanted_pins.items() if n in lowered and number(lowered[n]) < number(low)
    }
    assert old == {}
    assert {"torch", "transformers", "jinja2"} <= lowered.keys()


def number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


class TestAuthorsCode:
    def test_s03_there_is_no_switch_for_it(self) -> None:
        assert [name for name in dotted_names(config_schema()) if "trust" in name or "remote" in name] == []
        given = [
            (place, ast.unparse(word.value))
            for place, node in calls()
            for word in node.keywords
            if word.arg == "trust_remote_code"
        ]
        assert {value for _, value in given} == {"False"}

    @pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
    @pytest.mark.parametrize(
        "asked",
        [
            {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
            {"trust_remote_code": True},
            {"_attn_implementation_internal": "owner/kernel"},
            {"attn_implementation": "owner/kernel:evil"},
            {"custom_generate": "owner/evil"},
            {"kernel_config": {"a": "owner/kernel"}},
            {"deep": [{"auto_map": {"AutoConfig": "owner/evil--config.C"}}]},
        ],
    )
    def test_s03_a_folder_that_asks_for_it_is_refused(
        self, model: Path, file: str, asked: dict[str, Any]
    ) -> None:
        path = model / file
        unknown = {"model_type": "evil", "tokenizer_class": "Evil"}
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | unknown | asked))
        with pytest.raises(ModelError, match="run code") as caught:
            load_base(model)
        assert caught.value.code == "remote-code"

    def test_s03_an_adapter_that_asks_for_it_is_refused(self, model: Path, tmp_path: Path) -> None:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        asked = {"peft_type": "LORA", "auto_mapping": None, "auto_map": {"AutoModel": "evil.Model"}}
        (adapter / "adapter_config.json").write_text(json.dumps(asked))
        with pytest.raises(ModelError, match="run code"):
            load_adapter(load_base(model), adapter)

    def test_s03_python_beside_the_weights_is_never_imported(self, model: Path, mark: Path) -> None:
        """Nor where config.json names it, for a type that transformers knows."""
        for name in ("modeling_llama.py", "tokenization.py", "__init__.py"):
            (model / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
        for name, what in (("config.json", "modeling_llama.C"), ("tokenizer_config.json", "tokenization.T")):
            path = model / name
            kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
            asked = {"auto_map": dict.fromkeys(kinds, what)}
            path.write_text(json.dumps(json.loads(path.read_text()) | asked))
        load_base(model)
        load_tokenizer(model)
        assert not mark.exists()


GGUF_HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        GGUF_HEAD,
        GGUF_HEAD + struct.pack("<QQ", 2**63, 0),
        GGUF_HEAD + struct.pack("<QQ", 0, 2**63),
        GGUF_HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62) + b"key",
        GGUF_HEAD + struct.pack("<QQ", 1, 0) + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 2**31),
        GGUF_HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 2**60),
        GGUF_HEAD + b"\xff" * 4096,
    ],
)
def test_s06_sizes_in_a_gguf_file_are_checked_before_they_are_used(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "evil.gguf"
    path.write_bytes(body)
    with pytest.raises(ModelError):
        read_gguf(path)
    with pytest.raises(ModelError):
        resolve_model(str(path), cache_dir=tmp_path / "cache")


class TestCommands:
    def test_s09_no_shell_reads_what_we_say(self) -> None:
        asked = [place for place, node in calls() if any(word.arg == "shell" for word in node.keywords)]
        assert asked == []
        shells = ("os.system", "os.popen", "subprocess.getoutput", "commands.getoutput", ".eval", " exec")
        assert [place for place, _ in calls() if place.endswith(shells[:4])] == []

    @pytest.mark.parametrize("name", ["--help", "-c import os", "; touch harm", "$(touch harm)", "a b"])
    def test_s09_a_run_named_like_a_flag_stays_a_path(self, tmp_path: Path, name: str) -> None:
        run = RunDir.create(tmp_path, name, "seed: 1")
        renamed = RunDir(run.path.rename(tmp_path / name.replace("/", "")))
        command = trainer_command(renamed)
        assert command[-1] == str(renamed.path)
        assert command[-1].startswith("/")
        assert command[0] == sys.executable
