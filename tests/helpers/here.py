"""What the helper process does elsewhere, done in the process of the test, whose parts can be replaced."""

from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest


def without_helper(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """A module neither tries files in the helper process nor has them worked on there."""
    monkeypatch.setattr(module, "probe", lambda path, **how: None)
    monkeypatch.setattr(module, "work_in_helper", _work)


def _work(function: str, path: Path, *arguments: Any, advance: Any) -> Any:
    return resolve_name(function)(path, *arguments, advance)
