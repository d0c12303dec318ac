"""Damaged ONNX files through the commands that take files of strangers, many of them, and what becomes of each.

`python tests/helpers/mutants.py 2000` runs the first 2000, prints what went wrong, and counts; with `--from N` those
after N; with the names of folders also those of their files. Mutant N is the same one every time, but for what the
folders add.

One process imports what the commands need, once. Each run is forked from it, and so is its helper: what is measured is
neither start-up nor imports.
"""

import argparse
import atexit
import ctypes
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import fuzz
import numpy as np
import onnx
import pruned
from classifiers import SQUARES, classifier, square_finder
from PIL import Image

SECONDS = 10  # of the processor
MEMORY = 2 * 2**30  # bytes resident in one process
_HANGS = 600  # seconds by the clock, on a busy machine
_PR_SET_CHILD_SUBREAPER = 36
_REPOSITORY = Path(__file__).parents[2]
_PRELOADED = """onnxprune.analysis.comparison onnxprune.analysis.evaluation onnxprune.analysis.prediction
onnxprune.analysis.profiling onnxprune.commands.compare onnxprune.commands.evaluate onnxprune.commands.predict
onnxprune.commands.profile onnxprune.commands.profile_rows onnxprune.commands.prune onnxprune.commands.quantize
onnxprune.quantization.quantize onnxprune.reduction.prune onnxprune.runtime.probe onnx_tool onnxruntime.quantization
scipy.linalg scipy.stats sklearn.datasets"""
_ALLOWED = ("onnxprune-timing", ".ses")  # the lock of timings, and onnxruntime's own note of its session
_QUICK = ("--seconds=0.01", "--threads=1")
_CONVENTION = ("--mean=0.3", "--std=0.3", "--threads=1")


