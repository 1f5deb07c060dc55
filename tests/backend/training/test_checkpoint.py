"""A checkpoint is whole or not there and goes on to the same bits: backend/training/checkpoint.py.

What other programs read of it is in tests/integration/test_results_elsewhere.py, disks that refuse in tests/faults.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from backend.errors import RunError
from backend.run.checkpoints import MANIFEST, checkpoint_folders, step_name, verify_folder, write_manifest
from backend.run.config import TrainingConfig, TuningConfig
from backend.training.checkpoint import (
    OPTIMIZER,
    STATE,
    Checkpoint,
    newest_good,
    prune,
    read_checkpoint,
    restore,
    save_checkpoint,
)
from backend.training.loop import TrainState, train_steps
from tests.backend.core.rows import (
    FULL,
    LORA,
    PLAN,
    lively_model,
    random_rows,
    same_bits,
    shake,
    start,
    weights,
)
from tests.backend.training.variants import VARIANTS
from tests.tables import partly

ROWS = random_rows([9, 14, 20, 7, 30, 12, 25, 18], shared=5)
SIX = TrainingConfig(max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2)
ONE_LANE = replace(PLAN, lanes=1)
RECIPES = {
    "lora": (LORA, SIX),
    "full": (FULL, SIX),
    "accumulation": (
        LORA,
        SIX.model_copy(update={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}),
    ),
    "dropout": (TuningConfig(lora_r=4, lora_dropout=0.3), SIX),
    **{name: (tuning, SIX) for name, tuning in VARIANTS.items()},
    "adafactor": (FULL, SIX.model_copy(update={"optim": "adafactor"})),
    "muon": (FULL, SIX.model_copy(update={"optim": "muon"})),
    "muon on lora": (LORA, SIX.model_copy(update={"optim": "muon"})),
    "loraplus": (LORA, SIX.model_copy(update={"loraplus_lr_ratio": 8.0})),
}
LORA_FILES = ["adapter_config.json", "adapter_model.safetensors", MANIFEST, OPTIMIZER, STATE]


def _fresh(tuning: TuningConfig = LORA, training: TrainingConfig = SIX, **overrides: Any) -> TrainState:
    return start(lively_model(**overrides), tuning, training)


def _train(state: TrainState, training: TrainingConfig = SIX, *, until: int = 6) -> list[float]:
    losses = []
    steps = train_steps(state, ROWS, training, ONE_LANE, seed=0)
    while state.step < until:
        losses.append(next(steps).loss)
    steps.close()
    return losses


def _saved(folder: Path, *, step: int = 3) -> Path:
    """A checkpoint of a model whose weights and moments are all away from zero."""
    state = _fresh()
    shake(state)
    for value in state.optimizer.state.values():
        value["exp_avg"].fill_(0.25)
    state.step, state.tokens_seen = step, 100 * step
    return save_checkpoint(folder, state, {"best_loss": 1.5, "done": False})


def _remains(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- to the same bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuning", "training"), partly(RECIPES, ["lora", "full", "dropout", "muon"], pytest.mark.slow)
)
def test_a_training_saved_and_loaded_goes_on_to_the_same_bits(
    tuning: TuningConfig, training: TrainingConfig, tmp_path: Path
) -> None:
    straight = _fresh(tuning, training)
    _train(straight, training, until=3)
    save_checkpoint(tmp_path, straight, {})
    tokens_at_three = straight.tokens_seen
    losses = _train(straight, training)

    resumed = _fresh(tuning, training)
    found, complaints = newest_good(tmp_path)
    restore(found, resumed)

    assert (complaints, resumed.step, resumed.tokens_seen) == ([], 3, tokens_at_three)
    assert _train(resumed, training) == losses
    assert same_bits(weights(resumed), weights(straight))
    assert (resumed.step, resumed.tokens_seen) == (straight.step, straight.tokens_seen)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_8bit", "lion_32bit", "lion_8bit"])
def test_the_optimizers_of_bitsandbytes_go_on_to_the_same_bits_too(optim: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    training = SIX.model_copy(update={"optim": optim, "learning_rate": 1e-3})
    wide = {"hidden_size": 64, "intermediate_size": 128}  # 8 bits begin at 4,096 numbers
    straight, resumed = (_fresh(FULL, training, **wide) for _ in range(2))
    _train(straight, training, until=3)
    restore(read_checkpoint(save_checkpoint(tmp_path, straight, {})), resumed)

    assert _train(resumed, training) == _train(straight, training)
    assert same_bits(weights(resumed), weights(straight))


def test_saving_changes_nothing_in_the_training(tmp_path: Path) -> None:
    state = _fresh()
    before = weights(state)

    save_checkpoint(tmp_path, state, {})

    assert same_bits(weights(state), before)
    assert state.forward.model.training


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = _saved(tmp_path)

    assert path == tmp_path / "step-000003"
    assert read_checkpoint(path) == Checkpoint(path, 3, 300, {"best_loss": 1.5, "done": False})
    assert _remains(path) == LORA_FILES
    assert verify_folder(path) == set(LORA_FILES) - {MANIFEST}


def test_a_good_checkpoint_of_the_same_step_is_left_as_it_is(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}

    assert _saved(tmp_path) == path

    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (_saved(tmp_path) / OPTIMIZER).write_bytes(b"")

    path = _saved(tmp_path)

    assert read_checkpoint(path).step == 3
    assert _remains(tmp_path) == ["step-000003"]


# --- damage ------------------------------------------------------------------------------------------------


def _missing(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def _flipped_first(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


def _flipped_last(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 4
    file.write_bytes(data)


def _flipped_middle(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES = [
    _missing, _empty, _truncated, _longer, _flipped_first, _flipped_middle, _flipped_last, _folder
]  # fmt: skip


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of two checkpoints, by folder and name."""
    folder = tmp_path_factory.mktemp("two")
    paths = [_saved(folder, step=step) for step in (3, 6)]
    return {path.name: {file.name: file.read_bytes() for file in path.iterdir()} for path in paths}


