"""What is said is what transformers would say; rows beside it, padding and shared beginnings change nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from backend.core.forward import prove
from backend.core.generation import (
    MIN_SHARED,
    Decoding,
    NewToken,
    Prefill,
    Sampling,
    check_prompt,
    context_length,
    for_inference,
)
from backend.core.sampling import Chooser, draw
from backend.core.tuning import make_trainable
from backend.errors import InferenceError
from tests.backend.core.rows import FULL, LORA, lively_model
from tests.tiny import tiny_model

LONG = tuple(range(40, 70))
PROMPTS = [(5,), (9, 8, 7, 6, 5, 4, 3, 2), LONG, (11, 12, 13), (3, 400, 20, 8, 111)]
ALIKE = [(*LONG, 7), (*LONG, 8, 9, 10), (*LONG, 7, 3), LONG]
SIZES = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FREE = Sampling(max_new_tokens=8, temperature=1.0, seed=3)


@cache
def _model(kind: str = "llama") -> PreTrainedModel:
    torch.manual_seed(0)
    match kind:
        case "sliding window":
            return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).eval()
        case "capped scores":
            return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, sliding_window=6)).eval()
    return lively_model(kind)


def _say(
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    *,
    model: PreTrainedModel | None = None,
) -> list[list[NewToken]]:
    """Every token of every row, in order."""
    decoding = Decoding(model or _model(), prompts, sampling, stop_ids)
    said: list[list[NewToken]] = [[] for _ in prompts]
    while decoding.rows:
        for token in decoding.step():
            said[token.row].append(token)
    return said


def _ids(said: list[list[NewToken]]) -> list[list[int]]:
    return [[token.token_id for token in row] for row in said]


def _reference(prompt: Sequence[int], count: int, *, model: PreTrainedModel | None = None) -> list[int]:
    """Greedy tokens by transformers' own ``generate``."""
    model = model or _model()
    ids = torch.tensor([list(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


# --- greedy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2", "sliding window", "capped scores"])
def test_greedy_is_generate_token_for_token(kind: str) -> None:
    model = _model(kind)

    said = _say(PROMPTS, Sampling(max_new_tokens=12), model=model)

    assert _ids(said) == [_reference(prompt, 12, model=model) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "sliding window"])
def test_a_shared_beginning_changes_nothing(kind: str) -> None:
    model = _model(kind)

    said = _say(ALIKE, Sampling(max_new_tokens=12), model=model)

    assert _ids(said) == [_reference(prompt, 12, model=model) for prompt in ALIKE]


@settings(max_examples=8)
@given(
    shared=st.integers(0, 12),
    tails=st.lists(st.lists(st.integers(0, 511), min_size=1, max_size=9), min_size=1, max_size=4),
)
@torch.no_grad()
def test_a_batch_is_its_rows_one_by_one(shared: int, tails: list[list[int]]) -> None:
    torch.set_num_threads(1)
    prompts = [[*range(100, 100 + shared), *tail] for tail in tails]

    together = _ids(_say(prompts, Sampling(max_new_tokens=5)))

    assert together == [_ids(_say([prompt], Sampling(max_new_tokens=5)))[0] for prompt in prompts]


def test_what_rows_share_is_computed_once() -> None:
    seen: list[int] = []
    model = _model()
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(args[0].numel())
    )

    _say(ALIKE, Sampling(max_new_tokens=1))
    hook.remove()

    assert seen == [29, 4 * 4]


@pytest.mark.parametrize(("shared", "first"), [(MIN_SHARED - 1, 3 * MIN_SHARED), (MIN_SHARED, MIN_SHARED)])
def test_a_short_common_beginning_is_not_worth_it(shared: int, first: int) -> None:
    seen: list[int] = []
    model = _model()
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(args[0].numel())
    )
    prompts = [[*LONG[:shared], last] for last in (1, 2, 3)]

    _say(prompts, Sampling(max_new_tokens=1))
    hook.remove()

    assert seen[0] == first


def test_equal_prompts_are_answered_equally() -> None:
    said = _ids(_say([LONG, LONG, LONG], Sampling(max_new_tokens=6)))

    assert said == [_reference(LONG, 6)] * 3


# --- how a row ends ----------------------------------------------------------------------------------------


