"""Templates tried in a child with little memory and time: backend/core/templates/guard.py."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from backend.core.templates import guard
from backend.core.templates.guard import MAX_CHARACTERS, try_template
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError
from tests.tiny import FAMILIES, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[4]
GROW = "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
DOUBLING = "{% set ns = namespace(x='a') %}" + GROW + "{{ ns.x | length }}"
NESTED = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "base"])
def test_real_ones_pass(family: str) -> None:
    template = tiny_tokenizer(family).chat_template  # type: ignore[arg-type]
    assert isinstance(template, str)
    assert try_template(template) is None


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{{ raise_exception('no') }}",
        "{% broken",
        "{{ undefined.field.field }}",
        "{% generation %}x{% endgeneration %}{{ messages | tojson }}",
        "{% for m in messages %}{% break %}{% endfor %}",
    ],
)
def test_one_that_refuses_or_is_broken_is_not_this_rooms_affair(template: str) -> None:
    assert try_template(template) is None


def test_packages_that_only_this_process_finds_are_found_in_the_child(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in guard._PACKAGES:
        (packages / name).symlink_to(Path(str(find_spec(name).origin)).parent)  # type: ignore[union-attr]
    said = (
        "from backend.core.templates.guard import _homes, try_template; try_template('{{ messages }}'); "
        "print(*_homes())"
    )
    bare = Path(sys.executable).resolve()
    ended = subprocess.run(
        [bare, "-c", said],
        env={"PYTHONPATH": f"{packages}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.split() == [str(packages)], ended.stderr


def test_a_child_that_breaks_down_is_not_the_templates_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_TRIAL", "import no_such_package")
    with pytest.raises(ModelError, match="No module named 'no_such_package'") as caught:
        try_template("one that nobody tried")
    assert caught.value.code == "template-not-tried"
    assert ".." not in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ 'a' * 10**10 }}", "bytes"),
        (DOUBLING, "bytes"),
        ("{% for i in range(90000) %}{{ 'many words of it' }}{% endfor %}", "characters of a few words"),
        ("x" * (MAX_CHARACTERS + 1), "characters long"),
    ],
)
def test_s05_a_greedy_one_is_refused(template: str, told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        try_template(template)
    assert caught.value.code == "greedy-template"
    assert "model.chat_template" in str(caught.value)


@pytest.mark.timeout(60)
def test_s05_one_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = guard._TRIAL.replace("RLIMIT_CPU, (5, 5)", "RLIMIT_CPU, (1, 1)")
    monkeypatch.setattr(guard, "_TRIAL", trial)
    with pytest.raises(ModelError, match="cannot render a few words"):
        try_template(NESTED)


def test_s05_one_that_sleeps_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_TRIAL", "import time; time.sleep(60)")
    monkeypatch.setattr(guard, "MAX_SECONDS", 0.1)
    with pytest.raises(ModelError, match="does not come to an end"):
        try_template("another one")


def test_s05_no_tokenizer_comes_with_a_greedy_template(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ 'a' * 10**10 }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "greedy-template"


@pytest.mark.parametrize(
    "code",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch harm') }}",
        "{{ (lambda: 1)() }}",
        "{{ self._TemplateReference__context }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_s05_code_in_a_template_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = code
    tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_tokenizer(tmp_path / "model")
    text = ""
    try:
        text = str(loaded.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False))
    except Exception as error:  # noqa: BLE001 - whatever the sandbox says
        text = type(error).__name__
    assert "root:" not in text
    assert "<class" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