@pytest.fixture
def checkpoints(two_saved: dict[str, dict[str, bytes]], tmp_path: Path) -> Path:
    """A folder of its own with those two checkpoints, of steps 3 and 6."""
    for name, files in two_saved.items():
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("file", [name for name in LORA_FILES if name != MANIFEST])
@pytest.mark.parametrize("damage", DAMAGES)
def test_f18_f19_every_damage_to_every_file_is_noticed_and_an_older_checkpoint_taken(
    file: str, damage: Callable[[Path], None], checkpoints: Path
) -> None:
    damage(checkpoints / "step-000006" / file)

    found, complaints = newest_good(checkpoints)

    assert found is not None
    assert found.step == 3
    assert len(complaints) == 1
    assert "step-000006" in complaints[0]
    assert file in complaints[0]


@pytest.mark.parametrize("damage", [_missing, _empty, _truncated, _longer, _flipped_first, _folder])
def test_a_damaged_manifest_is_noticed_too(damage: Callable[[Path], None], checkpoints: Path) -> None:
    damage(checkpoints / "step-000006" / MANIFEST)

    found, complaints = newest_good(checkpoints)

    assert found is not None
    assert found.step == 3
    assert MANIFEST in complaints[0]


@pytest.mark.parametrize("place", range(0, 900, 37))
def test_a_bit_flipped_anywhere_in_the_manifest_never_gives_other_weights(
    place: int, checkpoints: Path
) -> None:
    """Its blanks may flip unnoticed; a hash, a size or a name may not."""
    manifest = checkpoints / "step-000006" / MANIFEST
    data = bytearray(manifest.read_bytes())
    data[place % len(data)] ^= 2
    manifest.write_bytes(data)

    found, complaints = newest_good(checkpoints)

    assert found is not None
    assert (found.step, len(complaints)) in {(3, 1), (6, 0)}


@pytest.mark.parametrize(
    "manifest",
    [
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {}}',
        '{"files": null}',
        '{"files": {"trainer_state.json": 7}}',
        '{"files": {"trainer_state.json": {}}}',
        "\N{BYTE ORDER MARK}{}",
        '{"files": ' * 2000,
    ],
)
def test_a_manifest_of_another_shape_is_damage(manifest: str, checkpoints: Path) -> None:
    (checkpoints / "step-000006" / MANIFEST).write_text(manifest)

    with pytest.raises(RunError, match="is damaged") as caught:
        read_checkpoint(checkpoints / "step-000006")

    assert caught.value.code == "damaged-checkpoint"
    assert caught.value.remedy


@pytest.mark.parametrize("left_out", [STATE, OPTIMIZER])
def test_a_manifest_must_name_what_a_resume_needs(left_out: str, checkpoints: Path) -> None:
    manifest = checkpoints / "step-000006" / MANIFEST
    content = json.loads(manifest.read_text())
    del content["files"][left_out]
    manifest.write_text(json.dumps(content))

    with pytest.raises(RunError, match="does not name its files"):
        read_checkpoint(checkpoints / "step-000006")