def test_a_row_that_says_a_stop_token_leaves_and_the_others_go_on() -> None:
    whole = [_reference(prompt, 10) for prompt in PROMPTS]
    stop = whole[0][2]

    said = _say(PROMPTS, Sampling(max_new_tokens=10), {stop})

    expected = [row[: row.index(stop) + 1] if stop in row else row for row in whole]
    assert _ids(said) == expected
    assert len({len(row) for row in expected}) > 1
    assert [row[-1].finish for row in said] == ["stop" if stop in row else "length" for row in whole]
    assert {token.finish for row in said for token in row[:-1]} == {""}


def test_rows_are_named_and_kept_in_order_as_others_leave() -> None:
    stop = _reference(PROMPTS[1], 1)[0]
    decoding = Decoding(_model(), PROMPTS, Sampling(max_new_tokens=4), {stop})

    first, second = decoding.step(), decoding.step()

    assert [token.row for token in first] == [0, 1, 2, 3, 4]
    assert (
        [token.row for token in second] == [token.row for token in first if not token.finish] == decoding.rows
    )
    assert 1 not in decoding.rows


def test_after_the_end_there_is_nothing_to_say() -> None:
    decoding = Decoding(_model(), PROMPTS, Sampling(max_new_tokens=1), ())
    decoding.step()

    assert (decoding.rows, decoding.step()) == ([], [])


def test_no_prompt_is_done_at_once() -> None:
    decoding = Decoding(_model(), [], Sampling(), ())

    assert (decoding.rows, decoding.step()) == ([], [])


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("dropped", [[1], [1, 3, 1], [0, 1, 4], [4, 3, 2, 0]], ids=str)
def test_rows_let_go_are_gone_and_the_others_do_not_notice(dropped: list[int], before: int) -> None:
    decoding = Decoding(_model(), PROMPTS, Sampling(max_new_tokens=6), ())
    said: dict[int, list[int]] = {row: [] for row in range(len(PROMPTS))}
    tokens = [token for _ in range(before) for token in decoding.step()]

    for row in dropped:
        decoding.drop(row)
    while decoding.rows:
        tokens += decoding.step()

    for token in tokens:
        said[token.row].append(token.token_id)
    expected = {row: _reference(prompt, 6) for row, prompt in enumerate(PROMPTS)}
    assert said == expected | {row: expected[row][:before] for row in dropped}


@pytest.mark.parametrize(("dropped", "computed"), [([], 4), ([1], 4), ([1, 3], 2), ([0, 1, 2], 1)])
def test_rows_that_left_are_computed_no_longer_once_half_are_gone(dropped: list[int], computed: int) -> None:
    seen: list[int] = []
    model = _model()
    decoding = Decoding(model, PROMPTS[:4], Sampling(max_new_tokens=6), ())
    decoding.step()
    for row in dropped:
        decoding.drop(row)

    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(args[0].numel())
    )
    decoding.step()
    hook.remove()

    assert seen == [computed]


def test_the_last_row_may_be_let_go_too() -> None:
    decoding = Decoding(_model(), [LONG], Sampling(max_new_tokens=6), ())

    decoding.drop(0)

    assert (decoding.rows, decoding.step()) == ([], [])


@pytest.mark.parametrize(("length", "expected"), [(500, 12), (511, 1), (505, 7), (10, 20)])
def test_the_context_is_never_overrun(length: int, expected: int) -> None:
    (said,) = _say([[3 + n % 100 for n in range(length)]], Sampling(max_new_tokens=20))

    assert len(said) == expected
    assert said[-1].finish == "length"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_row_at_the_end_of_the_context_does_not_hold_up_the_others(kind: str) -> None:
    model = _model(kind)
    prompts = [[3 + n % 100 for n in range(length)] for length in (510, 4, 511, 9, 6)]

    said = _ids(_say(prompts, Sampling(max_new_tokens=8), model=model))

    assert [len(row) for row in said] == [2, 8, 1, 8, 8]
    assert said == [_reference(p, len(row), model=model) for p, row in zip(prompts, said, strict=True)]


# --- rows that join ----------------------------------------------------------------------------------------


def _read(prompt: Sequence[int], piece: int = 7, *, model: PreTrainedModel | None = None) -> Prefill:
    prefill = Prefill(model or _model(), prompt)
    while prefill.left:
        prefill.advance(piece)
    return prefill


