"""Answers of a really trained model: backend/inferencer.py."""

from __future__ import annotations

import gc
import shutil
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import torch
from peft import PeftModel
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from backend import inferencer
from backend.errors import InferenceError, ModelError, RunError, TunesmithError
from backend.inference.constraint import Constraint, GrammarMatcher
from backend.inference.loaded import LoadedBase
from backend.inference.prompting import PromptRenderer
from backend.inference.shared_base import SharedBase
from backend.inferencer import Inferencer
from backend.run.folder import RunDir
from backend.run.metrics import best_step, held_out_losses
from backend.run.settings import run_config
from tests.runs import SHORT, make_run
from tests.tiny import quiet_transformers, tiny_model_folder

ANSWER = "expected output"
PROMPTS = [
    "test input",
    "food pork",
    "x",
    "food pear",
    "Which store section does this food belong to? Bratwurst, pork, and everything that goes with it",
    "hello\nworld",
    "food pork",
]


class _PanicError(BaseException):
    """What a panic in Rust code is to Python."""


@pytest.fixture(scope="module")
def model(trained: RunDir) -> Iterator[Inferencer]:
    with Inferencer(trained) as loaded:
        yield loaded


@pytest.fixture
def copied(trained: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the finished run, to be harmed."""
    return RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))


def reference(base: Path, adapter: Path | None = None) -> PeftModel | PreTrainedModel:
    """The model as transformers and peft load it themselves."""
    with quiet_transformers():
        plain = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    with warnings.catch_warnings():  # peft asks transformers about a property that is to be renamed
        warnings.simplefilter("ignore", FutureWarning)
        return plain if adapter is None else PeftModel.from_pretrained(plain, str(adapter)).eval()


def greedy(loaded: PeftModel | PreTrainedModel, folder: Path, prompt: str, limit: int) -> str:
    """What transformers' own generate answers."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    asked = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    said = loaded.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))


def refusal(model: Inferencer, prompt: Any) -> TunesmithError | None:
    """What is wrong with a prompt, or None."""
    try:
        model.render(prompt)
    except TunesmithError as error:
        return error
    return None


def test_inferencer_basic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The founding plan's own example: a mocked model and tokenizer, each held to the signatures of the real one."""
    words = ["", "test", " input", "expected", " output"]
    script = [3, 4, 0]  # "expected", " output", and the token that ends an answer

    tokenizer = create_autospec(PreTrainedTokenizerFast, instance=True)
    tokenizer.added_tokens_decoder = {0: AddedToken("", special=True)}
    tokenizer.backend_tokenizer.decoder = None
    tokenizer.decode.side_effect = lambda ids, **_: "".join(words[index] for index in ids)

    model = create_autospec(LlamaForCausalLM, instance=True)
    model.config = LlamaConfig(num_hidden_layers=1, max_position_embeddings=16)
    model.parameters.side_effect = lambda: iter([torch.zeros(1)])
    model.side_effect = model.forward

    def say_next(*, input_ids: torch.Tensor, **_: object) -> CausalLMOutputWithPast:
        said = model.forward.call_count - 1
        return CausalLMOutputWithPast(logits=torch.eye(len(words))[script[said]].expand(1, 1, -1))

    model.forward.side_effect = say_next

    renderer = create_autospec(PromptRenderer, instance=True, tokenizer=tokenizer, stop_ids={0}, known=None)
    renderer.render.return_value = [1, 2]
    renderer.matcher.return_value = None
    shared = create_autospec(SharedBase, instance=True, model=model)
    loaded = create_autospec(LoadedBase, return_value=Mock(LoadedBase, shared=shared, lanes=1))
    loaded.return_value.renderer.return_value = renderer
    monkeypatch.setattr(inferencer, "find_model", create_autospec(inferencer.find_model))
    monkeypatch.setattr(inferencer, "LoadedBase", loaded)

    inf = Inferencer("any model")
    result = inf.infer("test input")
    assert result == "expected output"

    renderer.render.assert_called_once_with("test input", tools=None)
    assert [call.kwargs["input_ids"].tolist() for call in model.forward.call_args_list] == [
        [[1, 2]],
        [[3]],
        [[4]],
    ]
    inf.close()
    loaded.return_value.close.assert_called_once_with()


class TestOnePrompt:
    def test_the_founding_example(self, trained: RunDir) -> None:
        inf = Inferencer(trained)
        assert inf.infer("test input") == "expected output"
        inf.close()

    def test_greedy_answers_are_those_of_transformers_and_peft(
        self, model: Inferencer, trained: RunDir, learner: Path
    ) -> None:
        other = reference(learner, trained.adapter)
        expected = [greedy(other, learner, prompt, 12) for prompt in PROMPTS]
        assert [model.infer(prompt, max_new_tokens=12) for prompt in PROMPTS] == expected
        assert len(set(expected)) > 3

    def test_the_prompt_is_rendered_by_the_models_own_template(self, model: Inferencer) -> None:
        asked = [{"role": "user", "content": "food pork"}]
        own = model.tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        assert model.render("food pork") == own

    def test_text_is_a_users_message(self, model: Inferencer) -> None:
        asked = [{"role": "user", "content": "food pork"}]
        assert model.infer(asked) == model.infer("food pork") == "meat"

    def test_messages_are_taken_as_they_are(self, model: Inferencer) -> None:
        talk = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "food ham"},
            {"role": "assistant", "content": "meat"},
            {"role": "user", "content": "food pear"},
        ]
        own = model.tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
        assert model.render(talk) == own
        assert model.infer(talk, max_new_tokens=3) == model.infer_batch([talk], max_new_tokens=3)[0]

    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_it_ends_at_the_limit(self, model: Inferencer, limit: int) -> None:
        first = model.tokenizer.encode(ANSWER, add_special_tokens=False)[:limit]
        assert model.infer("test input", max_new_tokens=limit) == model.tokenizer.decode(first)

    def test_it_ends_where_the_context_ends(self, learner: Path) -> None:
        with Inferencer(learner) as base:
            longest = next(
                text
                for text in ("no " * count for count in range(base.context_length, 0, -1))
                if refusal(base, text) is None
            )
            assert len(base.render(longest)) == base.context_length - 1
            assert len(list(base.stream(longest))) == 1