@dataclass(frozen=True)
class Source:
    """An intact file.

    Attributes:
        size: channels, height and width of the pictures that it classifies, if it does.
    """

    path: Path
    size: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """Of one run.

    Attributes:
        kind: "result", "refused" (one line), "failed" (more lines, a traceback or nothing at all), "crashed", "hung".
        seconds: of the processor, of the process and its helpers.
        memory: resident bytes of the largest of them.
        left: names of files that it left and should not have.
    """

    number: int
    words: tuple[str, ...]
    kind: str
    said: str
    seconds: float
    memory: int
    left: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether it is what a damaged file may come to."""
        return (
            self.kind in ("result", "refused") and self.seconds <= SECONDS and self.memory <= MEMORY and not self.left
        )


def sources(folder: Path, more: Sequence[Path]) -> list[list[Source]]:
    """Writes small files of every kind, and pictures and data for them.

    Returns:
        Networks of nodes of every kind; classifiers; files of more folders, if any; those that onnx carries.
    """
    networks = []
    for name, (text, weights) in pruned.KINDS.items():
        onnx.save(pruned.model(text, weights), folder / f"{name}.onnx")
        networks.append(Source(folder / f"{name}.onnx"))
    classifiers = [
        Source(classifier(folder / f"{name}.onnx", square_finder(), softmax=softmax, metadata=SQUARES), (1, 12, 12))
        for name, softmax in (("squares", False), ("softmax", True))
    ]
    classifiers += [Source(path, (1, 28, 28)) for path in sorted((_REPOSITORY / "models").glob("*.onnx"))]
    given = [
        Source(path, (3, 32, 32) if "cifar" in path.name else (1, 28, 28))
        for path in sorted(path for place in more for path in place.glob("*.onnx"))
    ]
    # "light" are networks of up to 140 million weights, with a node in place of each
    foreign = [Source(path) for path in fuzz.foreign_files() if path.parent.name != "light"]
    foreign = [source for source in foreign if source.path.stat().st_size < 300_000]
    rng = np.random.default_rng(0)
    for channels, height, width in {source.size for source in (*classifiers, *given) if source.size}:
        labels = np.arange(40) % (3 if height == 12 else 10)
        pixels = rng.integers(0, 256, (40, height, width, channels), dtype=np.uint8)
        images = pixels if channels > 1 else pixels[..., 0]
        np.savez(folder / f"{height}.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        Image.fromarray(images[0]).save(folder / f"{height}.png")
    return [group for group in (networks, classifiers, given, foreign) if group]


def command(source: Source, folder: Path, rng: random.Random) -> tuple[str, ...]:
    """What the mutant of a source, ./m.onnx, is given to."""
    kinds = ["profile", "compare", "prune", "quantize"]
    if source.size is not None:
        kinds += ["evaluate", "evaluate", "predict", "predict", "prune data", "quantize data"]
    data, picture = (folder / f"{source.size[1]}.{kind}" for kind in ("npz", "png")) if source.size else ("", "")
    which = rng.choice(kinds)
    if which == "profile":
        return ("profile", "m.onnx", *rng.choice([_QUICK, ("--no-latency",), (*_QUICK, "--json", "--per-node-time")]))
    if which == "compare":
        return ("compare", *rng.choice([("m.onnx", str(source.path)), (str(source.path), "m.onnx")]), *_QUICK)
    if which == "evaluate":
        return ("evaluate", "m.onnx", f"--dataset={data}", *_CONVENTION)
    if which == "predict":
        return ("predict", "m.onnx", str(picture))
    given = (f"--data={data}", "--samples=40", *_CONVENTION) if which.endswith("data") else ("--threads=1",)
    if which.startswith("prune"):
        how = rng.choice(["--sparsity=50", "--sparsity=50", "--target=macs=0.5", "--technique=weight --sparsity=50"])
        timed = rng.choice(["--no-latency", "--seconds=0.01"])
        return ("prune", "m.onnx", *how.split(), *given, timed, "--quiet")
    how = ("--dynamic",) if which == "quantize" else rng.choice([(), (), ("--max-drop=5",), ("--calibration=entropy",)])
    return ("quantize", "m.onnx", *how, *given, "--no-latency", "--quiet")


def outcomes(numbers: Sequence[int], more: Sequence[Path] = ()) -> Iterator[Outcome]:
    """What becomes of these mutants."""
    # helpers whose caller has ended become ours, and are counted
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for name in _PRELOADED.split():
        import_module(name)
    folder = Path(tempfile.mkdtemp())  # not one that goes at the end of every process that is forked from this one
    try:
        intact = sources(folder, more)
        for number in numbers:
            rng = random.Random(number)
            source = rng.choice(rng.choice(intact))
            place = folder / "place"
            (place / "tmp").mkdir(parents=True)
            (place / "m.onnx").write_bytes(fuzz.mutate(source.path.read_bytes(), rng))
            yield _outcome(number, command(source, folder, rng), place)
            shutil.rmtree(place)
    finally:
        shutil.rmtree(folder)


def _outcome(number: int, words: tuple[str, ...], place: Path) -> Outcome:
    process = os.fork()
    if process == 0:
        _run(words, place)
    ended, seconds, memory = False, 0.0, 0
    begin = time.monotonic()
    code = 0
    while True:
        try:
            which, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if which:
            seconds += used.ru_utime + used.ru_stime
            memory = max(memory, 1024 * used.ru_maxrss)
            if which == process:
                ended, code = True, os.waitstatus_to_exitcode(status)
        elif not ended and time.monotonic() - begin > _HANGS:
            os.kill(process, 9)
        else:
            time.sleep(0.002)
    out, err = ((place / name).read_text(errors="replace") for name in ("out", "err"))
    kind = _kind(code, out, err)
    if time.monotonic() - begin > _HANGS:
        kind = "hung"
    written = {path.name for path in place.iterdir()} - {"m.onnx", "out", "err", "tmp"}
    if kind == "result" and words[0] in ("prune", "quantize"):
        written = {name for name in written if not name.endswith(".onnx")}
    written |= {path.name for path in (place / "tmp").iterdir() if not path.name.startswith(_ALLOWED)}
    return Outcome(number, words, kind, err if kind != "result" else "", seconds, memory, tuple(sorted(written)))


def _kind(code: int, out: str, err: str) -> str:
    if code < 0:
        return "crashed"
    if code == 0:
        return "result" if out and "Traceback" not in err else "failed"
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    others = [line for line in err.splitlines() if not line.startswith(("Error: ", "Note: ", "Warning: "))]
    return "refused" if code in (1, 2) and len(errors) == 1 and not others and not out else "failed"


def _run(words: tuple[str, ...], place: Path) -> NoReturn:
    """The command line, in the forked process."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(place)
    os.environ["TMPDIR"] = str(place / "tmp")
    tempfile.tempdir = None
    from onnxprune import cli
    from onnxprune.runtime import ahead

    ahead.start = lambda function, **how: ahead.Forked()  # type: ignore[assignment,return-value]
    sys.argv = ["onnxprune", *words]
    try:
        cli.main()
    except SystemExit as stopped:
        code = int(str(stopped.code))
        atexit._run_exitfuncs()  # temporary folders go with the process
        sys.stdout.flush()
        sys.stderr.flush()
        if code in (0, 1, 2):
            os._exit(code)
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("number", type=int, help="how many mutants")
    parser.add_argument("folder", nargs="*", type=Path, help="of more .onnx files to damage")
    parser.add_argument("--from", dest="begin", type=int, default=0, help="number of the first")
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    for found in outcomes(range(given.begin, given.begin + given.number), given.folder):
        counts[f"{found.words[0]}: {found.kind}"] += 1
        counts["over 10 s"] += found.seconds > SECONDS
        counts["over 2 GiB"] += found.memory > MEMORY
        if not found.sound:
            print(json.dumps(asdict(found)), flush=True)  # noqa: T201
        if found.number % 500 == 499:
            print(found.number + 1, file=sys.stderr, flush=True)  # noqa: T201
    print(json.dumps(counts, indent=1))  # noqa: T201


if __name__ == "__main__":
    _main()
