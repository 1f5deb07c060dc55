"""The house stands as it is drawn: rooms, floors, imports, knobs, commands and the wheel."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from backend.commands.cli import app, main
from backend.commands.phrases import with_flags
from backend.data.formats import PARTS
from backend.errors import MARKED_SETTING
from backend.run.config import config_schema
from backend.utils.config_utils import dotted_names
from benchmarks.architecture_map import COLUMNS, PICTURE, drawing, imports, layers, purpose
from tests.house import APP, BACKEND, ROOMS, ROOT, TESTS, dotted, parsed
from tests.runs import child_environment, write_rows
from tests.wheels import built

HEAVY = ("torch", "transformers", "peft", "streamlit", "tensorflow", "pydantic")
MODULES = [dotted(path) for path in BACKEND]
LIGHT = [
    name
    for name in MODULES
    if name == "backend.commands.cli"
    or name.startswith(("backend.manager", "backend.data.", "backend.commands"))
]


def test_the_guards_below_see_the_house() -> None:
    """None of them can pass because it looked at nothing."""
    assert len(ROOMS) > 90
    assert len(APP) > 30
    assert len(MODULES) > len(ROOMS)
    assert len(LIGHT) > 40
    assert len(COMMANDS) > 10
    assert len(FIELDS) > 35


WITHOUT_ROOM = {Path("backend/data/test_docs.py")}  # holds docs/data.md against the code


class TestMirrored:
    def test_every_room_has_its_test_file(self) -> None:
        missing = [
            str(path.relative_to(ROOT))
            for path in [*ROOMS, *(path for path in APP if path.name != "__init__.py")]
            if not (ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")).is_file()
        ]
        assert missing == []

    def test_every_test_file_has_its_room(self) -> None:
        mirrors = {path.relative_to(ROOT / "tests") for path in ROOT.glob("tests/backend/**/test_*.py")}
        rooms = {path.relative_to(ROOT).with_name(f"test_{path.name}") for path in ROOMS}
        packages = {
            path.parent.relative_to(ROOT) / f"test_{path.parent.name}.py"
            for path in BACKEND
            if path.name == "__init__.py"
        }
        assert mirrors - rooms - packages - WITHOUT_ROOM == set()

    def test_every_folder_is_a_package(self) -> None:
        folders = {path.parent for path in [*BACKEND, *APP, *TESTS]}
        assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
        assert len(folders) > 12

    def test_the_founding_names(self) -> None:
        from backend.inferencer import Inferencer

        names = [
            *("inferencer", "data_pipeline", "trainer_main", "manager.tensorboard_manager"),
            *("manager.process_manager", "core.model_loader", "core.tokenizer", "utils.file_utils"),
        ]
        assert {f"backend.{name}" for name in names} <= set(MODULES)
        assert list(inspect.signature(Inferencer.infer).parameters)[:2] == ["self", "prompt"]


def python(*arguments: str, cwd: Path = ROOT, said: str = "") -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that came through; ``said`` is its standard input."""
    child = subprocess.run(
        [sys.executable, "-B", *arguments],
        input=said,
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
        timeout=240,
        cwd=cwd,
    )
    assert child.returncode == 0, child.stderr
    return child


def ask(modules: list[str], preload: list[str]) -> dict[str, Any]:
    asked = json.dumps({"modules": modules, "preload": preload})
    answer: dict[str, Any] = json.loads(python("-m", "tests.imports", said=asked).stdout)
    return answer


def foreign_imports() -> list[str]:
    """Every import of somebody else's package at the top of a room, as a statement."""
    found = set()
    for path in BACKEND:
        for node in parsed(path).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            source = getattr(node, "module", None)
            if isinstance(node, ast.Import):
                found |= {f"import {name}" for name in names if not name.startswith("backend")}
            elif (
                isinstance(node, ast.ImportFrom)
                and source
                and not source.startswith(("backend", "__future__"))
            ):
                found.add(f"from {source} import {', '.join(names)}")
    return sorted(found)


