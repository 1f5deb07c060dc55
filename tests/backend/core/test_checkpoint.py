"""A checkpoint is whole or not there, goes on to the same bits, and any reader can load what was trained."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from backend.config import TrainingConfig, TuningConfig
from backend.core import checkpoint as checkpoint_module
from backend.core.checkpoint import (
    MANIFEST,
    OPTIMIZER,
    STATE,
    Checkpoint,
    checkpoint_folders,
    newest_good,
    prune,
    read_checkpoint,
    restore,
    save_checkpoint,
    save_result,
    step_name,
    verify_folder,
    write_weights,
)
from backend.core.generation import for_inference
from backend.core.training import TrainState, train_steps
from backend.errors import RunError, TrainingError
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
from tests.fakes import FailingFileSystem, RecordingFileSystem
from tests.tiny import quiet_transformers, tiny_model_folder, tiny_tokenizer

ROWS = random_rows([9, 14, 20, 7, 30, 12, 25, 18], shared=5)
SIX = TrainingConfig(max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2)
ONE_LANE = PLAN.from_dict(PLAN.to_dict() | {"lanes": 1})
RECIPES = {
    "lora": (LORA, SIX),
    "full": (FULL, SIX),
    "accumulation": (
        LORA,
        SIX.model_copy(update={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}),
    ),
    "dropout": (TuningConfig(lora_r=4, lora_dropout=0.3), SIX),
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


@pytest.mark.parametrize(("tuning", "training"), RECIPES.values(), ids=RECIPES)
def test_a_training_saved_and_loaded_goes_on_to_the_same_bits(
    tuning: TuningConfig, training: TrainingConfig, tmp_path: Path
) -> None:
    straight = _fresh(tuning, training)
    losses = _train(straight, training)

    first = _fresh(tuning, training)
    begun = _train(first, training, until=3)
    save_checkpoint(tmp_path, first, {})
    resumed = _fresh(tuning, training)
    found, complaints = newest_good(tmp_path)
    restore(found, resumed)
    tokens_at_three = resumed.tokens_seen

    assert (complaints, resumed.step, tokens_at_three) == ([], 3, first.tokens_seen)
    assert begun + _train(resumed, training) == losses
    assert same_bits(weights(resumed), weights(straight))
    assert (resumed.step, resumed.tokens_seen) == (straight.step, straight.tokens_seen)


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
def test_every_damage_to_every_file_is_noticed_and_an_older_checkpoint_taken(
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
    checkpoint_module._write_manifest(path)


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


def test_checkpoints_are_ordered_by_number_and_nothing_else_counts(tmp_path: Path) -> None:
    _folders(
        tmp_path, "step-000010", "step-000009", "step-1000000", ".step-000011.0123456789abcdef.tmp", "step-x"
    )
    (tmp_path / "step-000012").write_text("a file")

    names = [path.name for path in checkpoint_folders(tmp_path)]

    assert names == ["step-000009", "step-000010", "step-1000000"]


@pytest.mark.parametrize(
    ("step", "name"), [(0, "step-000000"), (7, "step-000007"), (1_234_567, "step-1234567")]
)
def test_a_checkpoint_is_named_after_its_step(step: int, name: str) -> None:
    assert step_name(step) == name


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


# --- disks that refuse -------------------------------------------------------------------------------------


def test_a_full_disk_is_said_with_path_and_bytes_and_leaves_nothing(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _remains(checkpoints)
    monkeypatch.setattr(checkpoint_module, "free_bytes", lambda _: 1000)
    state = _fresh()
    state.step = 9
    needed = 3 * sum(part.numel() * 4 for part in state.parameters.values()) + 4 * len(state.parameters)

    with pytest.raises(TrainingError, match="The disk is full") as caught:
        save_checkpoint(checkpoints, state, {})

    assert caught.value.code == "disk-full"
    assert str(checkpoints / "step-000009") in caught.value.message
    assert f"{needed:,} bytes" in caught.value.message
    assert "1,000 are free" in caught.value.message
    assert _remains(checkpoints) == before


@pytest.mark.parametrize("fail_at", range(1, 9))
def test_a_disk_that_refuses_anywhere_leaves_what_was_there(fail_at: int, checkpoints: Path) -> None:
    """Five files, their folder, the new name, the folder around it; after the name only its safety is unsure."""
    state = _fresh()
    state.step = 9
    before = _remains(checkpoints)

    with pytest.raises(TrainingError, match="step-000009") as caught:
        save_checkpoint(checkpoints, state, {}, fs=FailingFileSystem(fail_at, code=errno.EIO))

    assert caught.value.code == "cannot-save"
    assert _remains(checkpoints) == sorted(before + ["step-000009"] * (fail_at == 8))
    assert not newest_good(checkpoints)[1]


def test_every_file_and_folder_is_on_the_disk_before_the_name_is(tmp_path: Path) -> None:
    disk = RecordingFileSystem()

    path = save_checkpoint(tmp_path, _fresh(), {}, fs=disk)

    names = [operation.name for operation in disk.operations]
    synced = {operation.path.name for operation in disk.operations[: names.index("rename")]}
    assert set(LORA_FILES) <= synced
    assert disk.operations[names.index("rename")].target == path
    assert (names[-1], disk.operations[-1].path) == ("fsync", tmp_path)


def test_the_disk_filling_up_on_the_way_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([10**9, 0, 0])
    monkeypatch.setattr(checkpoint_module, "free_bytes", lambda _: next(free))

    with pytest.raises(TrainingError, match="The disk is full") as caught:
        save_checkpoint(tmp_path, _fresh(), {}, fs=FailingFileSystem(2))

    assert caught.value.code == "disk-full"
    assert _remains(tmp_path) == []


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")

    with pytest.raises(TrainingError, match="could not be written") as caught:
        save_checkpoint(tmp_path / "checkpoints" / "deep", _fresh(), {})

    assert caught.value.code == "cannot-save"
    assert str(tmp_path / "checkpoints") in caught.value.message


def test_notes_that_cannot_be_written_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, _fresh(), {"model": object()})

    assert _remains(tmp_path) == []


# --- results -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("base") / "model", initializer_range=0.3)


def _plain(folder: Path) -> Any:
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder).eval()


IDS = torch.arange(3, 40)[None]


def _logits(state: TrainState) -> torch.Tensor:
    with for_inference(state.forward.model), torch.no_grad():
        return state.forward.model(IDS).logits


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@torch.no_grad()
def test_plain_peft_loads_an_adapter_and_says_the_same(base_folder: Path, tmp_path: Path) -> None:
    state = start(_plain(base_folder), LORA, SIX)
    shake(state)

    folder = save_result(state.forward.model, tiny_tokenizer(), tmp_path / "adapter")

    tuned = PeftModel.from_pretrained(_plain(base_folder), folder).eval()
    torch.testing.assert_close(tuned(IDS).logits, _logits(state), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(_plain(base_folder)(IDS).logits, _logits(state), atol=1e-2)
    assert len(tuned.active_adapters) == 1


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_plain_transformers_loads_a_model_and_says_the_same(tied: bool, tmp_path: Path) -> None:
    state = start(lively_model(tie_word_embeddings=tied), FULL, SIX)
    shake(state)

    folder = save_result(state.forward.model, tiny_tokenizer(), tmp_path / "model")

    model = _plain(folder)
    assert torch.equal(model(IDS).logits, _logits(state))
    assert model.config._attn_implementation == "sdpa"
    assert (folder / "generation_config.json").is_file()


def test_the_tokenizer_lies_beside_the_weights(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()

    folder = save_result(_fresh().forward.model, tokenizer, tmp_path / "adapter")

    again = AutoTokenizer.from_pretrained(folder)
    assert again("two three").input_ids == tokenizer("two three").input_ids
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_nothing_that_was_written_can_run_code(tuning: TuningConfig, tmp_path: Path) -> None:
    state = _fresh(tuning)
    save_checkpoint(tmp_path / "checkpoints", state, {})
    save_result(state.forward.model, tiny_tokenizer(), tmp_path / "result")

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}
    assert not [path for path in files if path.read_bytes()[:2] in {b"\x80\x02", b"\x80\x04", b"PK"}]


def test_a_result_replaces_the_one_before(tmp_path: Path) -> None:
    folder = save_result(_fresh().forward.model, tiny_tokenizer(), tmp_path / "adapter")
    (folder / "old.txt").write_text("of the result before")
    state = _fresh()
    shake(state)

    save_result(state.forward.model, tiny_tokenizer(), tmp_path / "adapter")

    assert not (folder / "old.txt").exists()
    assert verify_folder(folder)
    assert _remains(tmp_path) == ["adapter"]


@pytest.mark.parametrize("fail_at", [1, 5, 8])
def test_a_result_that_cannot_be_written_leaves_the_one_before(fail_at: int, tmp_path: Path) -> None:
    folder = save_result(_fresh().forward.model, tiny_tokenizer(), tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = _fresh()
    shake(state)

    with pytest.raises(TrainingError, match="adapter"):
        save_result(
            state.forward.model, tiny_tokenizer(), folder, fs=FailingFileSystem(fail_at, code=errno.EIO)
        )

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert _remains(tmp_path) == ["adapter"]


def test_a_result_that_has_its_name_is_whole_even_when_the_disk_fails_then(tmp_path: Path) -> None:
    model, folder = _fresh().forward.model, tmp_path / "adapter"
    disk = RecordingFileSystem()
    save_result(model, tiny_tokenizer(), folder, fs=disk)
    (folder / "old.txt").write_text("of the result before")

    with pytest.raises(TrainingError, match="adapter"):
        save_result(
            model, tiny_tokenizer(), folder, fs=FailingFileSystem(len(disk.operations), code=errno.EIO)
        )

    assert verify_folder(folder)
    assert not (folder / "old.txt").exists()
    assert _remains(tmp_path) == ["adapter"]


def test_an_adapter_holds_what_was_trained_and_no_embedding(tmp_path: Path) -> None:
    write_weights(_fresh().forward.model, tmp_path)

    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors
    assert all(".lora_" in name for name in tensors)
    assert _remains(tmp_path) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_tied_head_is_written_once(tmp_path: Path) -> None:
    write_weights(_fresh(FULL).forward.model, tmp_path)

    names = load_file(tmp_path / "model.safetensors").keys()
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