class TestManyPrompts:
    def test_the_same_answers_as_one_by_one_in_the_same_order(self, model: Inferencer) -> None:
        one_by_one = [model.infer(prompt, max_new_tokens=12) for prompt in PROMPTS]
        assert model.infer_batch(PROMPTS, max_new_tokens=12) == one_by_one
        assert model.infer_batch(PROMPTS[::-1], max_new_tokens=12) == one_by_one[::-1]

    def test_in_many_small_batches(self, model: Inferencer, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = model.infer_batch(PROMPTS, max_new_tokens=5)
        monkeypatch.setattr(inferencer, "ROWS_AT_ONCE", 2)
        done: list[int] = []
        assert model.infer_batch(PROMPTS, max_new_tokens=5, progress=done.append) == whole
        assert done == [1] * len(PROMPTS)

    def test_long_prompts_are_not_put_side_by_side(
        self, model: Inferencer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inferencer, "TOKENS_AT_ONCE", 1)
        done: list[int] = []
        answers = model.infer_batch(PROMPTS, max_new_tokens=5, progress=done.append)
        assert answers == [model.infer(prompt, max_new_tokens=5) for prompt in PROMPTS]
        assert done == [1] * len(PROMPTS)

    def test_none_is_none_and_tools_are_as_many_as_prompts(self, model: Inferencer) -> None:
        assert model.infer_batch([]) == []
        with pytest.raises(InferenceError, match="2 prompts, and tools for 1"):
            model.infer_batch(["a", "b"], tools=[None])

    @pytest.mark.parametrize("seed", [0, 7])
    def test_sampled_rows_do_not_depend_on_their_neighbours(self, model: Inferencer, seed: int) -> None:
        sampling = {"temperature": 2.0, "seed": seed, "max_new_tokens": 6}
        one_by_one = [model.infer(prompt, **sampling) for prompt in PROMPTS]
        assert model.infer_batch(PROMPTS, **sampling) == one_by_one

    def test_equal_prompts_without_a_seed_are_answered_differently_and_the_same_again(
        self, model: Inferencer
    ) -> None:
        sampling = {"temperature": 3.0, "max_new_tokens": 8}
        said = model.infer_batch(["test input"] * 5, **sampling)

        assert len(set(map(str, said))) == 5
        assert said[0] == model.infer("test input", **sampling)
        assert model.infer_batch(["test input"] * 3, first=2, **sampling) == said[2:]

    def test_a_row_that_fails_while_it_is_written_has_its_error_in_its_place(
        self, model: Inferencer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        faults = iter([InferenceError("too complex", remedy="", code="bad-constraint"), _PanicError("None")])
        allowed, prompts = GrammarMatcher.allowed, ["test input", "food pork", "food pear", "hello"]
        calls = iter([allowed] * 5)

        def sometimes(self: GrammarMatcher, size: int) -> Any:
            for call in calls:
                return call(self, size)
            for fault in faults:
                raise fault
            return allowed(self, size)

        monkeypatch.setattr(GrammarMatcher, "allowed", sometimes)
        said = model.infer_batch(prompts, constraint=Constraint.regex("[a-z ]{6}"), max_new_tokens=12)

        codes = [each.code for each in said if isinstance(each, InferenceError)]
        assert sorted(codes) == ["answer-failed", "bad-constraint"]
        assert [len(each) for each in said if isinstance(each, str)] == [6, 6]

    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            ("", "empty-prompt"),
            (" \n", "empty-prompt"),
            ("word " * 600, "prompt-too-long"),
            ([{"role": "user"}], "template-refused"),
            (5, "bad-prompt"),
        ],
    )
    def test_a_bad_one_has_its_error_in_its_place_and_the_rest_is_answered(
        self, model: Inferencer, bad: Any, code: str
    ) -> None:
        done: list[int] = []
        first, second, error, last = model.infer_batch(
            ["test input", "food pork", bad, "food pear"], progress=done.append
        )
        assert [first, second, last] == [ANSWER, "meat", "fruit"]
        assert isinstance(error, TunesmithError)
        assert (error.code, bool(error.remedy)) == (code, True)
        assert sorted(done) == [1] * 4

    def test_stop_strings(self, model: Inferencer) -> None:
        assert model.infer_batch(["test input", "food pork"], stop=["out", "me"]) == ["expected ", ""]