class TestImporting:
    @pytest.fixture(scope="class")
    @classmethod
    def imported(cls) -> dict[str, Any]:
        return ask(MODULES, foreign_imports())

    def test_every_module_comes_up(self, imported: dict[str, Any]) -> None:
        assert {name: seen["error"] for name, seen in imported.items() if seen["error"]} == {}
        assert sorted(imported) == sorted(MODULES)

    def test_nothing_happens_at_import(self, imported: dict[str, Any]) -> None:
        """No file is written, no thread or process started, no socket opened, no signal taken."""
        assert {name: seen["did"] for name, seen in imported.items() if seen["did"]} == {}
        assert {seen["threads"] for seen in imported.values()} == {1}

    def test_the_watch_would_notice(self, tmp_path: Path) -> None:
        (tmp_path / "busy_room.py").write_text(
            "import socket, threading\nsocket.socket().close()\nopen(__file__ + '.txt', 'w').close()\n"
            "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        )
        seen = ask(["no_such_room", "busy_room"], [f"import sys; sys.path.insert(0, {str(tmp_path)!r})"])
        assert "ModuleNotFoundError" in seen["no_such_room"]["error"]
        assert (seen["busy_room"]["error"], seen["busy_room"]["threads"]) == ("", 2)
        did = [event.split()[0] for event in seen["busy_room"]["did"]]
        assert did[:2] == ["socket.__new__", "open"]

    def test_doors_managers_and_data_leave_the_heavy_rooms_alone(self) -> None:
        statements = [f"import {name}" for name in LIGHT]
        look = (
            f"import sys; loaded = [n for n in {HEAVY[:4]!r} if n in sys.modules]; assert not loaded, loaded"
        )
        script = "\n".join(f"{statement}; {look}" for statement in statements)
        assert python("-c", script).returncode == 0


def late_imports(path: Path) -> list[str]:
    """The imports inside the functions of a module, as ``name:line``."""
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)]
    found = [node for function in functions for node in ast.walk(function)]
    return [f"{path.name}:{node.lineno}" for node in found if isinstance(node, ast.Import | ast.ImportFrom)]


