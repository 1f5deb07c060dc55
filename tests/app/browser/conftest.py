"""Journeys in a real Chromium against a real studio, which trains a tiny real model as its example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.manager import process_manager
from backend.run_dir import RunDir
from tests.app.browser.furnished import Furnished, furnish
from tests.app.browser.served import CHROMIUM, PATIENCE_MS, ServedStudio, chromium
from tests.runs import learner_folder, write_rows

EXAMPLE_STEPS = 600
SETTINGS = {
    "data.validation": 0.2,
    "model.dtype": "float32",
    "tuning.lora_r": 4,
    "training.max_steps": EXAMPLE_STEPS,
    "training.per_device_train_batch_size": 4,
    "training.save_steps": 0,
    "evaluation.eval_steps": 300,
    "evaluation.sample_rows": 1,
    "evaluation.score_rows": 2,
    "evaluation.max_new_tokens": 4,
}
"""An example that takes some seconds on a tiny model."""
ENDLESS = {"TUNESMITH__TRAINING__MAX_STEPS": "100000", "TUNESMITH__EVALUATION__EVAL_STEPS": "0"}
"""Makes it go on until somebody ends it."""


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


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the studio's example is a tiny one."""
    folder = tmp_path_factory.mktemp("example")
    values = SETTINGS | {
        "model.model_name_or_path": learner_folder(folder / "model"),
        "data.train": write_rows(folder / "foods.jsonl"),
    }
    return {f"TUNESMITH__{name.upper().replace('.', '__')}": str(value) for name, value in values.items()}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all."""
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
def serve(tmp_path: Path, example: dict[str, str]) -> Iterator[Callable[..., ServedStudio]]:
    """Starts studios over one new folder; whatever still runs there when the test is over is ended."""
    studios: list[ServedStudio] = []

    def start(**changes: str) -> ServedStudio:
        studios.append(ServedStudio(tmp_path, **(example | changes)))
        return studios[-1]

    yield start
    for studio in studios:
        studio.close()
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
