"""Leave out what torch, transformers and peft import of other packages, until somebody uses it.

A model in transformers imports the compiler of torch, its tensors spread over machines and, with both, sympy; peft
imports bitsandbytes wherever it is installed. That is more than half of the time until a first model stands, and
nothing here compiles a model, spreads one, or quantises without asking for it.

- The compiler and bitsandbytes *sleep*: they are modules that read their source when an attribute of theirs, or a
  module below them, is first asked for. So whoever uses them finds them whole.
- transformers is told what it is told by a torch that was built without ``torch.distributed``, whose models it loads
  like any other. What trains in several processes here uses ``torch.distributed`` itself.
- peft takes bitsandbytes for installed once it is awake: before, no layer can be one of its.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

BITSANDBYTES = "bitsandbytes"
COMPILER = "torch._dynamo"


def install() -> None:
    """Import leanly from now on in this process. What is already imported stays as it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def is_ours(command: Sequence[str]) -> bool:
    """Return True if ``command`` (as ``sys.orig_argv``) starts a program of ours: by name, or with ``python -m``."""
    words = list(command)
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1].partition(".")[0] in {"backend", "tunesmith"}
    return len(words) > 1 and Path(words[1]).name == "tunesmith"


def is_awake(name: str) -> bool:
    """Return True if the module ``name`` has been imported and read."""
    module = sys.modules.get(name)
    return module is not None and not isinstance(module, _Sleeper)


class _Sleeper(ModuleType):
    """A module that is read when it is first asked for something that it does not answer asleep."""

    def __getattr__(self, name: str) -> Any:
        if name in _ASLEEP[self.__name__]:
            return _ASLEEP[self.__name__][name]
        if name.startswith("__") and name.endswith("__"):  # what inspect and pytest ask of every module
            raise AttributeError(name)
        _wake(self)
        try:
            return vars(self)[name]
        except KeyError:
            pass
        own = vars(self).get("__getattr__")
        if own is not None:
            return own(name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


_WAKING = threading.RLock()
_being_read: set[str] = set()


def _wake(module: ModuleType) -> None:
    """Read the module unless that was done. Another thread waits until all of it is there."""
    with _WAKING:
        name = module.__name__
        if not isinstance(module, _Sleeper) or name in _being_read:
            return
        loader = module.__loader__
        _being_read.add(name)
        try:
            SourceFileLoader.exec_module(loader, module)  # type: ignore[arg-type]
        except BaseException:
            sys.modules.pop(name, None)
            raise
        finally:
            _being_read.discard(name)
        module.__class__ = ModuleType  # type: ignore[assignment]


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that sleeps or is amended; of another None, which asks the next finder."""
        if fullname in _ASLEEP or fullname in _AMENDED:
            return self._lean(fullname, path)
        parent = next((name for name in _ASLEEP if fullname.startswith(f"{name}.")), None)
        if parent is None or fullname in _READ_ALONE:
            return None
        _wake(sys.modules[parent])
        module = sys.modules.get(fullname)  # the parent has imported it by now, or leaves it to others
        return _Given.again(module) if module is not None else None

    @staticmethod
    def _lean(fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return spec
        kind = _SleepingLoader if fullname in _ASLEEP else _AmendingLoader
        spec.loader = kind(fullname, spec.loader.path)
        return spec


class _SleepingLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        """Leave the module unread."""
        module.__class__ = _Sleeper


class _AmendingLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        """Read the module and amend it."""
        super().exec_module(module)
        _AMENDED[module.__name__](module)


class _Given(Loader):
    """Loads a module that is there already; without it the import system would read the source a second time."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    @classmethod
    def again(cls, module: ModuleType) -> ModuleSpec | None:
        """Return a spec by which ``module`` is loaded as it is."""
        module.__spec__ = spec_from_loader(
            module.__name__, cls(module)
        )  # where the import system looks for it
        return module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing but give the module its own spec back."""
        module.__spec__ = self._spec


def _unmarked(fn: Any = None, *_: object, **__: object) -> Any:
    """Stand for a mark that only a compiler reads: return what is marked, or a decorator that does."""
    return _unmarked if fn is None else fn


def _without_distributed(module: ModuleType) -> None:
    if hasattr(module, "is_torch_distributed_available"):
        vars(module)["is_torch_distributed_available"] = lambda: False


def _without_spread_tensors(module: ModuleType) -> None:
    if hasattr(module, "_torch_supports_distributed"):
        vars(module)["_torch_supports_distributed"] = False


def _bitsandbytes_if_awake(module: ModuleType) -> None:
    for name in ("is_bnb_available", "is_bnb_4bit_available"):
        if hasattr(module, name):
            vars(module)[name] = lambda: is_awake(BITSANDBYTES)


_ASLEEP: dict[str, dict[str, Any]] = {
    BITSANDBYTES: {},
    COMPILER: dict.fromkeys(
        ("allow_in_graph", "assume_constant_result", "disable", "graph_break", "mark_static_address"),
        _unmarked,
    ),
}
"""The modules that sleep, and what they answer without waking: words to a compiler that compiles nothing."""
_READ_ALONE = {f"{COMPILER}._trace_wrapped_higher_order_op"}
"""Modules below one that sleeps which transformers imports for every model and which need nothing of it."""
_AMENDED: dict[str, Callable[[ModuleType], None]] = {
    "transformers.utils.import_utils": _without_distributed,
    "peft.tuners.tuners_utils": _without_spread_tensors,
    "peft.import_utils": _bitsandbytes_if_awake,
}