class TestLateImports:
    def test_commands_have_none(self) -> None:
        """They are imported by path when they are called, and what needs torch is reached through ``lazy``."""
        paths = [path for path in BACKEND if path.parent.name == "commands"]
        assert [place for path in paths for place in late_imports(path)] == []
        assert not any("PLC0415" in path.read_text() for path in paths)
        assert len(paths) > 20

    def test_one_would_be_seen(self) -> None:
        assert late_imports(ROOT / "backend/core/tokenizer.py") != []


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a module imports, inside functions and for types included."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= parts & set(MODULES) or {node.module}
    return found & set(MODULES) - {dotted(path)}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The modules that remain once every module that leads to no other is taken away, again and again."""
    left = dict(graph)
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        left = {name: others for name, others in left.items() if name not in leaves}
    return sorted([name, *sorted(others & left.keys())] for name, others in left.items())


def entries(folder: Path) -> list[str]:
    """What stands in a package: modules and packages that hold some."""
    found = {path.relative_to(folder).parts[0] for path in BACKEND if path.is_relative_to(folder)}
    return sorted(found - {"__init__.py"})


def test_the_root_can_be_seen_at_a_glance() -> None:
    """Fourteen names: a fifteenth belongs into one of them."""
    assert entries(ROOT / "backend") == [
        *(
            "commands",
            "core",
            "data",
            "data_pipeline.py",
            "errors.py",
            "export",
            "inference",
            "inferencer.py",
        ),
        *("manager", "run", "server", "trainer_main.py", "training", "utils"),
    ]


class TestCycles:
    def test_there_is_none_not_even_inside_functions(self) -> None:
        assert cycles({dotted(path): imports_of(path) for path in BACKEND}) == []

    def test_one_would_be_seen(self) -> None:
        graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set[str]()}
        assert [names[0] for names in cycles(graph)] == ["a", "b", "c"]
        assert "backend.run.evidence" in imports_of(ROOT / "backend/run/folder.py")
        assert "backend.manager.process_manager" in imports_of(ROOT / "backend/commands/carry_out.py")


class TestMap:
    """The picture of docs/architecture.md; ``make map`` draws it anew."""

    PACKAGES = tuple(package for layer in layers() for package in layer)

    def test_it_shows_what_the_code_imports(self) -> None:
        assert PICTURE.read_text(encoding="utf-8") == drawing()

    def test_every_package_has_one_place_and_a_purpose_that_fits(self) -> None:
        assert sorted(package for column in COLUMNS for package in column) == sorted(self.PACKAGES)
        assert {package for package in self.PACKAGES if len(purpose(package)) not in {1, 2}} == set()
        assert {package.partition("backend.")[2] for package in self.PACKAGES} >= {
            path.stem for path in ROOT.glob("backend/*") if path.stem not in {"__init__", "__pycache__", "py"}
        }

    def test_an_arrow_that_others_imply_is_left_out(self) -> None:
        arrows = imports([*self.PACKAGES])
        assert arrows["backend.run"] == {"backend.utils"}
        assert arrows["backend.utils"] == {"backend.errors"}
        assert "backend.core" not in arrows["backend.training"]


# --- commands ---------------------------------------------------------------------------------------------


def commands(group: App, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in group:
        if not name.startswith("-"):
            command = group[name]
            if command.default_command:
                yield (*words, name)
            yield from commands(command, (*words, name))


COMMANDS = sorted(commands(app))
WITHOUT_JSON = {
    ("chat",),  # a conversation
    ("config", "init"),  # prints a file
    ("config", "schema"),  # is JSON
    ("start",),  # a conversation
    ("studio",),  # a server
}


class TestCommands:
    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_help_has_an_example_and_json(
        self, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "240")
        assert main([*words, "--help"]) == 0
        shown = capsys.readouterr().out
        assert f"• tunesmith {' '.join(words)}" in shown.split("For example:")[-1]
        assert ("--json" in shown) == (words not in WITHOUT_JSON)
        (summary,) = re.findall(r"Usage: .*\n\n(.+)", shown)
        assert len(summary) > 10

    @pytest.mark.parametrize("words", [[], ["--help"], ["runs", "--help"], ["data", "--help"]], ids=str)
    def test_help_imports_no_command(self, words: list[str]) -> None:
        script = (
            f"import sys; from backend.commands.cli import main; code = main({words!r});"
            "ours = [n for n in sys.modules if n.startswith('backend.commands.')];"
            f"print(ours, [n for n in {HEAVY!r} if n in sys.modules], code, file=sys.stderr)"
        )
        child = python("-c", script)
        own = [f"backend.commands.{name}" for name in ("phrases", "output", "cli")]
        assert child.stderr == f"{own} [] 0\n"
        assert "Commands" in child.stdout

    def test_a_look_at_rows_and_their_cost_loads_no_torch(self, tiny_folder: Path, tmp_path: Path) -> None:
        rows = str(write_rows(tmp_path / "rows.jsonl"))
        model = ["--model.model_name_or_path", str(tiny_folder)]
        looks = [
            *(["data", look, rows, "--model", str(tiny_folder)] for look in ("check", "preview")),
            ["estimate", "--accept=duplicates", "--data.train", rows, *model],
        ]
        script = (
            "import sys; from backend.commands.cli import main; import backend.commands.estimate as e;"
            f"e.GPU_DRIVERS = (); codes = [main(words) for words in {looks!r}];"
            "print('torch' in sys.modules, codes[1:], file=sys.stderr)"
        )
        assert python("-c", script).stderr == "False [0, 0]\n"


# --- text for people ----------------------------------------------------------------------------------------

INTERFACES = ("backend.commands", "backend.server")
BELOW = [path for path in BACKEND if not dotted(path).startswith(INTERFACES)]
OTHER_PROGRAMS = {  # their options, spelled like some of ours
    Path("backend/export/model_card.py"),
    Path("backend/export/modelfile.py"),
    Path("backend/export/quantizer.py"),
    Path("backend/manager/tensorboard_manager.py"),
    Path("backend/trainer_main.py"),
}


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Each string of a file with its line, the parts of f-strings too; docstrings left out."""
    tree = parsed(path)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


def options(group: App) -> set[str]:
    """The long flags of a command and of all commands under it."""
    found = {name for name in group if name.startswith("--")}
    if group.default_command:
        for argument in group.assemble_argument_collection():
            found |= {name for name in argument.names if name.startswith("--")}
    return found.union(*(options(group[name]) for name in group if not name.startswith("-")))


