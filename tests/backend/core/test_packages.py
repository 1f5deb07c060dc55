from __future__ import annotations

import pytest

from backend.core import packages
from backend.core.packages import require_bitsandbytes
from backend.errors import ModelError


def test_an_installed_package_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(packages, "find_spec", lambda name: asked.append(name) or object())
    require_bitsandbytes("model.load_in_4bit")
    assert asked == ["bitsandbytes"]


def test_a_missing_package_is_named_with_its_setting_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", {}.get)

    with pytest.raises(ModelError, match=r"model\.load_in_4bit needs the package bitsandbytes") as caught:
        require_bitsandbytes("model.load_in_4bit")
    assert caught.value.code == "needs-bitsandbytes"
    assert caught.value.remedy == "Run: pip install bitsandbytes"