def _joined(
    arrivals: Sequence[tuple[int, Sequence[int], Sampling]], *, model: PreTrainedModel | None = None
) -> tuple[list[list[int]], Decoding]:
    """What each row says when it joins before the step of its number; nobody joins who cannot."""
    decoding = Decoding(model or _model(), [], Sampling(), ())
    said: dict[int, list[int]] = {}
    waiting, step = list(arrivals), 0
    while waiting or decoding.rows:
        while waiting and waiting[0][0] <= step and decoding.takes_rows:
            _, prompt, sampling = waiting.pop(0)
            (row,) = decoding.join(_read(prompt, model=model), [Chooser(sampling, prompt)])
            said[row] = []
        for token in decoding.step():
            said[token.row].append(token.token_id)
        step += 1
    return list(said.values()), decoding


@pytest.mark.parametrize("kind", ["llama", "gpt2", "sliding window", "capped scores"])
def test_rows_that_join_say_what_they_would_say_alone(kind: str) -> None:
    model = _model(kind)
    wanted = Sampling(max_new_tokens=12)

    said, _ = _joined([(2 * n, prompt, wanted) for n, prompt in enumerate(PROMPTS)], model=model)

    assert said == [_reference(prompt, 12, model=model) for prompt in PROMPTS]


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.lists(st.integers(0, 511), min_size=1, max_size=40),
            st.integers(1, 9),
            st.booleans(),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_whoever_comes_and_goes_a_row_says_the_same(
    guests: list[tuple[int, list[int], int, bool]],
) -> None:
    torch.set_num_threads(1)
    arrivals = [
        (at, prompt, Sampling(max_new_tokens=count, temperature=float(free), seed=at))
        for at, prompt, count, free in sorted(guests, key=lambda guest: guest[0])
    ]

    said, decoding = _joined(arrivals)

    assert said == [_ids(_say([prompt], sampling))[0] for _, prompt, sampling in arrivals]
    assert (decoding._choosers, decoding._room) == ({}, {})


def test_one_prompt_is_read_once_for_several_answers() -> None:
    decoding = Decoding(_model(), [], Sampling(), ())
    decoding.join(_read(PROMPTS[1]), [Chooser(Sampling(max_new_tokens=6), PROMPTS[1])])
    decoding.step()

    rows = decoding.join(_read(LONG), [Chooser(Sampling(max_new_tokens=6), LONG) for _ in range(3)])
    said = {row: [] for row in rows}
    for token in [token for _ in range(6) for token in decoding.step() if token.row in said]:
        said[token.row].append(token.token_id)

    assert list(said.values()) == [_reference(LONG, 6)] * 3


def test_what_the_longest_row_needed_is_forgotten_when_it_leaves() -> None:
    decoding = Decoding(_model(), [], Sampling(), ())
    for prompt, count in ((range(3, 203), 1), ((5, 6), 9), ((7, 8, 9), 9)):
        decoding.join(_read(list(prompt), 50), [Chooser(Sampling(max_new_tokens=count), [])])
        decoding.step()

    assert decoding._cache.get_seq_length() == 3
    assert decoding._mask.shape[1] == 4


def test_a_prompt_is_read_in_pieces() -> None:
    prefill = Prefill(_model(), LONG)
    left = [prefill.left]
    while prefill.left:
        prefill.advance(12)
        left.append(prefill.left)
    prefill.advance(5)

    assert left == [29, 17, 5, 0]
    assert prefill.cache.get_seq_length() == 29


@pytest.mark.parametrize("bad", [[], [1] * 512])
def test_a_prompt_that_cannot_be_answered_is_not_read(bad: list[int]) -> None:
    with pytest.raises(InferenceError):
        Prefill(_model(), bad)


def test_nobody_joins_rows_that_have_not_begun() -> None:
    decoding = Decoding(_model(), PROMPTS, Sampling(max_new_tokens=3), ())
    before = decoding.takes_rows
    decoding.step()

    assert (before, decoding.takes_rows) == (False, True)