class TestStreaming:
    @pytest.mark.parametrize("prompt", PROMPTS[:3])
    def test_the_pieces_are_the_answer(self, model: Inferencer, prompt: str) -> None:
        pieces = list(model.stream(prompt, max_new_tokens=12))
        assert "".join(pieces) == model.infer(prompt, max_new_tokens=12)
        assert all(pieces)

    def test_it_comes_piece_by_piece(self, model: Inferencer) -> None:
        assert len(list(model.stream("test input"))) > 3

    def test_it_can_be_left(self, model: Inferencer) -> None:
        stream = model.stream("test input")
        assert ANSWER.startswith(next(stream))
        stream.close()
        assert list(stream) == []

    @pytest.mark.parametrize("stop", ["exp", "ted", "d o", "put"])
    def test_a_stop_string_never_shows_not_even_in_part(self, model: Inferencer, stop: str) -> None:
        pieces = list(model.stream("test input", stop=[stop]))
        assert "".join(pieces) == ANSWER[: ANSWER.index(stop)]
        assert model.infer_batch(["test input"], stop=[stop]) == ["".join(pieces)]

    @pytest.mark.parametrize("stop", ["output!", "expected outputs", "tt", ANSWER + "\n"])
    def test_the_beginning_of_a_stop_string_that_does_not_come_is_shown_after_all(
        self, model: Inferencer, stop: str
    ) -> None:
        assert "".join(model.stream("test input", stop=[stop])) == ANSWER
        assert model.infer_batch(["test input"], stop=[stop]) == [ANSWER]

    def test_the_first_of_several_stop_strings_counts(self, model: Inferencer) -> None:
        assert model.infer("test input", stop=["put", "zzz", "ted o", "out"]) == "expec"
        assert model.infer("test input", stop=["c", "xpec"]) == "e"  # both are there at once


class TestSampling:
    def test_a_seed_fixes_the_draw(self, model: Inferencer) -> None:
        sampling = {"temperature": 3.0, "max_new_tokens": 8}
        said = [model.infer("test input", seed=seed, **sampling) for seed in range(5)]
        assert [model.infer("test input", seed=seed, **sampling) for seed in range(5)] == said
        assert len(set(said)) > 1

    @pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}])
    def test_the_narrowest_draw_is_greedy(self, model: Inferencer, narrow: dict[str, Any]) -> None:
        assert model.infer("test input", **{"temperature": 5.0} | narrow) == ANSWER

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("max_new_tokens", 0),
            ("temprature", 1),
        ],
    )
    def test_an_option_that_makes_no_sense_is_named(
        self, model: Inferencer, option: str, value: float
    ) -> None:
        with pytest.raises(InferenceError, match=option) as caught:
            model.infer("test input", **{option: value})
        assert caught.value.code == "bad-sampling"
        assert caught.value.remedy


