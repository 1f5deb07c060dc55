"""``tunesmith serve``: the base model and every finished run behind one address, in OpenAI's protocol."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from backend.commands import lazy
from backend.commands.options import AsJson, BaseModel, Precision, RunsFolder, find_source, shown
from backend.commands.output import print_json, say
from backend.errors import ConfigError, Problem, RunError
from backend.run.adapter_settings import (
    ADAPTER_CONFIG,
    VLLM_RANKS,
    merged_only,
    settings_to_fold,
    vllm_rank,
)
from backend.run.folder import RunDir
from backend.run.root import EXPORTS, IMATRIX


def serve(
    models: Annotated[
        tuple[str, ...],
        Parameter(help="Runs or models; the first says what base is. Finished runs are served anyway."),
    ] = (),
    *,
    runs: Annotated[RunsFolder, Parameter(name=["--root", "--runs"])] = Path("runs"),
    host: Annotated[
        str, Parameter(help="Any other than loopback needs TUNESMITH_SERVER_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 8000,
    base_model: BaseModel = None,
    rows: Annotated[int, Parameter(help="Answers written side by side.")] = 16,
    queue: Annotated[int, Parameter(help="Requests that may wait; one more is refused with 429.")] = 256,
    precision: Precision = "exact",
    with_: Annotated[
        Literal["vllm", "llama.cpp"] | None,
        Parameter(name="--with", help="Print the command that serves the first run with another server."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Serve the base model and every finished run, for the openai client and everything built on it.

    Examples
    --------
    tunesmith serve

    tunesmith serve RUN --port 9000

    tunesmith serve RUN --with vllm
    """
    found = tuple(find_source(name, runs) for name in models)
    if with_ is not None:
        return _print_command(with_, found, base_model, host, port, as_json=as_json)
    _check_range(rows=rows, queue=queue, port=port + 1)

    for model in found:  # before anybody is told that it is served
        lazy.model_source.find_model(
            model, base=True, base_model=base_model if isinstance(model, RunDir) else None
        )
    options = lazy.process.ServerOptions(
        root=runs,
        models=found,
        base_model=base_model,
        host=host,
        port=port,
        limits=lazy.engine.Limits(rows=rows, waiting=queue),
        precision=precision,
    )

    def ready(at: str, on: int) -> None:
        url = f"http://[{at}]:{on}/v1" if ":" in at else f"http://{at}:{on}/v1"
        if as_json:
            print_json({"url": url, "port": on, "instance": options.instance})
        else:
            say(f"Serving at {url} until Ctrl-C")
        sys.stdout.flush()  # whoever reads it through a pipe waits for it

    lazy.process.serve(options, ready=ready)
    return 0


def _check_range(**values: int) -> None:
    for name, value in values.items():
        if not 1 <= value <= 65_536:
            problem = Problem(name, "This number is out of range.", "See `tunesmith serve --help`.")
            raise ConfigError([problem], code="bad-flag")


def _print_command(
    server: Literal["vllm", "llama.cpp"],
    found: tuple[RunDir | str, ...],
    base_model: str | None,
    host: str,
    port: int,
    *,
    as_json: bool,
) -> int:
    if len(found) != 1:
        problem = Problem("RUN", "Another server serves one run.", "Name exactly one.")
        raise ConfigError([problem], code="bad-flag")
    words = _vllm(found[0], base_model, host, port) if server == "vllm" else _llama_cpp(found[0], host, port)
    if as_json:
        print_json({"command": words})
    else:
        say(shlex.join(words))
    return 0


def _vllm(model: RunDir | str, base_model: str | None, host: str, port: int) -> list[str]:

    found = lazy.model_source.find_model(model, base_model=base_model)
    if found.quantization is not None:
        raise RunError(
            f"vLLM would load the published weights, and this run trained over them in {found.quantization.words}.",
            remedy="Export it with --to merged and serve that folder.",
            code="quantized-base",
        )
    words = ["vllm", "serve", str(found.base), "--host", host, "--port", str(port)]
    words += ["--tokenizer", str(found.tokenizer)]
    if found.adapter is None:
        return words
    adapter = _adapter_for_vllm(model, found.adapter.folder)
    rank, most = _config(adapter)["r"], vllm_rank(_config(adapter)["r"])
    if most is None:
        raise RunError(
            f"vLLM takes adapters of rank {VLLM_RANKS[-1]} at most, and this one has {rank}.",
            remedy="Export it with --to merged and serve that folder.",
            code="rank-too-high",
        )
    name = model.id if isinstance(model, RunDir) else "tuned"
    return [*words, "--enable-lora", "--max-lora-rank", str(most), "--lora-modules", f"{name}={adapter}"]


def _adapter_for_vllm(model: RunDir | str, trained: Path) -> Path:
    """Return the adapter as it was trained, or, if vLLM would apply that wrongly, its newest export."""
    config = _config(trained)
    name = shown(model) if isinstance(model, RunDir) else "RUN"
    if odd := merged_only(config):
        raise RunError(
            f"vLLM does not read adapters trained with {', '.join(odd)}.",
            remedy=f"Export it, tunesmith export {name} --to merged, and serve that folder.",
            code="merged-only",
        )
    patterns = {"rank_pattern", "alpha_pattern"}.intersection(settings_to_fold(config))
    if not patterns:
        return trained
    exports = [place for place in _exports(model, "adapter") if (place / ADAPTER_CONFIG).exists()]
    if not exports:
        raise RunError(
            f"vLLM has one scale for all layers, and this adapter has several ({', '.join(sorted(patterns))}).",
            remedy=f"Export it, which makes them one: tunesmith export {name} --to adapter.",
            code="no-plain-adapter",
        )
    return max(exports, key=lambda place: ((place / ADAPTER_CONFIG).stat().st_mtime_ns, place.name))


def _config(adapter: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
    return config


def _exports(model: RunDir | str, *forms: str) -> list[Path]:
    """Return the folders of a run's exports to these forms."""
    if not isinstance(model, RunDir):
        return []
    roots = {Path(), model.path.parent.parent}  # where commands put exports, and where the studio does
    folders = [place for root in roots for place in (root / EXPORTS).glob(f"{model.id}-*")]
    return [
        place for place in folders if place.name.startswith(tuple(f"{model.id}-{form}" for form in forms))
    ]


def _llama_cpp(model: RunDir | str, host: str, port: int) -> list[str]:
    """llama.cpp reads GGUF files, so the run must have been exported to one; the newest whole model is taken."""
    if isinstance(model, RunDir):
        files = [file for place in _exports(model, "gguf", "ollama") for file in place.glob("*.gguf")]
    else:
        files = list(Path(model).rglob("*.gguf")) if Path(model).is_dir() else [Path(model)]
    files = [file for file in files if not file.name.endswith(IMATRIX)]
    if not files or files[0].suffix != ".gguf":
        name = shown(model) if isinstance(model, RunDir) else "RUN"
        raise RunError(
            f"llama.cpp needs a GGUF file, and there is none of this model in {EXPORTS}.",
            remedy=f"Export it: tunesmith export {name} --to gguf. Or name the .gguf file instead of the run.",
            code="no-gguf",
        )
    newest = max(files, key=lambda file: (file.stat().st_mtime_ns, file.name))
    return ["llama-server", "--model", str(newest), "--host", host, "--port", str(port), "--jinja"]
