"""Where results lie on disk, and how they get there whole or not at all.

    <runs>/bases/<base-id>/    config.json  metrics.json  model.onnx  checkpoint.safetensors  log.txt
    <runs>/<sweep>/            sweep.toml   results.csv   results.parquet
    <runs>/<sweep>/<point-id>/ config.json  metrics.json  model.onnx  masks.safetensors       log.txt

`metrics.json` is written last: where it is, the point is done. The tables are derived from the points' files.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import InputError, RunError
from onnxprune.pruning import TECHNIQUES
from onnxprune.spec import FIELDS

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "config.json"
METRICS = "metrics.json"
MODEL = "model.onnx"
CHECKPOINT = "checkpoint.safetensors"
MASKS = "masks.safetensors"
LOG = "log.txt"
ERROR = "error.txt"
SPEC = "sweep.toml"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` which takes its name when the block ends well, and vanishes otherwise."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file, or None where there is no intact one."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def make_folder(path: Path) -> Path:
    """Creates a folder with its parents.

    Raises:
        RunError: the system does not let us, with its reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {path}: {error.strerror}; choose another with --out") from None
    return path


def point_rows(sweep: Path) -> list[dict[str, Any]]:
    """One flat dictionary for each finished point of a sweep's folder, sorted as people read them.

    Raises:
        InputError: the folder is not a sweep's.
    """
    if not (sweep / SPEC).is_file():
        raise InputError(f"{sweep} is not the folder of a sweep: it has no {SPEC}")
    rows = []
    for config_path in sweep.glob(f"*/{CONFIG}"):
        config, record = read_json(config_path), read_json(config_path.with_name(METRICS))
        if config is not None and record is not None:
            settings = {name: config.get(name) for name in FIELDS}  # all of them: every table has the same columns
            rows.append({**settings, **record["metrics"], **record["environment"], "folder": config_path.parent.name})
    techniques = list(TECHNIQUES)

    def reading_order(row: dict[str, Any]) -> tuple[Any, ...]:
        study = tuple(row[name] for name in ("model", "dataset", "batch_size", "schedule"))
        return (
            *study,
            techniques.index(row["technique"]),
            row["criterion"],
            row["sparsity"],
            row["seed"],
            row["folder"],
        )

    return sorted(rows, key=reading_order)


def result_table(sweep: Path) -> "pd.DataFrame":
    """The finished points of a sweep's folder, one row each; whole numbers stay whole where values are missing.

    Raises:
        InputError: the folder is not a sweep's.
    """
    import pandas as pd

    return pd.DataFrame(point_rows(sweep)).convert_dtypes()


def write_tables(sweep: Path) -> "pd.DataFrame":
    """Derives results.csv and results.parquet from the points of a sweep and returns the table."""
    table = result_table(sweep)
    with replacing(sweep / "results.csv") as partial:
        table.to_csv(partial, index=False)
    with replacing(sweep / "results.parquet") as partial:
        table.to_parquet(partial, index=False)
    return table