OPTIONS = options(app)
SETTINGS = {f"--{name}" for name in dotted_names(config_schema())} | {"--columns."}
BUTTONS = {
    str(node.args[0].value)
    for path in APP
    for node in ast.walk(parsed(path))
    if isinstance(node, ast.Call)
    and getattr(node.func, "attr", "") in {"button", "form_submit_button", "page_link"}
    and node.args
    and isinstance(node.args[0], ast.Constant)
} | {"Start", "Resume", "Stop", "Pause", "Queue", "Delete", "Playground", "New run"}
NAMED = [
    re.compile(rf"\btunesmith ({'|'.join(sorted({words[0] for words in COMMANDS}))})\b"),
    re.compile(
        rf"(?<![\w-])({'|'.join(re.escape(name) for name in sorted(OPTIONS | SETTINGS, reverse=True))})(?![\w-])"
    ),
    re.compile(rf"\b([Pp]ress|[Cc]lick) (on )?({'|'.join(map(re.escape, sorted(BUTTONS)))})\b"),
    re.compile(r"\b(Playground|New run|studio)\b"),
]


def of_an_interface(text: str) -> list[str]:
    """The commands, flags, buttons and pages that a text names."""
    return [found[0] for pattern in NAMED for found in pattern.finditer(text)]


SENTENCE = re.compile(r"[A-Z]\w* \w+|\w+ \w+ \w+")


