"""Journeys in a real Chromium against a real studio, which trains a tiny real model as its example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.manager import process_manager
from backend.run.folder import RunDir
from tests.app.browser.furnished import Furnished, furnish
from tests.app.browser.served import CHROMIUM, PATIENCE_MS, ServedStudio, chromium
from tests.runs import ACCEPTED, learner_folder, write_rows

EXAMPLE: dict[str, object] = ACCEPTED | {
    "data.validation": 0.2,
    "model.dtype": "float32",
    "tuning.lora_r": 4,
    "training.max_steps": 100_000,
    "training.per_device_train_batch_size": 4,
    "training.save_steps": 0,
    "evaluation.eval_steps": 0,
}
"""An example on a tiny model that goes on until somebody ends it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a browser."""
    here = Path(__file__).parent
    missing = pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"
    )
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(missing)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file. Not for longer: while it lives, nothing else in its thread may await."""
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Furnished]:
    """The studio that is only looked at, for all."""
    rows = tmp_path_factory.mktemp("rows") / "foods.jsonl"
    with furnish(tmp_path_factory.mktemp("furnished"), rows) as studio:
        yield studio


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[ServedStudio]:
    """A studio over a new folder with a tiny example; whatever still runs there when the test is over is ended."""
    given = {"model.model_name_or_path": learner_folder(tmp_path / "model")}
    given |= {"data.train": write_rows(tmp_path / "foods.jsonl")}
    environment = {
        f"TUNESMITH__{name.upper().replace('.', '__')}": str(v) for name, v in (EXAMPLE | given).items()
    }
    with ServedStudio(tmp_path, **environment) as served:
        yield served
    for run in filter(RunDir.is_held, RunDir.all_under(tmp_path / "runs")):
        process_manager.kill(run)


@pytest.fixture
def asked() -> list[str]:
    """Every address that a page asked for."""
    return []


@pytest.fixture
def open_tab(browser: Browser, asked: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens tabs of one person; closed when the test is over."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    context.on("request", lambda request: asked.append(request.url))

    def open_(url: str) -> Page:
        page = context.new_page()
        page.goto(url)
        return page

    yield open_
    context.close()
