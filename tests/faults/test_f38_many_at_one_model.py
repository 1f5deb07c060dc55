"""F38: many ask one model at once, leave early, ask nonsense or close it; nobody hears another's answer.

What a client of the server sees of this is tested with the server, which two hundred ask at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend import inferencer
from backend.errors import InferenceError, TunesmithError
from backend.inference.decoding import Decoding
from backend.inferencer import Inferencer
from tests.runs import learner_folder

PROMPTS = [
    "food pork",
    "food apple",
    "test input",
    "hello",
    "food " * 20,
    "one two three",
    "?",
    "quick brown fox",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inferencer]:
    with Inferencer(learner_folder(tmp_path_factory.mktemp("model") / "tiny")) as loaded:
        yield loaded


def test_f38_many_at_once_get_their_own_answers(model: Inferencer) -> None:
    alone = {prompt: model.infer(prompt, max_new_tokens=6) for prompt in PROMPTS}
    assert len(set(alone.values())) > 1
    with ThreadPoolExecutor(16) as pool:
        asked = PROMPTS * 8
        answers = list(pool.map(lambda prompt: model.infer(prompt, max_new_tokens=6), asked))
    assert answers == [alone[prompt] for prompt in asked]


def test_f38_whoever_leaves_ends_the_work_within_a_token(
    model: Inferencer, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = create_autospec(Decoding.step, side_effect=Decoding.step)
    monkeypatch.setattr(inferencer.Decoding, "step", step)
    answer = model.stream("food pork", max_new_tokens=200)
    next(answer)
    taken = step.call_count
    answer.close()  # type: ignore[attr-defined]
    assert (step.call_count, taken < 200) == (taken, True)
    assert list(answer) == []


@pytest.mark.parametrize(
    "prompt", ["", " \n", "word " * 2000, [], [{"role": "user"}], [{"role": "nobody", "content": 1}]]
)
def test_f38_nonsense_is_one_sentence_and_the_others_are_served(model: Inferencer, prompt: object) -> None:
    with pytest.raises(TunesmithError) as caught:
        model.infer(prompt)  # type: ignore[arg-type]
    assert caught.value.remedy
    bad, good = model.infer_batch([prompt, "food pork"], max_new_tokens=4)  # type: ignore[list-item]
    assert isinstance(bad, TunesmithError)
    assert good == model.infer("food pork", max_new_tokens=4)


def test_f38_a_model_that_is_closed_meanwhile_ends_what_it_began(tmp_path: Path) -> None:
    loaded = Inferencer(learner_folder(tmp_path / "tiny"))
    whole = loaded.infer("food pork", max_new_tokens=8)
    answer = loaded.stream("food pork", max_new_tokens=8)
    first = next(answer)
    loaded.close()
    assert first + "".join(answer) == whole
    with pytest.raises(InferenceError, match="closed"):
        loaded.infer("food pork")