def matched_sentences(tree: ast.AST) -> Iterator[str]:
    """Each sentence that a text is compared with: by its beginning, its end, or as a part of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {
            *("startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "split"),
            *("find", "index", "replace", "match", "search", "fullmatch"),
        }:
            places: list[ast.AST] = [*node.args]
        elif isinstance(node, ast.Compare):
            places = [node.left, *node.comparators]
        else:
            continue
        nested = (getattr(place, "elts", getattr(place, "values", [place])) for place in places)
        for each in itertools.chain.from_iterable(nested):
            if isinstance(each, ast.Constant) and SENTENCE.search(str(each.value)):
                yield str(each.value)


class TestTextForPeople:
    """It is written at the interfaces; below them stand steps, codes and settings, in words that fit both."""

    def test_below_the_interfaces_none_is_named(self) -> None:
        found = {
            f"{path.relative_to(ROOT)}:{line}": names
            for path in BELOW
            for line, text in literals(path)
            if path.relative_to(ROOT) not in OTHER_PROGRAMS and (names := of_an_interface(text))
        }
        assert found == {}

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("Watch it with: tunesmith runs watch r1", ["tunesmith runs"]),
            ("Give another --out, or --overwrite.", ["--out", "--overwrite"]),
            ("Lower --training.learning_rate", ["--training.learning_rate"]),
            ("Set --columns.", ["--columns."]),
            ("Press Resume to go on.", ["Press Resume"]),
            ("The Playground has it.", ["Playground"]),
            ("Give another `out`, with torchrun --nnodes=2; Tunesmith and torchrun do.", []),
        ],
    )
    def test_it_would_be_seen(self, text: str, names: list[str]) -> None:
        assert of_an_interface(text) == names

    def test_much_is_looked_at(self) -> None:
        assert len(BELOW) > 120
        assert sum(1 for path in BELOW for _ in literals(path)) > 5000
        assert {"--out", "--to", "--base-model", "--from-step", "--runs"} <= OPTIONS
        assert len(BUTTONS) > 15
        said = [text for path in BACKEND if path not in BELOW for _, text in literals(path)]
        assert any(of_an_interface(text) for text in said)

    def test_each_marked_setting_is_one_that_the_terminal_has(self) -> None:
        marked = {
            found[1]
            for path in BELOW
            for _, text in literals(path)
            for found in MARKED_SETTING.finditer(text)
        }
        known = (
            OPTIONS | SETTINGS | {f"--columns.{part}" for parts in PARTS.values() for part in parts.required}
        )
        assert {"out", "base_model", "to"} <= marked
        assert {name for name in marked if not {with_flags(f"`{name}`")} & known} == set()

    def test_pages_know_no_sentence_by_its_words(self) -> None:
        found = [
            f"{path.relative_to(ROOT)}: {text}" for path in APP for text in matched_sentences(parsed(path))
        ]
        assert found == []

    @pytest.mark.parametrize(
        "line",
        [
            "advice.startswith('Resume it with: tunesmith')",
            "'was trained on this' in message",
            "re.match('No such run', text)",
            "text == 'There is none.'",
            "text.startswith(('new', 'Resume it with'))",
            "f'{name} is not there' in text",
        ],
    )
    def test_a_sentence_that_is_matched_would_be_seen(self, line: str) -> None:
        assert len(list(matched_sentences(ast.parse(line)))) == 1
        assert list(matched_sentences(ast.parse("name.startswith('data.') or kind == 'new'"))) == []


# --- settings ---------------------------------------------------------------------------------------------

FIELDS = dotted_names(config_schema())
ONLY_CHECKED = {"version"}  # a Literal: reading the file is what uses it


@cache
def attributes_read() -> frozenset[str]:
    """``section.key`` of every attribute that is read, by the last name before the dot; a section reads its own."""
    found = set()
    for path in ROOMS:
        sections = [node for node in parsed(path).body if isinstance(node, ast.ClassDef)]
        for section in sections:
            found |= {
                f"{section.name.removesuffix('Config').lower()}.{key}" for key in _read(section, "self")
            }
        found |= {f"{owner}.{key}" for owner, key in _attributes(parsed(path)) if owner != "self"}
    return frozenset(found)


def _read(node: ast.AST, wanted: str) -> set[str]:
    return {key for owner, key in _attributes(node) if owner == wanted}


def _attributes(node: ast.AST) -> Iterator[tuple[str, str]]:
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Load):
            before = each.value
            owner = before.id if isinstance(before, ast.Name) else getattr(before, "attr", "")
            yield owner.lstrip("_"), each.attr


class TestSettings:
    @pytest.mark.parametrize("field", [field for field in FIELDS if field not in ONLY_CHECKED])
    def test_something_reads_it(self, field: str) -> None:
        section, _, key = field.rpartition(".")
        assert f"{section or 'config'}.{key}" in attributes_read()

    def test_a_setting_that_nobody_reads_would_be_seen(self) -> None:
        assert "training.colour" not in attributes_read()
        assert "training.learning_rate" in attributes_read()


# --- the wheel --------------------------------------------------------------------------------------------


class TestWheel:
    @pytest.fixture(scope="class")
    @classmethod
    def wheel(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return built(tmp_path_factory.mktemp("wheel"))

    def test_w27_every_module_is_in_it(self, wheel: Path) -> None:
        names = set(zipfile.ZipFile(wheel).namelist())
        assert {path.relative_to(ROOT).as_posix() for path in [*BACKEND, *APP]} - names == set()
        assert {
            "app/.streamlit/config.toml",
            "app/views/logo.svg",
            "app/examples/food-category.yaml",
            "backend/training/general.jsonl",
            *("backend/py.typed", "app/py.typed", "tunesmith/py.typed"),
        } <= names

    def test_nothing_else_is(self, wheel: Path) -> None:
        tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"app", "backend", "tunesmith"}
        assert len(tops) == 4
        assert tops > {"backend"}

    def test_it_carries_the_command_and_the_licence(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            texts = {
                Path(name).name: archive.read(name).decode() for name in archive.namelist() if "info/" in name
            }
        assert "tunesmith = tunesmith.__main__:main" in texts["entry_points.txt"]
        assert "Apache" in texts["LICENSE"]
        assert "USDA" in texts["NOTICE"]

    def test_it_comes_up_from_the_wheel_alone(self, wheel: Path, tmp_path: Path) -> None:
        script = (
            "import sys; sys.path.insert(0, sys.argv.pop()); from backend.commands import cli;"
            "print(cli.__file__); cli.main(['--version'])"
        )
        child = python("-c", script, str(wheel), cwd=tmp_path)
        assert child.stdout.splitlines()[0] == f"{wheel}/backend/commands/cli.py"


SPELT_ONCE = {
    "backend/manager/programs.py": r"['\"]backend\.(trainer_main|manager\.\w+|server\.process|commands\.cli)['\"]",
    "backend/run/metrics.py": r"['\"](train|eval)/\w+['\"]",
    "backend/run/handover.py": r"TUNESMITH_(ATTEMPT|RUN_LOCK_FD|RUN_TOKEN|MEETING_FILE)",
    "backend/run/checkpoints.py": r"['\"]step-",
    "backend/utils/file_utils.py": r"\.tmp['\"]",
}
"""The only module in which a name stands that others would have to spell alike: tags, variables, folders."""


@pytest.mark.parametrize("owner", SPELT_ONCE)
def test_a_name_is_spelt_in_one_place(owner: str) -> None:
    name = re.compile(SPELT_ONCE[owner])
    found = {str(path.relative_to(ROOT)) for path in (*ROOMS, *APP) if name.search(path.read_text("utf-8"))}
    assert found == {owner}
