"""Talk to a model: a finished run, one of its checkpoints, or any model the loader knows. Floor F2.

``Inferencer(run).infer("text")`` answers; the prompt is rendered by the same room that rendered the training
rows, so the model sees the ids it learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from backend.config import RunConfig, parse_config
from backend.core.checkpoint import checkpoint_folders, step_name, verify_folder
from backend.core.device import plan_compute
from backend.core.generation import Decoding, Sampling, check_prompt, context_length
from backend.core.lanes import Lanes
from backend.core.model_loader import load_adapter, load_base, resolve_model
from backend.core.tokenizer import (
    IncrementalDecoder,
    encode_prompt,
    encode_prompt_completion,
    load_tokenizer,
    stop_token_ids,
)
from backend.errors import InferenceError, RunError, TunesmithError
from backend.run_dir import RunDir
from backend.utils.config_utils import parse_yaml

Prompt: TypeAlias = str | Sequence[dict[str, Any]]

ROWS_AT_ONCE = 32
TOKENS_AT_ONCE = 8192
"""Most prompt tokens decoded side by side."""


@dataclass
class _Answer:
    """The text of one row as its tokens come; stop strings end it and never show, not even in part."""

    decoder: IncrementalDecoder
    stop: tuple[str, ...]
    text: str = ""
    held: str = field(default="", repr=False)
    done: bool = False

    def push(self, piece: str, *, final: bool = False) -> str:
        """The text that is safe to show after ``piece``."""
        text = self.held + piece
        cuts = [found for found in (text.find(stop) for stop in self.stop) if found >= 0]
        if cuts:
            self.done, shown, self.held = True, text[: min(cuts)], ""
        else:
            keep = 0 if final else _possible_stop(text, self.stop)
            shown, self.held = text[: len(text) - keep], text[len(text) - keep :]
        self.text += shown
        return shown


def _possible_stop(text: str, stops: Sequence[str]) -> int:
    """Length of the longest ending of ``text`` that could be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    return next(
        (
            n
            for n in range(min(longest, len(text)), 0, -1)
            if any(stop.startswith(text[-n:]) for stop in stops)
        ),
        0,
    )