def test_rows_of_one_call_may_want_different_things() -> None:
    each = [Sampling(max_new_tokens=3), Sampling(max_new_tokens=5, temperature=2.0, seed=8)]
    decoding = Decoding(_model(), [LONG, PROMPTS[1]], each, ())
    said: list[list[int]] = [[], []]
    while decoding.rows:
        for token in decoding.step():
            said[token.row].append(token.token_id)

    assert said == [_reference(LONG, 3), _ids(_say([PROMPTS[1]], each[1]))[0]]


# --- sampling ----------------------------------------------------------------------------------------------


def test_a_seed_repeats_and_another_differs() -> None:
    def said(seed: int) -> list[list[int]]:
        torch.rand(3)
        return _ids(_say(PROMPTS, Sampling(max_new_tokens=8, temperature=1.0, seed=seed)))

    assert said(3) == said(3)
    assert said(3) != said(4)


def test_what_a_row_says_does_not_depend_on_the_rows_beside_it() -> None:
    together = _ids(_say(PROMPTS, FREE))

    assert together == [_ids(_say([prompt], FREE))[0] for prompt in PROMPTS]
    assert _ids(_say(PROMPTS[::-1], FREE)) == together[::-1]


@pytest.mark.parametrize(
    "nearly_greedy",
    [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}, {"top_k": 1, "temperature": 100.0}],
    ids=str,
)
def test_the_narrowest_draw_is_greedy(nearly_greedy: dict[str, Any]) -> None:
    sampling = Sampling(**({"max_new_tokens": 8, "temperature": 1.0, "seed": 5} | nearly_greedy))

    assert _ids(_say(PROMPTS, sampling)) == _ids(_say(PROMPTS, Sampling(max_new_tokens=8)))


def test_under_greedy_the_seed_and_the_cuts_mean_nothing() -> None:
    said = _ids(_say(PROMPTS, Sampling(max_new_tokens=8, seed=9, top_p=0.5, top_k=3)))

    assert said == _ids(_say(PROMPTS, Sampling(max_new_tokens=8)))


LOGITS = torch.log(torch.tensor([0.05, 0.4, 0.25, 0.2, 0.1]))
"""Five tokens; by likelihood 1, 2, 3, 4, 0."""


def _shares(sampling: Sampling, draws: int = 1500) -> list[float]:
    """How often each of the five tokens is drawn."""
    generator = torch.Generator().manual_seed(1)
    counts = Counter(draw(LOGITS, sampling, generator) for _ in range(draws))
    return [counts[token] / draws for token in range(5)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.05, 0.4, 0.25, 0.2, 0.1]),
        ({"top_k": 2}, [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0]),
        ({"top_k": 5}, [0.05, 0.4, 0.25, 0.2, 0.1]),
        ({"top_k": 99}, [0.05, 0.4, 0.25, 0.2, 0.1]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.5}, [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0]),
        ({"top_p": 0.9}, [0, 0.4 / 0.95, 0.25 / 0.95, 0.2 / 0.95, 0.1 / 0.95]),
        ({"top_p": 0.8, "top_k": 2}, [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0]),
        ({"temperature": 0.5}, [0.0025 / 0.275, 0.16 / 0.275, 0.0625 / 0.275, 0.04 / 0.275, 0.01 / 0.275]),
        ({"temperature": 100.0}, [0.2, 0.2, 0.2, 0.2, 0.2]),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_the_settings_say(settings: dict[str, Any], expected: list[float]) -> None:
    shares = _shares(Sampling(**({"temperature": 1.0} | settings)))

    assert shares == pytest.approx(expected, abs=0.05)
    assert [share == 0 for share in shares] == [share == 0 for share in expected]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_logprob_is_the_models_own(temperature: float) -> None:
    (said,) = _say([LONG], Sampling(max_new_tokens=6, temperature=temperature, seed=2))

    ids = torch.tensor([[*LONG, *(token.token_id for token in said)]])
    with torch.no_grad():
        logprobs = _model()(ids).logits[0].log_softmax(-1)
    places = range(len(LONG) - 1, len(LONG) + 5)
    expected = [logprobs[place, token.token_id].item() for place, token in zip(places, said, strict=True)]
    assert [token.logprob for token in said] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 2**20 + 1),
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", -1.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InferenceError, match=f"{name} is {value}") as caught:
        Sampling(**{name: value})

    assert caught.value.code == "bad-sampling"
    assert caught.value.remedy


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 1},
        {"max_new_tokens": 2**20},
        {"temperature": 100.0},
        {"top_p": 1.0},
        {"top_k": 0},
        {"seed": 2**63 - 1},
    ],
)
def test_settings_at_their_bounds_are_taken(settings: dict[str, Any]) -> None:
    assert Sampling(**settings)


