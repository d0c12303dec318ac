"""Sweeps in processes of their own, to be killed, stopped, starved and run at the same time."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import warm

from onnxprune import cli
from onnxprune.settings.sweep import Sweep
from onnxprune.study.controller import Outcome, run_sweep

SETTINGS = {
    "model": "slp",
    "dataset": "digits",
    "hidden": 32,
    "epochs": 1,
    "finetune_epochs": 1,
    "train_limit": 200,
    "latency_seconds": 0,
}
TIMED = ("seconds", "per_second", "memory", "timing_")


def arguments(out: Path, **changes: Any) -> list[str]:
    """The command line of a small sweep."""
    settings = {**SETTINGS, "technique": "weight,neuron", "sparsity": "0,50,90", **changes}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return ["sweep", f"--out={out}", *options]


def sweep(runs: Path, retry_failed: bool = False, **changes: Any) -> Outcome:
    """Runs a small sweep in this process."""
    settings = {**SETTINGS, "technique": "weight", "sparsity": [0, 50, 90], **changes}
    return run_sweep(Sweep.parse(settings), runs, retry_failed=retry_failed)


def start(command: list[str], log: Path, file_bytes: int | None = None) -> Any:
    """Starts the command line in a process; no file of it may grow beyond `file_bytes`, as if the disk were full."""
    with log.open("a") as stream:
        return warm.start(_main, command, streams=[stream.fileno()] * 2, file_bytes=file_bytes)


def _main(command: list[str]) -> None:
    sys.argv = ["onnxprune", *command]
    cli.main()


def finish(command: list[str], log: Path, file_bytes: int | None = None) -> int:
    """Runs the command line to its end and returns its exit code."""
    process = start(command, log, file_bytes)
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return int(process.exitcode)


def untimed(runs: Path) -> pd.DataFrame:
    """The table of the one sweep under `runs`, without what takes another time every time."""
    (path,) = runs.glob("*/results.csv")
    table = pd.read_csv(path)
    return table[[name for name in table if not any(word in name for word in TIMED)]]


def leftovers(runs: Path) -> list[Path]:
    """Half-written files under `runs`."""
    return list(runs.rglob("*.part"))
