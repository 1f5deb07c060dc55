"""What a name of a model stands for: backend/inference/model_source.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from backend.core.model_loader import load_base
from backend.core.quantized import Quantization
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError, RunError
from backend.inference import model_source
from backend.inference.model_source import (
    base_of,
    find_model,
    is_base_of,
)
from backend.run.checkpoints import step_name
from backend.run.environment import ComputePlan, Environment, Facts
from backend.run.folder import RunDir
from backend.training.checkpoint import save_result
from backend.utils.lock_utils import is_folder_held
from tests.runs import make_run
from tests.tiny import tiny_model_folder


@pytest.fixture
def copied(trained: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the finished run, to be harmed."""
    return RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))


def _adapter(run: RunDir, **options: object) -> Path:
    found = find_model(run, **options).adapter
    assert found is not None
    return found.folder


def test_a_run_stands_for_its_result(trained: RunDir, learner: Path) -> None:
    found = find_model(trained)
    assert found.base == learner
    assert (found.adapter and found.adapter.folder) == trained.adapter
    assert find_model(str(trained.path)) == found


def test_its_base_is_the_model_alone(trained: RunDir, learner: Path) -> None:
    assert find_model(trained, base=True) == find_model(learner)
    assert find_model(learner).adapter is None


@pytest.mark.parametrize(
    ("checkpoint", "step"), [(10, 10), ("10", 10), ("step-000010", 10), ("latest", 20), ("000020", 20)]
)
def test_a_checkpoint_by_its_name(trained: RunDir, checkpoint: int | str, step: int) -> None:
    assert _adapter(trained, checkpoint=checkpoint) == trained.checkpoint(step)


def test_the_best_is_the_one_with_the_lowest_held_out_loss(copied: RunDir) -> None:
    lines = [
        {"kind": "eval", "step": step, "eval/loss": loss}
        for step, loss in [(0, 0.1), (10, 0.5), (20, 0.7), (30, float("inf"))]
    ]
    copied.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _adapter(copied, checkpoint="best") == copied.checkpoint(10)


def test_without_an_evaluation_none_is_best(copied: RunDir) -> None:
    copied.metrics_file.unlink()
    with pytest.raises(RunError) as caught:
        find_model(copied, checkpoint="best")
    assert caught.value.code == "no-such-checkpoint"


@pytest.mark.parametrize("checkpoint", [7, "7", "nonsense", "../adapter", "9" * 40, -1, ""])
def test_a_checkpoint_that_is_not_there(trained: RunDir, checkpoint: int | str) -> None:
    with pytest.raises(RunError, match="has no checkpoint") as caught:
        find_model(trained, checkpoint=checkpoint)
    assert caught.value.code == "no-such-checkpoint"
    assert all(step_name(step) in caught.value.remedy for step in trained.checkpoint_steps())


def test_an_unfinished_run(tmp_path: Path, learner: Path, rows_file: Path) -> None:
    made = make_run(tmp_path / "runs", learner, rows_file)
    with pytest.raises(RunError) as caught:
        find_model(made)
    assert caught.value.code == "unfinished-run"
    assert made.checkpoint_steps() == []
    assert find_model(made, base=True).base == learner


def test_the_run_is_not_deleted_while_its_files_are_looked_for(
    copied: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    real = model_source.base_of

    def watched(run: RunDir, base_model: str | Path | None = None) -> Path:
        held.append(is_folder_held(run.path))
        return real(run, base_model)

    monkeypatch.setattr(model_source, "base_of", create_autospec(real, side_effect=watched))
    find_model(copied)
    assert held == [True]


def test_another_result_at_the_same_place_is_another(copied: RunDir) -> None:
    before = find_model(copied)
    (copied.adapter / "adapter_model.safetensors").touch()
    assert find_model(copied) != before


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        find_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
        lambda path: path.write_bytes(b""),
        Path.unlink,
    ],
    ids=["truncated", "one bit", "empty", "gone"],
)
@pytest.mark.parametrize("where", ["adapter", "checkpoints/step-000020"])
def test_damaged_weights(copied: RunDir, harm: Any, where: str) -> None:
    harm(copied.path / where / "adapter_model.safetensors")
    step = {"adapter": None}.get(where, 20)
    with pytest.raises(RunError, match=r"is damaged: adapter_model\.safetensors") as caught:
        find_model(copied, checkpoint=step)
    assert caught.value.code == "damaged-checkpoint"


def test_a_result_without_its_manifest(copied: RunDir) -> None:
    (copied.adapter / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"manifest\.json is missing"):
        find_model(copied)


def test_a_damaged_run_folder(copied: RunDir) -> None:
    copied.config.write_text("seed: 1\n")
    with pytest.raises(RunError, match="is damaged") as caught:
        find_model(copied.path)
    assert caught.value.code == "damaged-run"


def test_w15_the_latest_checkpoint_is_the_one_of_the_highest_step(copied: RunDir) -> None:
    copied.checkpoint(20).rename(copied.checkpoint(1_000_000))
    copied.checkpoint(10).rename(copied.checkpoint(999_999))
    shutil.rmtree(copied.adapter)
    assert _adapter(copied, checkpoint="latest") == copied.checkpoint(1_000_000)
    shutil.rmtree(copied.checkpoint(999_999))
    copied.checkpoint(1_000_000).rename(copied.checkpoint(20))
    assert _adapter(copied, checkpoint="latest") == copied.checkpoint(20)


