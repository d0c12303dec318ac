"""How long `onnxprune profile --no-latency` takes against importing its libraries and loading the file, and `--help`.

    python benchmarks/startup.py MODEL.onnx [--rounds 9]

Whole processes, in turn. The goals: a ratio under 1.5, and --help under 0.3 s.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time


def seconds(*command: str) -> float:
    """Wall time of a process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    imports = f"import onnx, onnxruntime, onnx_tool; onnx.load({options.model!r})"
    rows = [
        (
            seconds("-m", "onnxprune", "profile", "--no-latency", options.model),
            seconds("-c", imports),
            seconds("-m", "onnxprune", "--help"),
        )
        for _ in range(options.rounds)
    ]
    profile, libraries, help_ = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(first / second for first, second, _ in rows)
    figures = {"profile_s": profile, "imports_and_load_s": libraries, "ratio": ratio, "help_s": help_}
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    main()
