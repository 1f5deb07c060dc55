"""The page Export: app/pages/export.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from streamlit.testing.v1 import AppTest

from app import commands as module
from app.exports import exports_folder
from backend.export.forms import Target
from tests.app.conftest import OpenPage
from tests.app.reading import unescaped
from tests.app.states import Runs
from tests.app.test_exports import make_export
from tests.app.test_hostile import EVIL, assert_only_shown
from tests.app.waiting import at_work, press, settled, texts


def look_at(app: AppTest, view: str) -> AppTest:
    """What is behind an export."""
    return app.segmented_control[0].set_value(view).run()


def test_nothing_to_take_away_yet(open_page: OpenPage) -> None:
    assert "Nothing to export yet" in texts(open_page("export"))


def test_only_finished_runs_are_offered(open_page: OpenPage, runs: Runs) -> None:
    runs.running()
    done = runs.finished("done")
    app = open_page("export")
    assert len(app.selectbox(key="export run").options) == 1
    assert app.selectbox(key="export run").value == done.id


def test_every_form_can_be_chosen(open_page: OpenPage, runs: Runs) -> None:
    runs.finished("done")
    titles = ["GGUF", "Ollama", "Adapter", "Merged", "LoRA as GGUF", "ONNX"]
    assert open_page("export").radio(key="export target").options == titles
    assert len(titles) == len(get_args(Target))


def test_what_cannot_be_exported_is_a_sentence(open_page: OpenPage, runs: Runs, root: Path) -> None:
    runs.finished("done")  # its adapter is empty
    app = press(open_page("export"), "Export and check")
    assert app.error
    assert [button.label for button in app.button if button.label == "Try again"]
    assert not list(exports_folder(root).glob("[!.]*"))


def test_the_command_says_what_was_chosen(
    open_page: OpenPage, runs: Runs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.finished("done")
    app = open_page("export")
    app.radio(key="export target").set_value("merged").run()
    app.selectbox(key="precision merged").set_value("float16").run()
    press(app, "Export and check")
    out = exports_folder(root) / f"{run.id}-merged-float16"
    words = ["export", str(run.path), "--to", "merged", "--out", str(out), "--rows=32", "--dtype", "float16"]
    assert list(app.session_state["exporting"]) == words
    assert at_work(module.commands()) == []
    app.toggle[0].set_value(True).run()
    press(app, "Export and check")
    best = [*words[:5], str(exports_folder(root) / f"{run.id}-best-merged-float16"), *words[6:]]
    assert list(app.session_state["exporting"]) == [*best, "--checkpoint", "best"]


def test_few_bits_can_be_rounded_by_an_importance_matrix(open_page: OpenPage, runs: Runs, root: Path) -> None:
    runs.finished("done")
    app = open_page("export")
    assert len(app.toggle) == 1
    app.selectbox(key="precision gguf").set_value("Q4_K_M").run()
    app.toggle(key="imatrix gguf").set_value(True).run()
    press(app, "Export and check")
    assert list(app.session_state["exporting"])[-3:] == ["--quantization", "Q4_K_M", "--imatrix"]


def test_an_export_with_its_certificate_files_and_card(open_page: OpenPage, root: Path) -> None:
    make_export(root)
    app = open_page("export")
    assert "Worth a look" in texts(app)
    assert not app.code
    assert "model.gguf · 100 B" in unescaped(texts(look_at(app, "Files")))
    assert len(app.get("download_button")) == 3
    assert "<script>alert(1)</script>" in look_at(app, "Model card").code[0].value
    assert look_at(app, "Checks").dataframe[0].value["finding"].tolist() == ["<b>31</b> of 32 are equal."]


def test_what_an_export_lacks_is_not_offered(open_page: OpenPage, root: Path) -> None:
    folder = make_export(root)
    for name in ("README.md", "certificate.json"):
        (folder / name).unlink()
    assert open_page("export").segmented_control[0].options == ["Files", "Publish"]


def test_red_is_not_published(open_page: OpenPage, root: Path) -> None:
    make_export(root, light="red")
    app = look_at(open_page("export"), "Publish")
    assert any("not published" in each.value for each in app.error)
    assert not [button for button in app.button if button.label == "Upload"]


def test_publishing_needs_a_token_from_the_environment(
    open_page: OpenPage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    make_export(root)
    app = look_at(open_page("export"), "Publish")
    assert next(button for button in app.button if button.label == "Upload").disabled
    assert "HF_TOKEN" in texts(app)


def test_a_dry_run_says_what_would_leave(open_page: OpenPage, root: Path, runs: Runs) -> None:
    folder = make_export(root)
    certificate = json.loads((folder / "certificate.json").read_text())
    run = runs.finished("done")
    (folder / "certificate.json").write_text(json.dumps(certificate | {"run": run.id}))
    app = look_at(open_page("export"), "Publish")
    app.text_input(key=f"repo {folder.name}").set_value("me/model").run()
    press(app, "See what would be uploaded")
    assert "Would upload" in texts(settled(app))


def test_deleting_asks_and_names_what_goes(open_page: OpenPage, root: Path) -> None:
    folder = make_export(root)
    app = open_page("export")
    next(button for button in app.button if button.label == "Delete").click().run()
    assert f"**{folder.name}** is deleted for good" in unescaped(texts(app))
    assert folder.is_dir()
    next(button for button in app.button if button.label == "Delete it").click().run()
    assert not folder.exists()


def test_a_hostile_certificate_is_only_shown(open_page: OpenPage, root: Path) -> None:
    folder = make_export(root)
    found = json.loads((folder / "certificate.json").read_text())
    hostile = {"reasons": [EVIL], "target": EVIL, "precision": EVIL, "run": EVIL}
    (folder / "certificate.json").write_text(json.dumps(found | hostile))
    (folder / "![x](y) **b**").write_text(EVIL)
    app = open_page("export")
    assert_only_shown(app)
    for view in ("Checks", "Files", "Model card"):
        assert_only_shown(look_at(app, view))