class TestBase:
    """A run is opened over the very base that it was trained over, or not at all."""

    @pytest.fixture
    def base(self, copied: RunDir, learner: Path, tmp_path: Path) -> Path:
        """A base of its own under ``copied``, to be harmed."""
        base = Path(shutil.copytree(learner, tmp_path / "base"))
        text = copied.config.read_text().replace(str(learner), str(base))
        copied.config.write_text(text)
        return base

    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        """Another model of the same shape."""
        return tiny_model_folder(tmp_path / "other", initializer_range=0.5, seed=7)

    @pytest.mark.parametrize("which", [{}, {"base": True}, {"checkpoint": 10}, {"checkpoint": "best"}])
    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "config.json"])
    def test_a_changed_base_is_refused_with_both_fingerprints(
        self, copied: RunDir, base: Path, which: dict[str, Any], name: str
    ) -> None:
        facts = copied.read_environment().facts
        (base / name).write_bytes((base / name).read_bytes() + b" ")
        with pytest.raises(RunError) as caught:
            find_model(copied, **which)
        assert caught.value.code == "base-changed"
        assert facts is not None
        assert facts.model in caught.value.message
        assert len([word for word in caught.value.message.split() if len(word.strip(",.")) == 32]) == 2
        assert "`base_model`" in caught.value.remedy

    def test_a_base_put_back_is_taken_again(self, copied: RunDir, base: Path) -> None:
        weights = base / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + b"x")
        with pytest.raises(RunError):
            find_model(copied)
        weights.write_bytes(content)
        assert find_model(copied).base == base

    def test_a_moved_base_is_missed_and_can_be_named(self, copied: RunDir, base: Path) -> None:
        moved = base.rename(base.with_name("moved"))
        with pytest.raises(ModelError, match="is not where it was") as caught:
            find_model(copied)
        assert "`base_model`" in caught.value.remedy
        found = find_model(copied, base_model=moved)
        assert (found.base, found.tokenizer) == (moved, copied.adapter)
        assert find_model(copied, base=True, base_model=str(moved)).base == moved

    def test_another_model_is_not_taken_for_the_base(self, copied: RunDir, base: Path, other: Path) -> None:
        with pytest.raises(RunError, match="is not the base model") as caught:
            find_model(copied, base_model=other)
        assert caught.value.code == "base-changed"
        assert is_base_of(copied, base)
        assert not is_base_of(copied, other)

    def test_a_model_that_is_no_run_has_no_other_place(self, other: Path, base: Path) -> None:
        with pytest.raises(RunError, match="is no run"):
            find_model(other, base_model=base)

    def test_a_run_that_never_began_takes_what_it_names_but_nothing_else(
        self, tmp_path: Path, learner: Path, rows_file: Path, other: Path
    ) -> None:
        made = make_run(tmp_path / "runs", learner, rows_file)
        assert base_of(made) == learner
        assert not is_base_of(made, learner)
        with pytest.raises(RunError, match="not known yet"):
            base_of(made, other)

    def test_a_whole_result_needs_no_base(self, copied: RunDir, base: Path) -> None:
        copied.config.write_text(copied.config.read_text().replace("method: lora", "method: full"))
        save_result(load_base(base), load_tokenizer(base), copied.model)
        shutil.rmtree(copied.adapter)
        shutil.rmtree(base)
        found = find_model(copied)
        assert (found.base, found.adapter, found.tokenizer) == (copied.model, None, copied.model)

    def test_other_weights_in_the_same_folder_are_another_source(self, other: Path) -> None:
        before = find_model(other)
        weights = other / "model.safetensors"
        weights.write_bytes(weights.read_bytes())
        assert find_model(other).base == before.base
        assert find_model(other) != before

    @pytest.mark.parametrize(("commit", "asked"), [("c" * 40, "c" * 40), ("", "main")])
    def test_a_base_of_the_hub_is_the_commit_it_was(
        self, copied: RunDir, learner: Path, monkeypatch: pytest.MonkeyPatch, commit: str, asked: str
    ) -> None:
        text = copied.config.read_text().replace(str(learner), "owner/name")
        copied.config.write_text(text.replace("revision: null", "revision: main"))
        facts = copied.read_environment().facts
        assert facts is not None
        copied.write_environment(Environment(facts=Facts(facts.data, facts.model, revision=commit)))
        seen: list[tuple[str, str | None]] = []

        def resolve(name: str, *, revision: str | None = None) -> Path:
            seen.append((name, revision))
            return learner

        monkeypatch.setattr(model_source, "resolve_model", resolve)
        assert base_of(copied) == learner
        assert seen == [("owner/name", asked)]


class TestPackedBases:
    """A run over a base in 4 bits answers over the values that the base had in training."""

    def _run(self, root: Path, learner: Path, rows_file: Path, dtype: str) -> RunDir:
        return make_run(root, learner, rows_file, {"model.load_in_4bit": True, "model.dtype": dtype})

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_the_configuration_and_precision_of_a_run_decide(
        self, tmp_path: Path, learner: Path, rows_file: Path, dtype: str
    ) -> None:
        found = find_model(self._run(tmp_path, learner, rows_file, dtype), base=True)
        assert found.quantization == Quantization("nf4", nested=False, dtype=getattr(torch, dtype))

    def test_the_precision_that_it_was_trained_in_comes_first(
        self, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        run = self._run(tmp_path, learner, rows_file, "float32")
        plan = ComputePlan("cpu", "bfloat16", 1, 1, "highest")
        run.write_environment(Environment(plan=plan))
        stored = find_model(run, base=True).quantization
        assert stored is not None
        assert stored.dtype == torch.bfloat16

    def test_it_is_another_base_than_the_plain_one(
        self, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        packed = find_model(self._run(tmp_path, learner, rows_file, "float32"), base=True)
        plain = find_model(learner)
        assert packed.base == plain.base
        assert packed.base_key != plain.base_key
        assert plain.quantization is None