class TestPrompts:
    @pytest.mark.parametrize(
        ("prompt", "code"),
        [
            ("", "empty-prompt"),
            ([{"role": "user", "content": "word " * 600}], "prompt-too-long"),
        ],
    )
    def test_one_that_cannot_be_served(self, model: Inferencer, prompt: Any, code: str) -> None:
        problem = refusal(model, prompt)
        assert isinstance(problem, InferenceError)
        assert (problem.code, bool(problem.remedy)) == (code, True)
        with pytest.raises(InferenceError) as caught:
            model.infer(prompt)
        assert caught.value.code == code


class TestWhichModel:
    def test_the_base_alone(self, model: Inferencer, trained: RunDir, learner: Path) -> None:
        with Inferencer(trained, base=True) as base, Inferencer(learner) as plain:
            said = base.infer_batch(PROMPTS, max_new_tokens=5)
            assert said == plain.infer_batch(PROMPTS, max_new_tokens=5)
        assert said != model.infer_batch(PROMPTS, max_new_tokens=5)

    def test_a_folder_by_its_path_and_a_run_by_its_name(self, trained: RunDir, learner: Path) -> None:
        expected = greedy(reference(learner), learner, "food pork", 4)
        with Inferencer(str(learner)) as plain, Inferencer(trained.path) as tuned:
            assert plain.infer("food pork", max_new_tokens=4) == expected
            assert tuned.infer("food pork") == "meat"

    def test_a_checkpoint(self, trained: RunDir, learner: Path) -> None:
        expected = greedy(reference(learner, trained.checkpoint(10)), learner, "food pear", 4)
        with Inferencer(trained, checkpoint=10) as then:
            assert then.infer("food pear", max_new_tokens=4) == expected

    def test_every_weight_of_a_full_run(self, tmp_path: Path, learner: Path, rows_file: Path) -> None:
        from backend.trainer_main import run

        made = make_run(tmp_path / "runs", learner, rows_file, SHORT | {"tuning.method": "full"})
        assert run(made).code == "completed"
        expected = greedy(reference(made.model), made.model, "food pork", 6)
        with Inferencer(made) as tuned, Inferencer(made, base=True) as base:
            assert tuned.infer("food pork", max_new_tokens=6) == expected
            assert base.infer("food pork", max_new_tokens=6) != expected
            with Inferencer(made, checkpoint="latest") as last:  # which keeps no tokenizer of its own
                assert last.infer("food pork", max_new_tokens=6) == expected

    def test_a_model_without_a_template_continues_text(self, tmp_path: Path) -> None:
        folder = tiny_model_folder(tmp_path / "base", family="base", initializer_range=0.5)
        with Inferencer(folder) as plain:
            ids = plain.tokenizer.encode("hello world", return_tensors="pt")
            said = plain.model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
            assert plain.infer("hello world", max_new_tokens=4) == plain.tokenizer.decode(said)
            problem = refusal(plain, [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
        assert problem is not None
        assert problem.code == "no-chat-template"


class TestSwapping:
    """One loaded base, and whichever run, checkpoint or strength is wanted over it."""

    @pytest.fixture
    def swapped(self, trained: RunDir) -> Iterator[Inferencer]:
        with Inferencer(trained, base=True) as loaded:
            yield loaded

    def test_going_over_answers_as_if_loaded_anew(
        self, swapped: Inferencer, trained: RunDir, learner: Path
    ) -> None:
        whole = swapped.model
        for options in ({}, {"checkpoint": 10}, {"base": True}, {"checkpoint": "latest"}, {}):
            swapped.use(trained, **options)
            said = swapped.infer_batch(PROMPTS, max_new_tokens=5)
            with Inferencer(trained, **options) as fresh:
                assert said == fresh.infer_batch(PROMPTS, max_new_tokens=5)
        assert swapped.model is whole
        swapped.use(learner)
        assert swapped.infer("food pork", max_new_tokens=4) == greedy(
            reference(learner), learner, "food pork", 4
        )

    def test_an_adapter_at_strength_nothing_is_the_base_bit_for_bit(
        self, swapped: Inferencer, trained: RunDir
    ) -> None:
        before = {name: part.clone() for name, part in swapped.model.state_dict().items()}
        for strength in (1.0, 0.3, 2.0, 0.0):
            swapped.use(trained, strength=strength)
        after = swapped.model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], part) for name, part in before.items())

    def test_another_base_is_refused_and_nothing_changes(
        self, swapped: Inferencer, trained: RunDir, tmp_path: Path
    ) -> None:
        swapped.use(trained)
        other = tiny_model_folder(tmp_path / "other")
        with pytest.raises(InferenceError) as caught:
            swapped.use(other)
        assert caught.value.code == "another-base"
        assert swapped.infer("test input") == ANSWER

    @pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
    def test_a_strength_that_makes_no_sense(
        self, swapped: Inferencer, trained: RunDir, strength: float
    ) -> None:
        with pytest.raises(InferenceError, match="adapter_strength") as caught:
            swapped.use(trained, strength=strength)
        assert caught.value.code == "bad-strength"

    def test_the_best_checkpoint(self, trained: RunDir) -> None:
        step = best_step(held_out_losses(trained.metrics().records))
        with Inferencer(trained, checkpoint="best") as best, Inferencer(trained, checkpoint=step) as same:
            said = [each.infer_batch(PROMPTS, max_new_tokens=5) for each in (best, same)]
        assert said[0] == said[1]


