"""Write what the docs say straight from the code: settings.md, errors.md, api.md and the tables of what fits.

``make reference``. Settings come from the schema of a configuration, errors from the places that raise them, and the
Python API from its docstrings; only the schema is imported. ``tests/test_docs.py`` checks that they are current.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.run.config import RunConfig, config_schema
from backend.utils.config_utils import dotted_names, field_schema
from benchmarks.what_fits import table

ROOT = Path(__file__).parents[1]
WIDTH = 114

SETTINGS_HEAD = """# Settings

Written by `make reference` from `backend/run/config.py`, the only place where settings are defined.

Only `data.train` is required. A setting is a key of the YAML file, a flag (`--training.learning_rate 1e-4`) or an
environment variable (`TUNESMITH__TRAINING__LEARNING_RATE=1e-4`); flags win over the environment, and the environment
over the file. An unknown name is an error with the nearest known one. `tunesmith config init run.yaml` writes a file
with all of them, `tunesmith config schema` prints them for editors."""
ERRORS_HEAD = """# Error codes

Written by `make reference` from the places in the code that raise them.

Every error says what is wrong, where, and what to do, and has a stable code, which `--json` and the server print.
This page lists all codes in alphabetical order with their words; `…` stands for what differs from case to case. The
[server](serving.md#errors) writes codes with underscores, beside the HTTP status; those that only it gives are listed
so. For symptoms without an error see [Troubleshooting](troubleshooting.md).
"""
API_HEAD = """# Python API

Written by `make reference` from the docstrings. These classes and functions are meant to be used from outside;
everything else may change. Install Tunesmith into your environment or run from a checkout: the packages are called
`backend` and `app`.

```python
from backend.inferencer import Inferencer

with Inferencer("runs/my-run") as model:
    print(model.infer("Which store section does this food belong to? Bratwurst, pork"))
    for piece in model.stream("A question", temperature=0.7, seed=1):
        print(piece, end="")
```

To train from Python, start the command (`tunesmith train run.yaml --json`): training belongs in a process of its own.
"""
API = (  # file, name, and the members to show; none for all that are public
    ("backend/inferencer.py", "Inferencer", ()),
    ("backend/inference/sampling.py", "Sampling", ("-",)),
    ("backend/inference/constraint.py", "Constraint", ("choice", "regex", "json")),
    ("backend/inference/answer.py", "Answer", ("-",)),
    (
        "backend/run/folder.py",
        "RunDir",
        (
            *("open", "find", "all_under", "state", "status", "latest_attempt", "read_config_text"),
            *("read_environment", "read_outcome", "metrics", "samples", "flight"),
            *("request_stop", "is_held", "hold_for_reading"),
        ),
    ),
    ("backend/export/job.py", "export", ()),
    ("backend/export/job.py", "ExportResult", ("-",)),
    ("backend/errors.py", "TunesmithError", ("-",)),
)


# --- settings ---------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Return docs/settings.md: a table for each section of the configuration."""
    schema, names = config_schema(), dotted_names(config_schema())
    parts, section = [SETTINGS_HEAD], None
    for name in names:
        head, _, key = name.rpartition(".")
        if head != section:
            section = head
            parts += [_section_head(head)]
        field = field_schema(name, schema)
        default = "required" if "default" not in field else f"`{json.dumps(field['default'])}`"
        parts.append(f"| `{key}` | {_kind(field)} | {default} | {_cell(field.get('description', ''))} |")
    return "\n".join(parts) + "\n"


def _section_head(name: str) -> str:
    about = RunConfig if not name else RunConfig.model_fields[name].annotation
    words = "At the top of the file." if not name else textwrap.dedent(str(about and about.__doc__)).strip()
    title = f"## {name}" if name else "## Top level"
    return f"\n{title}\n\n{words}\n\n| setting | values | default | |\n|---|---|---|---|"


def _kind(field: Mapping[str, Any]) -> str:
    """Return what a field may be, in a few words."""
    if "anyOf" in field:
        kinds = [_kind(one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = {
        "string": "text",
        "integer": "whole number",
        "boolean": "true, false",
        "object": "names and values",
    }
    words = kind.get(field.get("type", ""), field.get("type", "value"))
    if field.get("type") == "array":
        words = "list"
    bounds = [
        f"{word} {field[key]:,}"
        for key, word in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in field
    ]
    return f"{words} {', '.join(bounds)}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


# --- errors -----------------------------------------------------------------------------------------------


HANDED_ON = {  # codes that a function is given by its caller, and their words
    "bad-config": ("…: …", "All problems of a configuration are told at once, each with its remedy."),
    "damaged-config": ("… is damaged.", "Give a folder in Hugging Face layout, with a whole config.json."),
    "server-failed": ("The server did not start. …", "Mend that, and try again."),
    "tensorboard-failed": ("TensorBoard did not start. …", "Mend that, and try again."),
    "damaged-tokenizer": (
        "… is damaged.",
        "Give a folder in Hugging Face layout, with a whole tokenizer.json.",
    ),
    "no-tokenizer": ("… has no readable tokenizer.json.", "Give a folder in Hugging Face layout."),
    "non-finite-gradient": (
        "The gradient became … at step …, in a step with the rows …",
        "Lower training.learning_rate and look at these rows.",
    ),
    "non-finite-loss": (
        "The loss became … at step …, in a step with the rows …",
        "Lower training.learning_rate and look at these rows.",
    ),
    "bad_value": ("HTTP 400. …: …", ""),
    "missing_field": ("HTTP 400. Missing field: ….", ""),
    "unsupported_field": ("HTTP 400. Unsupported field: …. Remove it.", ""),
    "unsupported-architecture": ("GGUF export does not support ….", "Export it with `to=merged` instead."),
    "unsupported-positions": ("GGUF export does not support ….", "Export it with `to=merged` instead."),
}


def errors_page() -> str:
    """Return docs/errors.md: every code with what it says and what to do."""
    told: dict[str, list[str]] = {}
    for code, message, remedy in raised():
        line = _said(message, remedy)
        lines = told.setdefault(code, [])
        if line and line not in lines:
            lines.append(line)
    parts = [ERRORS_HEAD]
    for code in sorted(told):
        lines = told[code] or ["The words depend on the case; the error says what to do."]
        parts.append(f"## {code}\n\n" + "\n".join(_bullet(line) for line in lines) + "\n")
    return "\n".join(parts)


def raised() -> Iterator[tuple[str, str, str]]:
    """Yield code, message and remedy of every error that the code makes."""
    yield from ((code, *words) for code, words in HANDED_ON.items())
    for path in sorted(ROOT.glob("backend/**/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            given = {word.arg: word.value for word in call.keywords}
            code = given.get("code")
            if not isinstance(code, ast.Constant) or not isinstance(code.value, str):
                continue
            yield code.value, *_words(call, given)


def _words(call: ast.Call, given: Mapping[str | None, ast.expr]) -> tuple[str, str]:
    name = ast.unparse(call.func)
    if name == "ApiError":
        status, message = call.args[0], call.args[1]
        return f"HTTP {ast.unparse(status)}. {_text(message) or 'The answer says what to change.'}", ""
    first = call.args[0] if call.args else None
    if isinstance(first, ast.List) and first.elts and isinstance(first.elts[0], ast.Call):
        field, message, remedy = [_text(part) for part in first.elts[0].args][:3]
        return f"{field}: {message}", remedy
    return _text(first), _text(given.get("remedy"))


def _text(node: ast.expr | None) -> str:
    """Return a text as it stands in the code, with an ellipsis for what is filled in; empty if that is all of it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + (_text(node.right) or "…")
    if isinstance(node, ast.IfExp):
        return _text(node.body) or _text(node.orelse)
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
    text = re.sub(r"…(\s*…)+", "…", "".join(parts))
    return text if re.search(r"[^…\W]", text) else ""


def _said(message: str, remedy: str) -> str:
    what = f"*{message.strip()}*" if message.strip() else ""
    return " ".join(part for part in (what, remedy.strip()) if part)


def _bullet(line: str) -> str:
    escaped = line.replace("\n", " ").replace("<", "&lt;")
    return textwrap.fill(
        escaped,
        WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


# --- the Python API ---------------------------------------------------------------------------------------


def api_page() -> str:
    """Return docs/api.md: signatures and docstrings of what is meant to be used from outside."""
    return "\n".join([API_HEAD, *(_entry(ROOT / file, name, members) for file, name, members in API)])


def _entry(file: Path, name: str, members: tuple[str, ...]) -> str:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    node = next(
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
    )
    if isinstance(node, ast.FunctionDef):
        return f"## {name}\n\n`from {module} import {name}`\n\n{_signature(node)}\n\n{_doc(node)}\n"
    start = next(
        (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None
    )
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    head = f"## {name}\n\n`from {module} import {name}`\n\n"
    head += (
        f"{_signature(start, name)}\n\n"
        if start
        else f"```text\n{_fields(name, fields)}\n```\n\n"
        if fields
        else ""
    )
    methods = [
        part for part in node.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")
    ]
    shown = [part for part in methods if not members or part.name in members]
    return (
        head
        + f"{_doc(node)}\n"
        + "".join(f"\n### {name}.{part.name}\n\n{_signature(part)}\n\n{_doc(part)}\n" for part in shown)
    )


def _fields(name: str, fields: list[ast.AnnAssign]) -> str:
    inside = ", ".join(ast.unparse(field) for field in fields)
    return _folded(f"class {name}({inside}): ...")


def _signature(node: ast.FunctionDef, name: str = "") -> str:
    kinds = [ast.unparse(decorator) for decorator in node.decorator_list]
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args]
    own = every[:1] if every and every[0].arg in {"self", "cls"} else []
    shown = ast.arguments(
        posonlyargs=[],
        args=[one for one in every if one not in own],
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=arguments.kw_defaults,
        kwarg=arguments.kwarg,
        defaults=arguments.defaults,
    )
    returns = "" if name or node.returns is None else f" -> {ast.unparse(node.returns)}"
    marks = "".join(f"@{kind}\n" for kind in kinds if kind in {"property", "classmethod", "contextmanager"})
    called = f"class {name}" if name else f"def {node.name}"
    return f"```text\n{marks}{_folded(f'{called}({ast.unparse(shown)}){returns}: ...')}\n```"


def _folded(line: str) -> str:
    """Break a long signature at its commas, outside of brackets."""
    if len(line) <= 100:
        return line
    head, rest = line.split("(", 1)
    inside, tail = rest.rsplit(")", 1)
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(inside):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(inside[start:place].strip())
            start = place + 1
    parts.append(inside[start:].strip())
    return f"{head}(\n" + "".join(f"    {part},\n" for part in parts) + f"){tail}"


def _doc(node: ast.AST) -> str:
    text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
    return re.sub(r"``([^`]+)``", r"`\1`", text)


PAGES = {"settings.md": settings_page, "errors.md": errors_page, "api.md": api_page}

_TABLE = re.compile(r"<!-- what fits -->\n.*?<!-- end -->", re.DOTALL)

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "docs" / "hardware.md"):
        filled = _TABLE.sub(
            f"<!-- what fits -->\n\n{table()}\n\n<!-- end -->", path.read_text(encoding="utf-8")
        )
        path.write_text(filled, encoding="utf-8")
