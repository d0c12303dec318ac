"""Fresh Python processes that run a function of this package."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # what the package lies in, which may be installed nowhere


def start(function: str, *, environment: dict[str, str] | None = None, **how: Any) -> "subprocess.Popen[Any]":
    """Starts a process that calls a function without arguments and then ends.

    Args:
        function: "module:function".
        environment: variables beside those of this process.
        how: arguments of `subprocess.Popen`: streams, text, process group.
    """
    module, _, name = function.partition(":")
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {module} import {name}; {name}()"],
        env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
        **how,
    )


def signal_of(code: int) -> str | None:
    """Name of the signal that ended a process with this exit code; None where none did."""
    if code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
