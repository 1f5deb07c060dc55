"""What is said is what transformers would say; rows beside it, padding and shared beginnings change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MambaConfig, MambaForCausalLM

from backend.errors import InferenceError
from backend.inference import decoding as decoding_module
from backend.inference import kv_cache
from backend.inference.decoding import (
    Decoding,
    Prefill,
    Sampling,
    check_prompt,
    context_length,
    for_inference,
)
from backend.inference.engines import add_engine, engine_of
from backend.inference.runner import MIN_SHARED
from backend.inference.sampling import Sampler
from backend.training.forward import choose_forward
from backend.training.tuning import make_trainable
from tests.backend.core.decoding import (
    ALIKE,
    BORDER,
    FREE,
    LONG,
    PROMPTS,
    decoder,
    ids_of,
    joined,
    read_whole,
    reference,
    say,
    to_the_end,
)
from tests.backend.core.engine.models import model_of
from tests.backend.core.rows import FULL, LORA, lively_model
from tests.tiny import tiny_model


@pytest.fixture
def computed() -> Iterator[list[int]]:
    """How many tokens each call of the usual model is given."""
    seen: list[int] = []
    words = decoder().get_input_embeddings()
    hook = words.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    yield seen
    hook.remove()


# --- greedy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2", "sliding window", "capped scores"])
def test_greedy_is_generate_token_for_token(kind: str) -> None:
    model = decoder(kind)

    said = say(PROMPTS, Sampling(max_new_tokens=12), model=model)

    assert ids_of(said) == [reference(prompt, 12, model=model) for prompt in PROMPTS]


@pytest.mark.parametrize(
    "kind",
    ["llama", "gpt2", "sliding window", "local attention", "states", "states and attention", "two ropes"],
)
def test_a_shared_beginning_changes_nothing(kind: str) -> None:
    model = decoder(kind)

    said = say(ALIKE, Sampling(max_new_tokens=12), model=model)

    assert ids_of(said) == [reference(prompt, 12, model=model) for prompt in ALIKE]


@settings(max_examples=8)
@given(
    shared=st.integers(0, 12),
    tails=st.lists(st.lists(st.integers(0, 511), min_size=1, max_size=9), min_size=1, max_size=4),
)
@torch.no_grad()
def test_a_batch_is_its_rows_one_by_one(shared: int, tails: list[list[int]]) -> None:
    torch.set_num_threads(1)
    prompts = [[*range(100, 100 + shared), *tail] for tail in tails]

    together = ids_of(say(prompts, Sampling(max_new_tokens=5)))

    assert together == [ids_of(say([prompt], Sampling(max_new_tokens=5)))[0] for prompt in prompts]


def test_what_rows_share_is_computed_once(computed: list[int]) -> None:
    say(ALIKE, Sampling(max_new_tokens=1))

    assert computed == [29, 4 * 4]


@pytest.mark.parametrize(("shared", "first"), [(MIN_SHARED - 1, 3 * MIN_SHARED), (MIN_SHARED, MIN_SHARED)])
def test_a_short_common_beginning_is_not_worth_it(shared: int, first: int, computed: list[int]) -> None:
    say([[*LONG[:shared], last] for last in (1, 2, 3)], Sampling(max_new_tokens=1))

    assert computed[0] == first


def test_equal_prompts_are_answered_equally() -> None:
    said = ids_of(say([LONG, LONG, LONG], Sampling(max_new_tokens=6)))

    assert said == [reference(LONG, 6)] * 3


# --- how a row ends ----------------------------------------------------------------------------------------


def test_a_row_that_says_a_stop_token_leaves_and_the_others_go_on() -> None:
    whole = [reference(prompt, 10) for prompt in PROMPTS]
    stop = whole[0][2]

    said = say(PROMPTS, Sampling(max_new_tokens=10), {stop})

    expected = [row[: row.index(stop) + 1] if stop in row else row for row in whole]
    assert ids_of(said) == expected
    assert len({len(row) for row in expected}) > 1
    assert [row[-1].finish for row in said] == ["stop" if stop in row else "length" for row in whole]
    assert {token.finish for row in said for token in row[:-1]} == {""}


def test_rows_are_named_and_kept_in_order_as_others_leave() -> None:
    stop = reference(PROMPTS[1], 1)[0]
    decoding = Decoding(decoder(), PROMPTS, Sampling(max_new_tokens=4), {stop})

    first, second = decoding.step(), decoding.step()

    assert [token.row for token in first] == [0, 1, 2, 3, 4]
    assert (
        [token.row for token in second] == [token.row for token in first if not token.finish] == decoding.rows
    )
    assert 1 not in decoding.rows


@pytest.mark.parametrize("prompts", [PROMPTS, []], ids=["some", "none"])
def test_after_the_end_there_is_nothing_to_say(prompts: list[tuple[int, ...]]) -> None:
    decoding = Decoding(decoder(), prompts, Sampling(max_new_tokens=1), ())
    decoding.step()

    assert (decoding.rows, decoding.step()) == ([], [])


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("dropped", [[1], [1, 3, 1], [0, 1, 4], [4, 3, 2, 0], [0, 1, 2, 3, 4]], ids=str)
def test_rows_let_go_are_gone_and_the_others_do_not_notice(dropped: list[int], before: int) -> None:
    decoding = Decoding(decoder(), PROMPTS, Sampling(max_new_tokens=6), ())
    said: dict[int, list[int]] = {row: [] for row in range(len(PROMPTS))}
    tokens = [token for _ in range(before) for token in decoding.step()]

    for row in dropped:
        decoding.drop(row)
    while decoding.rows:
        tokens += decoding.step()

    for token in tokens:
        said[token.row].append(token.token_id)
    expected = {row: reference(prompt, 6) for row, prompt in enumerate(PROMPTS)}
    assert said == expected | {row: expected[row][:before] for row in dropped}


@pytest.mark.parametrize(("dropped", "left"), [([], 4), ([1], 4), ([1, 3], 2), ([0, 1, 2], 1)])
def test_rows_that_left_are_computed_no_longer_once_half_are_gone(
    dropped: list[int], left: int, computed: list[int]
) -> None:
    decoding = Decoding(decoder(), PROMPTS[:4], Sampling(max_new_tokens=6), ())
    decoding.step()
    for row in dropped:
        decoding.drop(row)
    computed.clear()

    decoding.step()

    assert computed == [left]


@pytest.mark.parametrize(("length", "expected"), [(500, 12), (511, 1), (505, 7), (10, 20)])
def test_the_context_is_never_overrun(length: int, expected: int) -> None:
    (said,) = say([[3 + n % 100 for n in range(length)]], Sampling(max_new_tokens=20))

    assert len(said) == expected
    assert said[-1].finish == "length"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_row_at_the_end_of_the_context_does_not_hold_up_the_others(kind: str) -> None:
    model = decoder(kind)
    prompts = [[3 + n % 100 for n in range(length)] for length in (510, 4, 511, 9, 6)]

    said = ids_of(say(prompts, Sampling(max_new_tokens=8), model=model))

    assert [len(row) for row in said] == [2, 8, 1, 8, 8]
    assert said == [reference(p, len(row), model=model) for p, row in zip(prompts, said, strict=True)]


# --- rows that join ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["llama", "gpt2", "sliding window", "capped scores", "states", "states and attention", "two ropes"],
)
def test_rows_that_join_say_what_they_would_say_alone(kind: str) -> None:
    model = decoder(kind)
    wanted = Sampling(max_new_tokens=12)

    said, _ = joined([(2 * n, prompt, wanted) for n, prompt in enumerate(PROMPTS)], model=model)

    assert said == [reference(prompt, 12, model=model) for prompt in PROMPTS]


@pytest.mark.parametrize("engine", [True, False])
def test_rows_that_begin_later_say_what_they_would_say_alone(
    engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted = model_of("llama"), Sampling(max_new_tokens=6)
    assert add_engine(model, "exact") == ""
    monkeypatch.setattr(decoding_module, "engine_of", engine_of if engine else lambda _: None)
    decoding = Decoding(model, PROMPTS[:1], wanted, ())
    said = [[token.token_id for token in decoding.step()]]
    said += [[] for _ in PROMPTS[1:]]
    numbers = decoding.begin(PROMPTS[1:], [wanted] * len(said[1:]), [None] * len(said[1:]))
    assert numbers == list(range(1, len(PROMPTS)))
    while decoding.rows:
        for token in decoding.step():
            said[token.row].append(token.token_id)
    assert said == [reference(prompt, 6, model=model) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", ["states", "states and attention", "two ropes"])
def test_rows_of_states_or_two_ropes_leave_and_the_others_do_not_notice(kind: str) -> None:
    """A row that ends, one that crosses the border of its rope, and one that began beyond it."""
    model = decoder(kind)
    counts = [2, 9, 2, 2, 9]
    prompts = [(5,), (9, 8, 7, 6, 5, 4, 3, 2), LONG, (11, 12, 13), (3, 40, 20, 8, 111)]

    said = say(prompts, [Sampling(max_new_tokens=count) for count in counts], model=model)

    assert ids_of(said) == [
        reference(prompt, count, model=model) for prompt, count in zip(prompts, counts, strict=True)
    ]


def test_an_empty_seat_does_not_count_as_a_long_row() -> None:
    """A row that ended keeps its slot for a while, and would have crossed the border of the rope there."""
    model = decoder("two ropes")
    prompts, counts = [LONG[: BORDER - 2], (5,), (6, 7), (8, 9, 10)], [1, 6, 6, 6]

    said = say(prompts, [Sampling(max_new_tokens=count) for count in counts], model=model)

    assert ids_of(said) == [
        reference(prompt, count, model=model) for prompt, count in zip(prompts, counts, strict=True)
    ]


@pytest.mark.parametrize("kind", ["states", "states and attention", "two ropes"])
def test_several_answers_to_one_prompt_whatever_the_cache(kind: str) -> None:
    model = decoder(kind)
    decoding = Decoding(model, [], Sampling(), ())

    decoding.join(
        read_whole(PROMPTS[1], model=model),
        [Sampler(Sampling(max_new_tokens=9), PROMPTS[1]) for _ in range(3)],
    )

    assert ids_of(to_the_end(decoding)) == [reference(PROMPTS[1], 9, model=model)] * 3


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_row_that_cannot_join_leaves_the_others_as_they_were(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(kind)
    decoding = Decoding(model, PROMPTS[:2], Sampling(max_new_tokens=9), ())
    said = [decoding.step()]
    prefill = read_whole(LONG, model=model)

    monkeypatch.setattr(kv_cache, "_extended", _fails_the_second_time(kv_cache._extended))
    with pytest.raises(MemoryError):
        decoding.join(prefill, [Sampler(Sampling(), LONG)])
    said += [decoding.step() for _ in range(8)]

    assert [[token.token_id for token in row] for row in zip(*said, strict=True)] == [
        reference(prompt, 9, model=model) for prompt in PROMPTS[:2]
    ]


def _fails_the_second_time(work: Any) -> Any:
    calls = iter([work])

    def once(*args: Any) -> Any:
        for call in calls:
            return call(*args)
        raise MemoryError

    return once


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

    said, decoding = joined(arrivals)

    assert said == [ids_of(say([prompt], sampling))[0] for _, prompt, sampling in arrivals]
    assert (decoding.rows, decoding._runners) == ([], [])


def test_one_prompt_is_read_once_for_several_answers() -> None:
    decoding = Decoding(decoder(), [], Sampling(), ())
    decoding.join(read_whole(PROMPTS[1]), [Sampler(Sampling(max_new_tokens=6), PROMPTS[1])])
    decoding.step()

    rows = decoding.join(read_whole(LONG), [Sampler(Sampling(max_new_tokens=6), LONG) for _ in range(3)])
    said = {row: [] for row in rows}
    for token in [token for _ in range(6) for token in decoding.step() if token.row in said]:
        said[token.row].append(token.token_id)

    assert list(said.values()) == [reference(LONG, 6)] * 3


def test_what_the_longest_row_needed_is_forgotten_when_it_leaves() -> None:
    decoding = Decoding(decoder(), [], Sampling(), ())
    for prompt, count in ((range(3, 203), 1), ((5, 6), 9), ((7, 8, 9), 9)):
        decoding.join(read_whole(list(prompt), 50), [Sampler(Sampling(max_new_tokens=count), [])])
        decoding.step()

    (runner,) = decoding._runners
    assert runner._cache.get_seq_length() == 3
    assert runner._mask.shape[1] == 4


def test_a_prompt_is_read_in_pieces() -> None:
    prefill = Prefill(decoder(), LONG)
    left = [prefill.left]
    while prefill.left:
        prefill.advance(12)
        left.append(prefill.left)
    prefill.advance(5)

    assert left == [29, 17, 5, 0]
    assert prefill.cache.get_seq_length() == 29


def test_nobody_joins_rows_that_have_not_begun() -> None:
    decoding = Decoding(decoder(), PROMPTS, Sampling(max_new_tokens=3), ())
    before = decoding.accepts_rows
    decoding.step()

    assert (before, decoding.accepts_rows) == (False, True)


def test_rows_of_one_call_may_want_different_things() -> None:
    each = [Sampling(max_new_tokens=3), Sampling(max_new_tokens=5, temperature=2.0, seed=8)]
    said = ids_of(say([LONG, PROMPTS[1]], each))

    assert said == [reference(LONG, 3), ids_of(say([PROMPTS[1]], each[1]))[0]]


# --- sampling ----------------------------------------------------------------------------------------------


def test_a_seed_repeats_and_another_differs() -> None:
    def said(seed: int) -> list[list[int]]:
        torch.rand(3)
        return ids_of(say(PROMPTS, Sampling(max_new_tokens=8, temperature=1.0, seed=seed)))

    assert said(3) == said(3)
    assert said(3) != said(4)


def test_what_a_row_says_does_not_depend_on_the_rows_beside_it() -> None:
    together = ids_of(say(PROMPTS, FREE))

    assert together == [ids_of(say([prompt], FREE))[0] for prompt in PROMPTS]
    assert ids_of(say(PROMPTS[::-1], FREE)) == together[::-1]


GREEDY = {"temperature": 0.0, "top_p": 0.5, "top_k": 3}


@pytest.mark.parametrize(
    "nearly_greedy",
    [
        {"top_k": 1},
        {"top_p": 1e-6},
        {"temperature": 1e-4},
        {"top_k": 1, "temperature": 100.0},
        {"temperature": 0.0, "top_p": 0.5, "top_k": 3},
    ],
    ids=str,
)
def test_the_narrowest_draw_is_greedy(nearly_greedy: dict[str, Any]) -> None:
    sampling = Sampling(**({"max_new_tokens": 8, "temperature": 1.0, "seed": 5} | nearly_greedy))

    assert ids_of(say(PROMPTS, sampling)) == ids_of(say(PROMPTS, Sampling(max_new_tokens=8)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_logprob_is_the_models_own(temperature: float) -> None:
    (said,) = say([LONG], Sampling(max_new_tokens=6, temperature=temperature, seed=2))

    ids = torch.tensor([[*LONG, *(token.token_id for token in said)]])
    with torch.no_grad():
        logprobs = decoder()(ids).logits[0].log_softmax(-1)
    places = range(len(LONG) - 1, len(LONG) + 5)
    expected = [logprobs[place, token.token_id].item() for place, token in zip(places, said, strict=True)]
    assert [token.logprob for token in said] == pytest.approx(expected, abs=1e-4)


def test_the_largest_seed_draws() -> None:
    assert len(say([LONG], Sampling(max_new_tokens=3, temperature=1.0, seed=2**63 - 1))[0]) == 3


# --- prompts and models ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "code"), [([], "empty-prompt"), ([1] * 16, "prompt-too-long"), ([1] * 17, "prompt-too-long")]
)
def test_a_prompt_that_cannot_be_answered_is_refused(prompt: list[int], code: str) -> None:
    with pytest.raises(InferenceError) as caught:
        check_prompt(prompt, 16)

    assert check_prompt([1] * 15, 16) is None
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize("bad", [[], [1] * 512])
@pytest.mark.parametrize(
    "begin", [Prefill, lambda model, bad: Decoding(model, [LONG, bad], Sampling(), ())], ids=["one", "many"]
)
def test_a_bad_prompt_is_refused_before_anything_is_computed(
    begin: Any, bad: list[int], computed: list[int]
) -> None:
    with pytest.raises(InferenceError):
        begin(decoder(), bad)
    assert computed == []


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
    causal = choose_forward(model).causal
    model.train(training)

    with for_inference(model):
        said = ids_of(say([LONG], Sampling(max_new_tokens=5), model=model))
        at_rest = [part.training for part in model.modules()]

    assert said == [reference(LONG, 5)]
    assert not any(at_rest)
    assert causal.config._attn_implementation == "tunesmith_packed"
    assert all(part.training is training for part in model.modules())


@pytest.mark.parametrize("kind", ["capped scores", "sliding window"])
def test_a_padded_model_speaks_with_the_attention_it_came_with(kind: str) -> None:
    model = decoder(kind)
    own = model.config._attn_implementation
    choose_forward(model)

    with for_inference(model):
        inside = model.config._attn_implementation
        said = ids_of(say([LONG], Sampling(max_new_tokens=5), model=model))

    assert inside == own == model.config._attn_implementation
    assert said == [reference(LONG, 5, model=model)]


def test_a_failure_while_speaking_leaves_the_model_as_it_was() -> None:
    model = make_trainable(lively_model(), LORA, seed=0)
    causal = choose_forward(model).causal

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
    decoding = Decoding(decoder(), PROMPTS[:2], Sampling(max_new_tokens=6), (), [_Broken(), None])
    said = to_the_end(decoding)

    assert [token.error and token.error.code for token in said[0]] == [None, "bad-constraint"]
    assert ids_of(said)[1] == reference(PROMPTS[1], 6)