class Inferencer:
    """A loaded model. Use it in a ``with`` block, or ``close`` it, to give its memory back.

    ``source`` is a run (folder or RunDir), a model folder, alias or hub id. ``checkpoint`` picks a step of a run
    ("latest", or a number) instead of its result; ``base=True`` leaves the adapter away. Weights are used in
    float32 on CPU, which is what other readers compare against.

    Raises RunError (unfinished-run, damaged-checkpoint, no-such-checkpoint) and ModelError.
    """

    def __init__(
        self,
        source: str | Path | RunDir,
        *,
        checkpoint: int | str | None = None,
        base: bool = False,
        dtype: str = "float32",
    ) -> None:
        run = source if isinstance(source, RunDir) else _as_run(source)
        plan = plan_compute(dtype)
        torch.set_float32_matmul_precision(plan.matmul_precision)
        self._lane_count = plan.lanes
        device_dtype = plan.torch_dtype
        if run is None:
            folder = resolve_model(str(source))
            self.tokenizer = load_tokenizer(folder)
            model: PreTrainedModel | PeftModel = load_base(folder, dtype=device_dtype)
        else:
            config = run_config(run)
            folder = resolve_model(config.model.model_name_or_path, revision=config.model.revision)
            tuned = None if base else _tuned_folder(run, checkpoint)
            full = config.tuning.method == "full" and tuned is not None
            self.tokenizer = load_tokenizer(
                tuned if tuned and (tuned / "tokenizer.json").exists() else folder
            )
            model = base_model = load_base(tuned if full and tuned else folder, dtype=device_dtype)
            if tuned and not full:
                model = load_adapter(base_model, tuned)
                model.merge_adapter()  # thin products cost as much as wide ones when decoding
        self._model: PreTrainedModel | PeftModel | None = model.to(plan.device).eval()
        self._stop_ids = stop_token_ids(self.tokenizer, model.generation_config.eos_token_id)
        self.context_length = context_length(model)

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The loaded model. Raises InferenceError (closed) once its memory was given back."""
        if self._model is None:
            raise InferenceError("This inferencer is closed.", remedy="Open the run again.", code="closed")
        return self._model

    @classmethod
    def from_run(cls, run: RunDir, **options: Any) -> Inferencer:
        """The model of a run; see the class for ``options``."""
        return cls(run, **options)

    def render(self, prompt: Prompt, *, tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """The exact token ids the model continues from: text as a user's message, or messages as they are.

        Raises InferenceError for an empty or over-long prompt and DataError for messages the template refuses.
        """
        if isinstance(prompt, str):
            if not prompt.strip():
                raise InferenceError("The prompt is empty.", remedy="Write a prompt.", code="empty-prompt")
            messages: Sequence[dict[str, Any]] = [{"role": "user", "content": prompt}]
        else:
            messages = prompt
        if not messages:
            raise InferenceError(
                "There are no messages.", remedy="Give at least one message.", code="empty-prompt"
            )
        if not isinstance(messages, Sequence) or not all(isinstance(part, Mapping) for part in messages):
            raise InferenceError(
                "A prompt is one text or a list of messages with role and content.",
                remedy="For several prompts use infer_batch.",
                code="bad-prompt",
            )
        ids = self._ids(messages, tools)
        check_prompt(ids, self.context_length)
        return ids

    def _ids(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None) -> list[int]:
        if self.tokenizer.chat_template is not None:
            return encode_prompt(self.tokenizer, messages, tools=tools)
        if len(messages) != 1 or tools:
            raise InferenceError(
                "This model has no chat template, so it can only continue one text.",
                remedy="Send plain text, or choose a model with a chat template.",
                code="no-chat-template",
            )
        whole = encode_prompt_completion(self.tokenizer, str(messages[0]["content"]), "")
        return whole.input_ids[: whole.trained.index(True)]

    def infer(self, prompt: Prompt, *, stop: Sequence[str] = (), **sampling: Any) -> str:
        """The model's answer to one prompt. ``sampling`` takes the fields of ``Sampling``; greedy by default."""
        return "".join(self.stream(prompt, stop=stop, **sampling))

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), **sampling: Any) -> Iterator[str]:
        """The answer piece by piece; joined, the pieces are what ``infer`` returns. Closing it ends the work."""
        decoding = Decoding(self.model, [self.render(prompt)], _sampling(sampling), self._stop_ids)
        answer = _Answer(IncrementalDecoder(self.tokenizer), tuple(stop))
        with Lanes(1, self._lane_count) as lane:
            while decoding.rows and not answer.done:
                (token,) = next(lane.map(lambda _: decoding.step(), [None]))
                piece = "" if token.finish == "stop" else answer.decoder.push(token.token_id)
                piece += answer.decoder.finish() if token.finish else ""
                shown = answer.push(piece, final=bool(token.finish))
                if shown:
                    yield shown

    def infer_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        stop: Sequence[str] = (),
        progress: Callable[[int], None] = lambda _: None,
        **sampling: Any,
    ) -> list[str]:
        """Answers in the order of ``prompts``, the same as one by one under greedy decoding.

        All prompts are checked before the first token: raises InferenceError naming the first bad one. To leave
        bad ones out, see ``check``. ``progress`` is told how many more prompts are done.
        """
        for number, problem in enumerate(map(self.check, prompts), start=1):
            if problem is not None:
                raise InferenceError(
                    f"Prompt {number}: {problem.message}", remedy=problem.remedy, code=problem.code
                )
        rendered = [self.render(prompt) for prompt in prompts]
        options = _sampling(sampling)
        results = [""] * len(prompts)
        with Lanes(self._lane_count) as lanes:
            chunks = list(_chunks(rendered))
            for chunk, texts in zip(
                chunks, lanes.map(lambda c: self._decode(rendered, c, options, stop), chunks), strict=True
            ):
                for index, text in zip(chunk, texts, strict=True):
                    results[index] = text
                progress(len(chunk))
        return results

    def check(self, prompt: Prompt) -> TunesmithError | None:
        """What is wrong with a prompt, or None."""
        try:
            self.render(prompt)
        except TunesmithError as error:
            return error
        return None

    def _decode(
        self, rendered: Sequence[list[int]], chunk: Sequence[int], sampling: Sampling, stop: Sequence[str]
    ) -> list[str]:
        decoding = Decoding(self.model, [rendered[index] for index in chunk], sampling, self._stop_ids)
        answers = [_Answer(IncrementalDecoder(self.tokenizer), tuple(stop)) for _ in chunk]
        while decoding.rows:
            for token in decoding.step():
                answer = answers[token.row]
                piece = "" if token.finish == "stop" else answer.decoder.push(token.token_id)
                piece += answer.decoder.finish() if token.finish else ""
                answer.push(piece, final=bool(token.finish))
                if answer.done and not token.finish:
                    decoding.drop(token.row)
        return [answer.text for answer in answers]

    def close(self) -> None:
        """Give the model's memory back; the inferencer cannot be used afterwards. Closing twice is harmless."""
        self._model = None

    def __enter__(self) -> Inferencer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_config(run: RunDir) -> RunConfig:
    """The configuration a run was made with."""
    return parse_config(parse_yaml(run.read_config_text(), where=str(run.config)))


def _as_run(source: str | Path) -> RunDir | None:
    """The run in a folder, or None where the folder is no run."""
    path = Path(source)
    return RunDir.open(path) if (path / "config.yaml").is_file() else None


def _tuned_folder(run: RunDir, checkpoint: int | str | None) -> Path:
    """The verified folder with the trained weights: the result, or the checkpoint asked for."""
    if checkpoint is None:
        folder = run.result_folder()
        if folder is None:
            raise RunError(
                f"The run {run.id} has no result: it is {run.status()}.",
                remedy=f"Finish it with `tunesmith runs resume {run.id}`, or use a checkpoint.",
                code="unfinished-run",
            )
    else:
        found = {path.name: path for path in checkpoint_folders(run.checkpoints)}
        names = [*found]
        wanted = names[-1] if checkpoint == "latest" and names else _checkpoint_name(checkpoint)
        if wanted not in found:
            raise RunError(
                f"The run {run.id} has no checkpoint {checkpoint}.",
                remedy=f"It has {', '.join(names) or 'none yet'}.",
                code="no-such-checkpoint",
            )
        folder = found[wanted]
    verify_folder(folder)
    return folder


def _checkpoint_name(checkpoint: int | str) -> str:
    text = str(checkpoint).removeprefix("step-")
    return step_name(int(text)) if text.isdecimal() else str(checkpoint)


def _sampling(options: dict[str, Any]) -> Sampling:
    try:
        return Sampling(**options)
    except TypeError as error:
        known = ", ".join(Sampling.__dataclass_fields__)
        raise InferenceError(
            f"{error}.".replace("Sampling.__init__() got an ", "").capitalize(),
            remedy=f"Sampling options are {known}.",
            code="bad-sampling",
        ) from error


def _chunks(rendered: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of prompts of similar length, few enough to decode side by side."""
    chunk: list[int] = []
    for index in sorted(range(len(rendered)), key=lambda i: (len(rendered[i]), list(rendered[i]))):
        if chunk and (len(chunk) == ROWS_AT_ONCE or (len(chunk) + 1) * len(rendered[index]) > TOKENS_AT_ONCE):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk
