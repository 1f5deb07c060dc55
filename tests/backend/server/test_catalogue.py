"""Which models there are: backend/server/catalogue.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backend.errors import ModelError, RunError
from backend.inference.model_source import find_model
from backend.manager.run_manager import RunManager
from backend.run.folder import RunDir
from backend.server.catalogue import Catalogue
from backend.server.errors import ApiError
from tests.backend.server.conftest import Server
from tests.runs import make_run


@pytest.fixture
def root(trained: RunDir, tmp_path: Path) -> Path:
    """A root with one finished run."""
    shutil.copytree(trained.path, tmp_path / "runs" / trained.id)
    return tmp_path / "runs"


def test_a_run_appears_when_it_has_finished(
    root: Path, trained: RunDir, learner: Path, rows_file: Path
) -> None:
    catalogue = Catalogue(root)
    made = make_run(root, learner, rows_file)
    before = [each.id for each in catalogue.served()]

    shutil.copytree(trained.adapter, made.adapter)

    assert before == ["base", trained.id]
    assert {each.id for each in catalogue.served()} == {"base", trained.id, made.id}


def test_a_run_that_was_deleted_is_gone(root: Path, trained: RunDir) -> None:
    catalogue = Catalogue(root)
    catalogue.find(trained.id)

    RunManager(root).delete(trained.id)

    assert catalogue.served() == []
    with pytest.raises(ApiError) as caught:
        catalogue.find(trained.id)
    assert caught.value.status == 404


def test_a_base_that_was_moved_is_taken_for_the_runs_over_it(
    root: Path, trained: RunDir, learner: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(learner, tmp_path / "moved"))
    config = root / trained.id / "config.yaml"
    config.write_text(config.read_text().replace(str(learner), str(tmp_path / "gone")))
    with pytest.raises(ModelError, match="is not where it was"):
        Catalogue(root).find(trained.id)
    catalogue = Catalogue(root, base_model=str(moved))
    assert {catalogue.find(name).base for name in (trained.id, f"{trained.id}@10", "base")} == {moved}


def test_a_run_over_another_base_keeps_its_own(
    root: Path, trained: RunDir, learner: Path, tiny_folder: Path
) -> None:
    assert Catalogue(root, base_model=str(tiny_folder)).find(trained.id).base == learner


def test_a_run_by_the_name_it_was_given(root: Path, trained: RunDir) -> None:
    catalogue = Catalogue(root)
    RunManager(root).rename(trained.id, "food sorter")

    assert catalogue.find("food sorter") == catalogue.find(trained.id) == find_model(root / trained.id)
    assert catalogue.find("food sorter@10").adapter.folder.name == "step-000010"
    assert catalogue.served()[1].name == "food sorter"


def test_the_base_is_that_of_what_was_named_first(root: Path, learner: Path, tiny_folder: Path) -> None:
    run = RunDir(next(root.glob("*-tiny-*")))

    assert Catalogue(root, (str(tiny_folder),)).find("base").base == tiny_folder
    assert Catalogue(root, (run,)).find("base").base == learner
    assert Catalogue(root).find("base").base == learner
    assert Catalogue(None, (run,)).served()[0].base_model == learner.name


def test_a_run_of_another_root_is_served_when_it_was_named(trained: RunDir, tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "empty", (trained,))

    assert [each.id for each in catalogue.served()] == ["base", trained.id]
    assert catalogue.find(trained.id) == find_model(trained)


def test_an_empty_root_has_no_base(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)

    assert catalogue.served() == []
    with pytest.raises(ApiError):
        catalogue.find("base")


@pytest.mark.parametrize("name", ["", "@", "@latest", ".", "..", "../runs", "{path}", "{path}@10", "a\x00"])
def test_a_name_is_never_a_path(
    root: Path, trained: RunDir, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.path)
    with pytest.raises(ApiError) as caught:
        Catalogue(root).find(name.format(path=trained.path))
    assert caught.value.status == 404


def test_a_folder_beside_is_not_a_run_under_the_root(
    root: Path, trained: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.path, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ApiError):
        Catalogue(root).find("elsewhere")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "tokenizer.json", "adapter_config.json"])
def test_files_that_changed_are_verified_again(root: Path, trained: RunDir, name: str) -> None:
    catalogue = Catalogue(root)
    catalogue.find(trained.id)
    with (root / trained.id / "adapter" / name).open("ab") as file:
        file.write(b"x")

    with pytest.raises(RunError) as caught:
        catalogue.find(trained.id)
    assert caught.value.code == "damaged-checkpoint"


def test_a_newer_checkpoint_is_the_latest(root: Path, trained: RunDir) -> None:
    catalogue, checkpoints = Catalogue(root), root / trained.id / "checkpoints"
    before = catalogue.find(f"{trained.id}@latest").adapter.folder
    shutil.copytree(checkpoints / before.name, checkpoints / "step-000999")

    assert catalogue.find(f"{trained.id}@latest").adapter.folder.name == "step-000999"


@pytest.mark.parametrize(
    "name", ["base", "{run}", "{run}@10", "{run}@20", "{run}@latest", "{run}@best", "{run}@base"]
)
def test_what_can_be_asked_can_be_looked_up(root: Path, trained: RunDir, name: str) -> None:
    catalogue, asked = Catalogue(root), name.format(run=trained.id)

    assert catalogue.find(asked)
    assert catalogue.describe(asked).id == asked


@pytest.mark.parametrize("name", ["", "nope", "{run}@7", "{run}@", "{run}@20@20", "base@20", "@20"])
def test_what_cannot_be_asked_cannot_be_looked_up(root: Path, trained: RunDir, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        Catalogue(root).describe(name.format(run=trained.id))
    assert caught.value.status == 404


def test_f39_a_run_that_is_served_is_not_deleted(server: Server, trained: RunDir) -> None:
    server.say()
    with pytest.raises(RunError, match="it is being served") as caught:
        RunManager(trained.path.parent).delete(server.run)
    assert caught.value.code == "in-use"
    assert server.say() == "expected output"