def test_the_largest_seed_draws() -> None:
    assert len(_say([LONG], Sampling(max_new_tokens=3, temperature=1.0, seed=2**63 - 1))[0]) == 3


# --- prompts and models ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "code"), [([], "empty-prompt"), ([1] * 16, "prompt-too-long"), ([1] * 17, "prompt-too-long")]
)
def test_a_prompt_that_cannot_be_answered_is_refused(prompt: list[int], code: str) -> None:
    with pytest.raises(InferenceError) as caught:
        check_prompt(prompt, 16)

    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize("length", [1, 15])
def test_a_prompt_that_leaves_room_is_taken(length: int) -> None:
    assert check_prompt([1] * length, 16) is None


@pytest.mark.parametrize("bad", [[], [1] * 512])
def test_one_bad_prompt_among_good_ones_is_refused_before_anything_is_computed(bad: list[int]) -> None:
    with pytest.raises(InferenceError):
        Decoding(_model(), [LONG, bad], Sampling(), ())


def test_the_length_of_the_context_is_in_the_config() -> None:
    assert context_length(tiny_model(max_position_embeddings=77)) == 77
    assert context_length(tiny_model("gpt2", n_positions=99)) == 99
    assert context_length(make_trainable(tiny_model(), LORA, seed=0)) == 512


def test_a_model_that_names_no_limit_has_a_large_one() -> None:
    """Mamba reads on for ever."""
    config = MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=1, state_size=4)

    assert context_length(MambaForCausalLM(config)) == 1 << 20


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_a_training_model_speaks_and_is_as_it_was_afterwards(tuning: Any, training: bool) -> None:
    model = make_trainable(lively_model(), tuning, seed=0)
    causal = prove(model).causal
    model.train(training)

    with for_inference(model):
        said = _ids(_say([LONG], Sampling(max_new_tokens=5), model=model))
        at_rest = [part.training for part in model.modules()]

    assert said == [_reference(LONG, 5)]
    assert not any(at_rest)
    assert causal.config._attn_implementation == "tunesmith_packed"
    assert all(part.training is training for part in model.modules())


@pytest.mark.parametrize("kind", ["capped scores", "sliding window"])
def test_a_padded_model_speaks_with_the_attention_it_came_with(kind: str) -> None:
    model = _model(kind)
    own = model.config._attn_implementation
    prove(model)

    with for_inference(model):
        inside = model.config._attn_implementation
        said = _ids(_say([LONG], Sampling(max_new_tokens=5), model=model))

    assert inside == own == model.config._attn_implementation
    assert said == [_reference(LONG, 5, model=model)]


def test_a_failure_while_speaking_leaves_the_model_as_it_was() -> None:
    model = make_trainable(lively_model(), LORA, seed=0)
    causal = prove(model).causal

    with pytest.raises(InferenceError), for_inference(model):
        Decoding(model, [[]], Sampling(), ())

    assert causal.config._attn_implementation == "tunesmith_packed"
    assert model.training


class _Broken:
    """A form that cannot be followed beyond its first token."""

    def __init__(self) -> None:
        self.came = 0

    def allowed(self, size: int) -> torch.Tensor:
        if self.came:
            raise InferenceError("Too much.", remedy="Ask for less.", code="bad-constraint")
        return torch.ones(size, dtype=torch.bool)

    def accept(self, _: int) -> None:
        self.came += 1


def test_a_form_that_cannot_be_followed_ends_its_own_row_alone() -> None:
    decoding = Decoding(_model(), PROMPTS[:2], Sampling(max_new_tokens=6), (), [_Broken(), None])
    said: list[list[NewToken]] = [[], []]
    while decoding.rows:
        for token in decoding.step():
            said[token.row].append(token)

    assert [token.error and token.error.code for token in said[0]] == [None, "bad-constraint"]
    assert _ids(said)[1] == _reference(PROMPTS[1], 6)
