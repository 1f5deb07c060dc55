"""Models that need not be fetched: app/local_models.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app import local_models as module
from app.local_models import local_models
from app.studio import studio
from app.views.text import title_of
from backend.run.model_names import MODEL_ALIASES
from tests.app.states import Runs
from tests.app.test_exports import make_export


@pytest.fixture(autouse=True)
def _fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cached_models", lambda: ["someone/model"])


def test_without_runs_what_came_with_us_and_what_was_fetched(root: Path) -> None:
    assert local_models(studio()) == {
        **dict.fromkeys(MODEL_ALIASES, "comes with Tunesmith"),
        "someone/model": "fetched from the Hugging Face Hub",
    }


def test_what_runs_began_with_made_and_left(root: Path, runs: Runs, tiny_folder: Path) -> None:
    run = runs.finished("whole", model=str(tiny_folder))
    shutil.copytree(tiny_folder, run.model)
    runs.finished("its base went", model=str(root / "nowhere"))
    merged = make_export(root, "run-1-merged", target="merged")
    shutil.copytree(tiny_folder, merged, dirs_exist_ok=True)
    make_export(root, "run-1-gguf")
    found = local_models(studio())
    assert list(found)[: len(MODEL_ALIASES)] == list(MODEL_ALIASES)
    assert {name: found[name] for name in list(found)[len(MODEL_ALIASES) + 1 :]} == {
        str(run.model): f"trained whole by {title_of(run.id)}",
        str(tiny_folder): f"base of {title_of(run.id)}",
        str(merged): "exported, merged",
    }
