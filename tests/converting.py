"""llama.cpp's converter in a fork of this process, which has imported torch and transformers already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from typing import Any

import torch

from backend.export import convert_with_llama_cpp


def run_converter(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run`` of the program would do, in a fork; other packages named gguf are forgotten there."""
    with tempfile.TemporaryFile("w+") as errors:
        if (child := os.fork()) == 0:
            os._exit(_convert(json.loads(options["input"]), errors.fileno()))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return subprocess.CompletedProcess(command, code, "", errors.read())


def _convert(job: dict[str, Any], errors: int) -> int:
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.chdir(job["model"])
    torch.set_num_threads(1)  # threads do not outlive a fork
    for name in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        del sys.modules[name]
    try:
        sys.addaudithook(convert_with_llama_cpp.refuse_network)
        convert_with_llama_cpp.convert(job)
    except SystemExit as end:
        return int(end.code or 0) if isinstance(end.code, int | None) else 1
    except BaseException:  # noqa: BLE001 - it is the end of this process
        os.write(errors, traceback.format_exc().encode())
        return 1
    return 0
