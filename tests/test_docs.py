"""What README and docs say can be typed and opened."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml
from cyclopts import App

from backend.commands.cli import app, main
from backend.data.checks import ALL
from backend.run.config import config_schema
from backend.run.files import Part, RunFiles
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides, dotted_names, parse_flags
from benchmarks import naive_bayes, reference, what_fits
from tests.house import ROOMS, ROOT, parsed
from tests.mutants.faults import FAULTS
from tests.pages import FENCE, PAGES, blocks, text_of, typed_lines

SETTINGS = dotted_names(config_schema())
_COMMAND = re.compile(r"(?:\.venv/bin/)?tunesmith(?= )(.*)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|Users|work|tmp|mnt|opt|var)/\w|[A-Z]:\\\\")


def shown_commands() -> Iterator[tuple[str, str]]:
    """(page, words after ``tunesmith``) of every command in a fenced block, in inline code and in the help."""
    for page in PAGES:
        spans = [body for _, body in FENCE.findall(text_of(page))]
        spans += re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(page)))
        for line in "\n".join(spans).splitlines():
            found = _COMMAND.match(line.strip().removeprefix("$ "))
            if found:
                yield page.name, found[1].split(" #")[0].strip()


def made_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))


COMMANDS = sorted(set(shown_commands()))
LINKS = sorted({(page, link) for page in PAGES for link in _LINK.findall(FENCE.sub("", text_of(page)))})
LOCAL = [(page, link) for page, link in LINKS if not re.match(r"[a-z]+:|#", link)]
TARGETS = sorted(
    {
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE)
    }
)


def test_the_tests_below_see_the_docs() -> None:
    assert len(PAGES) > 5
    assert ROOT / "README.md" in PAGES
    assert len(COMMANDS) > 10
    assert len(LOCAL) > 5
    assert {("README.md", "demo"), ("README.md", "test")} <= set(TARGETS)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in {"CHANGELOG.md", "families.md"}],
    ids=lambda page: page.name,
)
def test_no_line_of_prose_is_longer_than_118(page: Path) -> None:
    lines = FENCE.sub("", text_of(page)).splitlines()
    assert [line for line in lines if len(line) > 118 and not line.startswith("|")] == []


@pytest.mark.parametrize(("page", "target"), TARGETS)
def test_every_target_exists(page: str, target: str) -> None:
    assert target in made_targets()


def test_help_lists_every_target_that_is_for_people() -> None:
    described = set(re.findall(r"^([a-z-]+):.*##", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert made_targets() - described == set()


def resolve(words: list[str]) -> tuple[App, list[str]]:
    """The command that the words name, and what is left of them."""
    command: App = app
    while words and not words[0].startswith("-") and words[0] in command:
        command, words = command[words[0]], words[1:]
    return command, words


def options(command: App) -> set[str]:
    """Every ``--flag`` of a command."""
    arguments = command.assemble_argument_collection() if command.default_command else []
    return {name for argument in arguments for name in argument.names if name.startswith("--")} | {
        "--help",
        "--version",
    }


def is_placeholder(word: str) -> bool:
    """Whether a word of a synopsis stands for something else, such as [CONFIG] or …"""
    return bool(re.match(r"[\[(|…]", word)) or word in {"…]", "value", "…"}


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_w28_every_command_exists_with_its_flags(page: str, words: str) -> None:
    command, rest = resolve(shlex.split(words.replace("…", "")))
    flags = [word.strip("[]()").partition("=")[0] for word in rest if word.strip("[(").startswith("--")]
    settings = {f"--{name}" for name in [*SETTINGS, "section.key"]}
    known = options(command) | (settings if command in (app["train"], app["estimate"]) else set())
    sections = {flag: flag.partition(".")[0] for flag in flags if "." in flag}  # --augmentation.noise
    flags = [sections[flag] if sections.get(flag) in options(command) else flag for flag in flags]
    assert command.default_command or {*rest} & {"--help", "--version"} or (command is not app and not rest)
    assert [flag for flag in flags if flag not in known and flag.replace("-", "_") not in known] == []


@pytest.mark.parametrize(("page", "words"), [pair for pair in COMMANDS if pair[1].startswith("train ")])
def test_every_training_command_is_a_configuration(page: str, words: str) -> None:
    own = {"--dry-run", "--detach", "--queue", "--json"}
    rest = [word for word in shlex.split(words)[1:] if not is_placeholder(word) and word not in own]
    first = next((number for number, word in enumerate(rest) if word.startswith("--")), len(rest))
    changes = {name: value for name, value in parse_flags(rest[first:]).items() if name in SETTINGS}
    assert parse_config(apply_overrides({"data": {"train": "rows.jsonl"}}, changes))
    assert first <= 1


@pytest.mark.parametrize(("page", "link"), LOCAL, ids=lambda part: getattr(part, "name", part))
def test_every_link_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = page.parent / path
    assert target.exists()
    headings = re.findall(r"^#+ (.+)$", text_of(target), re.MULTILINE) if anchor else []
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert anchor in anchors | {""}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "Makefile", *ROOT.glob("examples/*.yaml")], ids=lambda page: page.name
)
def test_no_page_speaks_of_one_machine(page: Path) -> None:
    assert _MACHINE.findall(text_of(page)) == []


@pytest.mark.parametrize("text", ["see /home/" + "me/x", "in /opt/" + "models", "at C:\\\\Users"])
def test_a_machine_would_be_seen(text: str) -> None:
    assert _MACHINE.search(text)


def test_every_name_in_an_inline_code_span_that_looks_like_a_setting_is_one() -> None:
    sections = {name.partition(".")[0] for name in SETTINGS if "." in name}
    spans = {
        (page.name, span)
        for page in PAGES
        for span in re.findall(rf"`((?:{'|'.join(sections)})\.[a-z][a-z_0-9]*)`", text_of(page))
    }
    files = {".py", ".md", ".json", ".yaml", ".jsonl", ".csv", ".txt", ".safetensors"}
    unknown = {
        span for span in spans if span[1] not in SETTINGS and f".{span[1].rpartition('.')[2]}" not in files
    }
    assert unknown == set()


def test_every_python_example_compiles_and_imports_what_exists() -> None:
    examples = list(blocks("python"))
    assert examples
    for page, body in examples:
        compile(body, page.name, "exec")
        exec("\n".join(line for line in body.splitlines() if line.startswith(("from ", "import "))), {})  # noqa: S102


def test_the_rows_that_the_readme_shows_can_be_checked_and_trained_on_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (shown,) = [body for page, body in blocks("json") if page.name == "README.md"]
    (tmp_path / "rows.jsonl").write_text(shown, encoding="utf-8")
    assert main(["data", "check", "rows.jsonl"]) == 0
    assert (
        main(
            ["train", "--data.train", "rows.jsonl", "--dry-run", f"--model.model_name_or_path={tiny_folder}"]
        )
        == 0
    )


def test_every_yaml_example_is_a_configuration() -> None:
    files = [(path, text_of(path)) for path in ROOT.glob("examples/*.yaml")]
    shown = [(page, body) for page, body in blocks("yaml") if "data:" in body]
    assert files
    for path, body in [*files, *shown]:
        assert parse_config(yaml.safe_load(body)).data.train, path


def test_the_exit_codes_are_those_of_the_trainer() -> None:
    from backend.run.outcomes import STOP_EXIT_CODES

    told = text_of(ROOT / "docs" / "cli.md")
    codes = set(re.findall(r"^\| ([\d, ]+) \|", told, re.MULTILINE))
    named = {code.strip() for group in codes for code in group.split(",")}
    assert named == {"0", "1", "2", "3", *map(str, STOP_EXIT_CODES.values())}


def test_every_command_stands_in_the_reference() -> None:
    told = text_of(ROOT / "docs" / "cli.md")
    names = [name for name in app if not name.startswith("-")]
    assert [name for name in names if f"tunesmith {name}" not in told] == []
    assert len(names) > 5


def test_every_module_stands_in_the_architecture() -> None:
    told = set(re.findall(r"`([\w/]+)`", text_of(ROOT / "docs" / "architecture.md")))
    modules = [path.relative_to(ROOT / "backend").with_suffix("") for path in ROOMS]
    names = {str(path): {"/".join(path.parts[1:]), str(path)} for path in modules}
    whole = ("commands/", "data/checks/")  # told of as one
    assert [name for name, ways in names.items() if not name.startswith(whole) and not ways & told] == []
    assert {"commands/", "checks/"} <= told


def changes() -> Iterator[tuple[str, Path, list[str]]]:
    """(wish, file, names before its link) for every link in the table of changes of docs/architecture.md."""
    page = ROOT / "docs" / "architecture.md"
    table = text_of(page).split("## I want to change")[1].split("\n## ")[0]
    for wish, answer in re.findall(r"^\| (?!I want|-)(.+?) \| (.+) \|$", table, re.MULTILINE):
        for words, link in re.findall(r"([^;\[]*)\[[^\]]*\]\(([^)#]+)", answer):
            yield wish, page.parent / link, re.findall(r"`(\w+)`", words)


def defined_in(file: Path) -> set[str]:
    """Every function, class, field and constant of a Python file; nothing of any other file."""
    nodes = list(ast.walk(parsed(file))) if file.suffix == ".py" else []
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return names | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


CHANGES = list(changes())


@pytest.mark.parametrize(("wish", "file", "names"), CHANGES, ids=lambda part: getattr(part, "name", None))
def test_what_is_to_be_changed_stands_where_the_architecture_says(
    wish: str, file: Path, names: list[str]
) -> None:
    assert file.exists(), wish
    assert [name for name in names if name not in defined_in(file)] == [], wish


def test_every_change_names_a_place_in_the_code() -> None:
    wishes = {wish for wish, *_ in CHANGES}
    assert {wish for wish, _, names in CHANGES if names} == wishes
    assert len(wishes) > 15


def test_every_part_of_a_run_folder_stands_in_its_specification() -> None:
    told = text_of(ROOT / "docs" / "run-folder.md")
    parts = [part.name for part in vars(RunFiles).values() if isinstance(part, Part)]
    assert [name for name in parts if f"`{name}" not in told] == []
    assert len(parts) > 15


def test_the_readme_counts_the_kinds_of_faults_that_the_data_check_knows() -> None:
    (told,) = re.findall(r"(\d+) kinds of fault", text_of(ROOT / "README.md"))
    assert int(told) == len({check.number for check in ALL})


# --- what is typed ----------------------------------------------------------------------------------------

PROGRAMS = {
    "make",
    "tunesmith",
    ".venv/bin/tunesmith",
    ".venv/bin/python",
    "python3",
    "pip",
    "cp",
    "torchrun",
}


def test_every_line_of_a_console_block_begins_with_a_program_that_is_there() -> None:
    lines = typed_lines()
    assert [(page, line) for page, line in lines if line.split()[0] not in PROGRAMS] == []
    assert len(lines) > 50


def test_the_dockerfile_copies_what_is_there() -> None:
    lines = re.findall(r"^COPY (?!--from)(.+)$", text_of(ROOT / "docs" / "Dockerfile"), re.MULTILINE)
    sources = [name for line in lines for name in line.split()[:-1]]
    assert [name for name in sources if not (ROOT / name).exists()] == []
    assert {"pyproject.toml", "NOTICE", "constraints.txt"} <= {*sources}


# --- pages and tables that are written from the code ------------------------------------------------------


@pytest.mark.parametrize("name", ["settings.md", "api.md"])
def test_a_page_that_is_written_from_the_code_is_current(name: str) -> None:
    assert text_of(ROOT / "docs" / name) == reference.PAGES[name](), "run: make reference"


def test_every_error_code_has_its_entry() -> None:
    told = re.findall(r"^## (.+)$", text_of(ROOT / "docs" / "errors.md"), re.MULTILINE)
    assert sorted({code for code, *_ in reference.raised()}) == told, "run: make reference"
    assert len(told) > 180


def test_a_code_that_is_handed_on_is_in_the_code() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOMS)
    spelt = {code for code in reference.HANDED_ON if not code.startswith("non-finite-")}
    assert [code for code in sorted(spelt) if f'"{code}"' not in sources] == []
    assert 'f"non-finite-{what}"' in sources


@pytest.mark.parametrize("page", ["README.md", "docs/hardware.md"])
def test_the_table_of_what_fits_is_that_of_the_estimates(page: str) -> None:
    assert f"<!-- what fits -->\n\n{what_fits.table()}\n\n<!-- end -->" in text_of(ROOT / page), (
        "run: make reference"
    )


# --- figures ----------------------------------------------------------------------------------------------

FIGURES = json.loads(text_of(ROOT / "docs" / "figures.json"))
_FIGURE = re.compile(r"\d[\d.,]*(?: min \d+ s| (?:%|s|ms|min|h|GB|MB|tokens/s)(?!\w)|x\b)")


def test_every_figure_of_the_readme_is_kept_with_its_date_machine_and_command() -> None:
    prose = re.sub(
        r"<!-- what fits -->.*?<!-- end -->", "", FENCE.sub("", text_of(ROOT / "README.md")), flags=re.S
    )
    known = {figure["value"] for figure in FIGURES["figures"].values()}
    assert {*_FIGURE.findall(prose)} - known == set()
    assert len(_FIGURE.findall(prose)) > 4


@pytest.mark.parametrize("name", FIGURES["figures"])
def test_a_figure_stands_where_it_was_measured(name: str) -> None:
    figure = FIGURES["figures"][name]
    measured = figure.get("from", [figure["value"]])
    source = text_of(ROOT / figure["source"])
    assert [value for value in measured if value not in source] == []
    assert figure["machine"] in FIGURES["machines"]
    assert date.fromisoformat(figure["date"])
    assert figure["command"]


def test_a_figure_that_nobody_measured_would_be_seen() -> None:
    assert _FIGURE.findall("in 4 min 56 s, 89.4 % instead of 0.0 %, 3.3x, 16 bits") == [
        *("4 min 56 s", "89.4 %", "0.0 %", "3.3x")
    ]


def test_naive_bayes_scores_what_the_pages_say() -> None:
    hits, asked = naive_bayes.right()
    assert f"{hits / asked:.1%}".replace("%", " %") == FIGURES["figures"]["naive-bayes"]["value"]


# --- docs/testing.md --------------------------------------------------------------------------------------

TESTING = text_of(ROOT / "docs" / "testing.md")
NAMED_TESTS = sorted(set(re.findall(r"`((?:tests|benchmarks)/[\w/.]+(?:::\w+)?)`", TESTING)))


@pytest.mark.parametrize("named", NAMED_TESTS)
def test_every_test_that_the_page_names_is_there(named: str) -> None:
    file, _, name = named.partition("::")
    assert (ROOT / file).exists()
    assert {name} - {""} <= defined_in(ROOT / file)


def test_every_fault_that_the_page_names_is_planted() -> None:
    named = set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", TESTING)) - {"italics"}
    assert named - {fault.name for fault in FAULTS} == set()
    assert len(named) > 40


def test_the_page_names_every_mistake_of_the_earlier_app() -> None:
    rows = TESTING.split("## Mistakes that must not come back")[1].split("\n## ")[0]
    assert re.findall(r"\bW(\d+) ", rows) == [str(number) for number in range(1, 29)]
    tests = re.findall(r"::test_(w[\d_w]+)", rows)
    assert len(tests) == 26
    assert len(NAMED_TESTS) > 100