def _with_state(path: Path, **changes: object) -> None:
    """Another trainer state, honestly hashed; a key that becomes None is left out."""
    file = path / STATE
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    (path / MANIFEST).unlink()
    write_manifest(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": None},
        {"step": None},
        {"step": "three"},
        {"tokens_seen": [1]},
        {"notes": None},
        {"notes": ["best"]},
    ],
)
def test_a_state_of_another_shape_is_refused_and_passed_over(
    changes: dict[str, object], checkpoints: Path
) -> None:
    _with_state(checkpoints / "step-000006", **changes)

    with pytest.raises(RunError, match="step-000006") as caught:
        read_checkpoint(checkpoints / "step-000006")

    assert caught.value.code == "damaged-checkpoint"
    found, complaints = newest_good(checkpoints)
    assert found is not None
    assert (found.step, complaints) == (3, [caught.value.message])


@pytest.mark.parametrize("version", [2, 99])
def test_f20_a_later_format_is_refused_and_not_passed_over(version: int, checkpoints: Path) -> None:
    _with_state(checkpoints / "step-000006", version=version)
    with pytest.raises(RunError, match=f"format {version}") as caught:
        newest_good(checkpoints)
    assert caught.value.code == "foreign-checkpoint"


def test_where_nothing_is_good_nothing_is_found(checkpoints: Path) -> None:
    for path in checkpoint_folders(checkpoints):
        (path / STATE).unlink()

    found, complaints = newest_good(checkpoints)

    assert found is None
    assert ["step-000006" in complaints[0], "step-000003" in complaints[1]] == [True, True]


def test_without_checkpoints_there_is_nothing_to_complain_about(tmp_path: Path) -> None:
    assert newest_good(tmp_path / "none") == (None, [])
    assert newest_good(tmp_path) == (None, [])


# --- which, and which to keep ------------------------------------------------------------------------------


def _folders(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir()


@pytest.mark.parametrize(
    ("keep_last", "best_step", "kept"),
    [
        (1, None, [5]),
        (2, None, [4, 5]),
        (2, 1, [1, 4, 5]),
        (2, 5, [4, 5]),
        (1, 3, [3, 5]),
        (2, 99, [4, 5]),
        (9, None, [1, 2, 3, 4, 5]),
    ],
)
def test_the_newest_and_the_best_are_kept(
    keep_last: int, best_step: int | None, kept: list[int], tmp_path: Path
) -> None:
    _folders(tmp_path, *(step_name(step) for step in range(1, 6)), "other")

    deleted = prune(tmp_path, keep_last=keep_last, best_step=best_step)

    assert _remains(tmp_path) == ["other", *(step_name(step) for step in kept)]
    assert [path.name for path in deleted] == [step_name(step) for step in range(1, 6) if step not in kept]


def test_nothing_to_prune_is_no_error(tmp_path: Path) -> None:
    assert prune(tmp_path / "none", keep_last=2, best_step=None) == []


# --- foreign checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuning", "overrides"),
    [
        (TuningConfig(lora_r=8), {}),
        (TuningConfig(lora_r=1), {}),
        (TuningConfig(lora_r=4, lora_target_modules=["q_proj"]), {}),
        (LORA, {"hidden_size": 64}),
        (LORA, {"num_hidden_layers": 3}),
        (FULL, {}),
    ],
    ids=["more rank", "less rank", "other modules", "wider model", "deeper model", "full"],
)
def test_a_checkpoint_of_another_model_or_method_is_refused(
    tuning: TuningConfig, overrides: dict[str, int], checkpoints: Path
) -> None:
    state = start(_sized(**overrides), tuning, SIX)

    with pytest.raises(RunError, match="another model or method") as caught:
        restore(read_checkpoint(checkpoints / "step-000006"), state)

    assert caught.value.code == "foreign-checkpoint"
    assert "step-000006" in caught.value.message
    assert state.step == 0


def _sized(**overrides: int) -> Any:
    config = lively_model().config.to_dict() | overrides
    return LlamaForCausalLM(LlamaConfig(**config))


def test_a_full_checkpoint_is_none_of_a_lora(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _fresh(FULL), {})

    with pytest.raises(RunError, match="another model or method"):
        restore(read_checkpoint(path), _fresh(LORA))


def test_a_full_checkpoint_of_another_width_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _fresh(FULL), {})

    with pytest.raises(RunError, match="another model or method"):
        restore(read_checkpoint(path), start(_sized(intermediate_size=96), FULL, SIX))