class TestSeveralAnswers:
    def test_the_first_is_what_infer_answers_and_the_others_are_drawn_apart(self, model: Inferencer) -> None:
        sampling = {"temperature": 3.0, "max_new_tokens": 8, "seed": 5}
        said = model.answers("test input", n=4, **sampling)
        assert said[0].text == model.infer("test input", **sampling)
        assert len({answer.text for answer in said}) > 1
        assert model.answers("test input", n=4, **sampling) == said

    def test_how_each_ended_and_its_tokens(self, model: Inferencer) -> None:
        (whole,) = model.answers("test input", top_logprobs=3)
        (cut,) = model.answers("test input", max_new_tokens=2)
        (stopped,) = model.answers("test input", stop=["out"])
        assert (whole.text, whole.finish) == (ANSWER, "stop")
        assert whole.tokens[-1].token_id in model.renderer.stop_ids
        assert {len(token.top) for token in whole.tokens} == {3}
        assert all(token.logprob == pytest.approx(token.top[0][1], abs=1e-5) for token in whole.tokens)
        assert (cut.finish, len(cut.tokens)) == ("length", 2)
        assert (stopped.text, stopped.finish) == ("expected ", "stop")

    @pytest.mark.parametrize("n", [0, -1, 65])
    def test_a_number_that_makes_no_sense(self, model: Inferencer, n: int) -> None:
        with pytest.raises(InferenceError, match=f"n is {n}") as caught:
            model.answers("test input", n=n)
        assert caught.value.code == "bad-sampling"


class TestForms:
    def test_an_answer_is_held_to_its_form(self, model: Inferencer) -> None:
        choice = Constraint.choice("Ham", "Cheese")
        assert model.infer("test input", constraint=choice) in {"Ham", "Cheese"}
        (answer,) = model.answers("test input", constraint=Constraint.regex("[0-9]{4}"))
        assert answer.text.isdecimal()
        assert (len(answer.text), answer.finish) == (4, "stop")

    def test_one_that_fits_anyway_changes_nothing(self, model: Inferencer) -> None:
        assert model.infer("test input", constraint=Constraint.regex("[a-z ]+")) == ANSWER

    def test_one_that_nothing_can_have(self, model: Inferencer) -> None:
        with pytest.raises(InferenceError) as caught:
            model.infer("test input", constraint=Constraint.regex("("))
        assert caught.value.code == "bad-constraint"


class TestWhatCannotBeLoaded:
    @pytest.mark.parametrize("name", ["", "no/such/model/anywhere"])
    def test_what_is_neither_a_run_nor_a_model(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ModelError) as caught:
            Inferencer(tmp_path / name)
        assert caught.value.remedy

    def test_an_adapter_of_another_model(self, copied: RunDir, tmp_path: Path) -> None:
        other = tiny_model_folder(tmp_path / "wider", hidden_size=64)
        config = copied.read_config_text().replace(run_config(copied).model.model_name_or_path, str(other))
        copied.config.write_text(config)
        with pytest.raises(RunError, match="is not the base model that") as caught:
            Inferencer(copied)
        assert caught.value.code == "base-changed"


class TestClosing:
    def test_the_memory_is_given_back(self, learner: Path) -> None:
        loaded = Inferencer(learner)
        held = weakref.ref(loaded.model)
        loaded.close()
        gc.collect()
        assert held() is None

    def test_twice_is_harmless(self, learner: Path) -> None:
        with Inferencer(learner) as loaded:
            loaded.close()
        loaded.close()
        assert loaded.tokenizer is not None

    @pytest.mark.parametrize("ask", [Inferencer.infer, lambda model, text: model.infer_batch([text])])
    def test_afterwards_nothing_is_answered(self, learner: Path, ask: Any) -> None:
        loaded = Inferencer(learner)
        loaded.close()
        with pytest.raises(InferenceError, match="closed") as caught:
            ask(loaded, "test input")
        assert caught.value.code == "closed"
