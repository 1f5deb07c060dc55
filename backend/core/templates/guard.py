"""Try an untrusted chat template in a child process with limited memory and time before it is used.

Jinja's sandbox stops a template from running code, but not from using all memory or looping forever.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from backend.errors import ModelError
from backend.utils.text_utils import shorten

MAX_CHARACTERS = 500_000
MAX_OUTPUT_CHARACTERS = 1_000_000
MAX_MEMORY_BYTES = 2**30
MAX_SECONDS = 5

_TOO_LONG, _TOO_BIG = 3, 4
_PACKAGES = ("jinja2", "markupsafe")
_TRIAL = f"""
import json, resource, sys
text, sys.path[len(sys.path):] = json.loads(sys.stdin.read())
resource.setrlimit(resource.RLIMIT_CPU, ({MAX_SECONDS}, {MAX_SECONDS}))
try:
    resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY_BYTES}, {MAX_MEMORY_BYTES}))
except (ValueError, OSError):
    pass  # not every system can limit memory
import jinja2, jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

class Generation(jinja2.ext.Extension):
    tags = {{"generation"}}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)

def refuse(message):
    raise jinja2.TemplateError(message)

options = {{"trim_blocks": True, "lstrip_blocks": True, "extensions": ["jinja2.ext.loopcontrols", Generation]}}
environment = ImmutableSandboxedEnvironment(**options)
environment.filters["tojson"] = lambda value, **_: json.dumps(value)
environment.globals.update(raise_exception=refuse, strftime_now=lambda form: "")
system, user = {{"role": "system", "content": "Be brief."}}, {{"role": "user", "content": "Hello"}}
answer = {{"role": "assistant", "content": "Hi"}}
tokens = {{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "", "unk_token": ""}}
for messages in ([user], [system, user, answer], [user, answer, user, answer]):
    for opens in (False, True):
        length = 0
        try:
            for piece in environment.from_string(text).generate(
                messages=messages, add_generation_prompt=opens, tools=None, documents=None, **tokens
            ):
                length += len(piece)
                if length > {MAX_OUTPUT_CHARACTERS}:
                    sys.exit({_TOO_LONG})
        except MemoryError:
            sys.exit({_TOO_BIG})
        except Exception:
            pass  # a template may reject a conversation; the error is raised when it is rendered
"""


@cache
def try_template(template: str) -> None:
    """Raise ModelError ``greedy-template`` if a template is huge, or needs too much to render a few words.

    Raises ModelError ``template-not-tried`` if the child process failed before it got to the template.
    """
    if len(template) > MAX_CHARACTERS:
        raise _greedy(f"is {len(template):,} characters long, more than {MAX_CHARACTERS:,}")
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL],
            input=json.dumps([template, _homes()]).encode(),
            capture_output=True,
            timeout=4 * MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _greedy("does not come to an end") from None
    if ended.returncode == _TOO_LONG:
        raise _greedy(f"makes more than {MAX_OUTPUT_CHARACTERS:,} characters of a few words")
    if ended.returncode == _TOO_BIG:
        raise _greedy(f"needs more than {MAX_MEMORY_BYTES:,} bytes for a few words")
    if ended.returncode > 0:
        raise _untried(ended.stderr.decode("utf-8", "replace"))
    if ended.returncode:
        raise _greedy(f"cannot render a few words in {MAX_SECONDS} seconds")


@cache
def _homes() -> list[str]:
    """Return the folders of the packages that the child needs: run with -I, it ignores PYTHONPATH."""
    specs = [find_spec(name) for name in _PACKAGES]
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin})


def _untried(stderr: str) -> ModelError:
    """Return the error for a child process that failed by itself; the template was not tried."""
    return ModelError(
        f"This model's chat template could not be tried in a process of its own: {shorten(stderr, 200)}.",
        code="template-not-tried",
        remedy="Read the message of that process: this Python environment is incomplete or damaged.",
    )


def _greedy(what: str) -> ModelError:
    return ModelError(
        f"This model's chat template {what}.",
        code="greedy-template",
        remedy="Do not use this model, or give it another template with model.chat_template.",
    )
