"""A loaded base: its renderers are shared and few, and the runs whose weights it holds cannot be deleted."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.core.engine.library import library
from backend.core.model_loader import load_dense
from backend.errors import InferenceError, ModelError, RunError
from backend.inference import decode_proof, engines
from backend.inference.loaded import LoadedBase
from backend.inference.model_source import ModelSource, find_model
from backend.inference.shared_base import KEEP
from backend.run.folder import RunDir
from backend.utils.lock_utils import is_folder_held
from tests.runs import SHORT, make_run


def test_a_template_of_the_run_is_used_for_its_base_as_well(
    tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    made = make_run(tmp_path, tiny_folder, rows_file, SHORT | {"model.chat_template": "alpaca"})
    loaded, run, plain = (
        LoadedBase(find_model(tiny_folder)),
        find_model(made, base=True),
        find_model(tiny_folder),
    )
    renderer = loaded.renderer(run)
    assert "### Instruction:\nhello" in renderer.tokenizer.decode(renderer.render("hello"))
    assert loaded.renderer(plain).render("hello") != renderer.render("hello")
    assert loaded.renderer(run) is renderer


class TestHolding:
    """A run whose weights are in memory cannot be deleted."""

    def test_an_adapter_is_held_until_it_makes_room(self, trained: RunDir, tmp_path: Path) -> None:
        runs = [RunDir(Path(shutil.copytree(trained.path, tmp_path / f"run{n}"))) for n in range(KEEP + 1)]
        loaded = LoadedBase(find_model(runs[0]))
        assert not is_folder_held(runs[0].path)  # its base is another's
        for run in runs:
            loaded.use(find_model(run))
        assert [is_folder_held(run.path) for run in runs] == [False, *[True] * KEEP]
        loaded.use(find_model(runs[1], base=True))
        assert is_folder_held(runs[1].path)  # it may be asked for again
        loaded.close()
        loaded.close()
        assert [is_folder_held(run.path) for run in runs] == [False] * (KEEP + 1)

    def test_a_whole_model_is_held_from_before_it_is_read(self, tiny_folder: Path, tmp_path: Path) -> None:
        run = RunDir.create(tmp_path, "full", "seed: 1")
        source = replace(find_model(tiny_folder), run=run)
        loaded = LoadedBase(source)
        loaded.use(source)
        assert is_folder_held(run.path)
        loaded.close()
        run.path.rename(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="gone") as caught:
            LoadedBase(source)
        assert caught.value.code == "no-such-run"

    def test_what_cannot_be_used_is_not_held(self, trained: RunDir, tmp_path: Path) -> None:
        run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
        loaded, source = LoadedBase(find_model(run)), find_model(run)
        with pytest.raises(InferenceError):
            loaded.use(source, 99.0)
        assert not is_folder_held(run.path)
        shutil.rmtree(run.path)
        for _ in range(2):
            with pytest.raises(RunError, match="gone"):
                loaded.use(source)


def _copies(trained: RunDir, folder: Path, count: int) -> list[ModelSource]:
    """The same run so many times, each with a tokenizer of its own."""
    ids = [f"{trained.id[:-4]}{number:04d}" for number in range(count)]
    return [find_model(RunDir(Path(shutil.copytree(trained.path, folder / each)))) for each in ids]


def test_tokenizers_go_with_their_adapters(trained: RunDir, tmp_path: Path) -> None:
    sources = _copies(trained, tmp_path, KEEP + 3)
    loaded = LoadedBase(sources[0])
    seen = []
    for source in sources:
        seen.append(weakref.ref(loaded.renderer(source).tokenizer))
        loaded.use(source)
    gc.collect()

    left = [at is not None for at in (ref() for ref in seen)]
    assert left == [False] * 3 + [True] * KEEP
    loaded.close()


def test_asking_for_many_without_using_them_keeps_few(trained: RunDir, tmp_path: Path) -> None:
    sources = _copies(trained, tmp_path, KEEP + 3)
    loaded = LoadedBase(sources[0])

    for source in sources:
        loaded.renderer(source)

    assert [loaded.cached_renderer(source) is not None for source in sources] == [False] * 2 + [True] * (
        KEEP + 1
    )
    loaded.close()


def test_a_tokenizer_that_changed_on_the_disk_is_seen(trained: RunDir, tmp_path: Path) -> None:
    (source,) = _copies(trained, tmp_path, 1)
    loaded = LoadedBase(source)
    before = loaded.renderer(source)
    (source.tokenizer / "chat_template.jinja").write_text("{{ messages[0].content }}")

    assert loaded.cached_renderer(source) is None
    after = loaded.renderer(source)

    assert after.tokenizer.decode(after.render("hello")) == "hello"
    assert before.tokenizer.decode(before.render("hello")) != "hello"
    loaded.close()


def test_a_model_that_cannot_be_decoded_is_refused_when_it_is_loaded(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_proof, "_is_right", lambda *_: False)
    monkeypatch.setattr(engines, "disagreement", lambda *_: 1e9)

    with pytest.raises(ModelError) as caught:
        LoadedBase(find_model(tiny_folder))

    assert caught.value.code == "cannot-generate"


@pytest.fixture
def in_bfloat16(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model as it would be stored in bfloat16."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "short"))
    for file in folder.glob("*.safetensors"):
        save_file({name: part.bfloat16() for name, part in load_file(file).items()}, file, {"format": "pt"})
    return folder


@pytest.mark.skipif(library() is None, reason="no kernels here")
@pytest.mark.parametrize("precision", engines.PRECISIONS)
def test_no_float32_weights_stay_that_the_engine_does_not_read(in_bfloat16: Path, precision: str) -> None:
    loaded = LoadedBase(find_model(in_bfloat16), precision=precision)
    engine = engines.engine_of(loaded.shared.model)
    assert engine is not None
    assert loaded.shared.memory_bytes == 0
    expected = load_dense(in_bfloat16, dtype=torch.float32, quantization=None)
    whole = dict(loaded.shared.whole().named_parameters())
    assert all(torch.equal(part, whole[name]) for name, part in expected.named_parameters())
    assert next(iter(whole.values())).dtype == torch.float32
    loaded.close()


@pytest.mark.skipif(library() is None, reason="no kernels here")
def test_weights_that_changed_on_the_disk_are_not_mixed_in(in_bfloat16: Path) -> None:
    loaded = LoadedBase(find_model(in_bfloat16))
    (in_bfloat16 / "config.json").touch()
    with pytest.raises(RunError) as caught:
        loaded.shared.whole()
    assert caught.value.code == "base-changed"
    loaded.close()


def test_weights_that_bfloat16_would_round_stay_as_they_are(tiny_folder: Path) -> None:
    loaded = LoadedBase(find_model(tiny_folder))
    assert all(part.isfinite().all() for part in loaded.shared.model.parameters())
    loaded.close()
