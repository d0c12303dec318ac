"""Compares ONNX files with a base: what they cost, what they gain when they are run, and why not more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import GraphProto

from onnxprune.analysis.correspondence import OutputDifference, difference, pair_names
from onnxprune.analysis.facts import facts_of
from onnxprune.analysis.quantised import has_int8, quantised
from onnxprune.analysis.verdict import Facts, Verdict, judge
from onnxprune.common.environment import usable_cores
from onnxprune.common.errors import InputError, one_line
from onnxprune.common.files import identities
from onnxprune.common.output import plural
from onnxprune.common.temporary import temporary_folder
from onnxprune.graph.counting import count_model
from onnxprune.graph.counts import Counts
from onnxprune.graph.files import load
from onnxprune.graph.shapes import input_shapes, input_values
from onnxprune.graph.tensors import Shape
from onnxprune.runtime import helper
from onnxprune.runtime.bystanders import Bystanders, Disturbance
from onnxprune.runtime.helper import Limits, StoppedError, guarded, stage
from onnxprune.runtime.kernels import KernelTime, on_cpu, time_kernels
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.probe import try_file
from onnxprune.runtime.processor import int8_instructions, vectors
from onnxprune.runtime.random_inputs import Inputs, random_inputs
from onnxprune.runtime.runs import bound_run
from onnxprune.runtime.session import check_cuda, open_session
from onnxprune.runtime.sizes import MOST_MEMORY, SECONDS, bytes_around, reading_seconds, run_memory, timing_limit
from onnxprune.runtime.timing import Latency, interleave, summarise

_SECONDS_OF_KERNELS = 0.5  # a file, where one is in 8 bits

_NOTHING = '<ir_version: 8, opset_import: ["": 13]> nothing (float[1] x) => (float[1] y) { y = Identity (x) }'


@dataclass(frozen=True)
class Entry:
    """A file at one batch size; what compares it with the base is None for the base itself.

    Attributes:
        placement: what a session on CUDA runs on the CPU all the same; None where that is nothing.
        disturbance: what else the machine did while the files were timed.
        pairing: how inputs and outputs correspond to the base's, where their names do not tell.
    """

    path: Path
    batch: int | None
    counts: Counts
    latency: Latency
    placement: str | None
    facts: Facts | None
    verdict: Verdict | None
    outputs: OutputDifference | None
    disturbance: Disturbance
    pairing: str | None


def compare(
    base: Path,
    others: Sequence[Path],
    *,
    batch_sizes: Sequence[int] = (),
    shapes: Mapping[str, Shape] | None = None,
    values: Mapping[str, Any] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 3.0,
    say: Callable[[str], None] = lambda line: None,
) -> list[Entry]:
    """Times and counts files side by side: one entry a batch size and file, the base's first.

    All are run on the same random input, in turn, two sessions each. Inputs and outputs correspond by their names, and
    those whose names differ by their position among these.

    Args:
        batch_sizes: default: what the base fixes, else 1.
        shapes: input name of the base -> shape with the batch, where it leaves more open.
        values: input name of the base -> its values, or one number for all of them; other inputs are random.
        threads: of the processor, within an operator; default: one for each core.
        seconds: length of the measurement at each batch size, all files together.
        say: gets a line where another process is timing, and has to be waited for.

    Raises:
        InputError: a file cannot be read or run, runs nothing on CUDA where that was asked for, or does not take the
            base's input.
    """
    if device == "cuda":
        check_cuda()
    threads = threads or usable_cores()
    before = identities([base, *others])
    limits = Limits(MOST_MEMORY + sum(map(bytes_around, [base, *others])) * 8, threads, device == "cpu")
    entries: list[Entry] = []
    for size in batch_sizes or (None,):
        asked = (base, list(others), size, dict(shapes or {}), dict(values or {}), device, threads, seconds)
        try:
            entries += guarded("onnxprune.analysis.comparison:compare_at", *asked, limits=limits, tell=say)
        except StoppedError as stopped:
            raise InputError(f"{base}: not compared: {stopped}") from None
    if identities([base, *others]) != before:
        raise InputError(f"{base}: it or another file changed while they were compared: do it again")
    return entries


def compare_at(
    base: Path,
    others: Sequence[Path],
    size: int | None,
    shapes: Mapping[str, Shape],
    values: Mapping[str, Any],
    device: str,
    threads: int,
    seconds: float,
) -> list[Entry]:
    """The entries of one batch size; called in the helper process.

    Raises:
        InputError: see `compare`.
    """
    files = _read([base, *others], size, shapes, values, device, threads)
    stage("timing", timing_limit(seconds) + len(files) * SECONDS, quiet=True)
    measured, nothing_ms = _measured(files, device, threads, seconds)
    batch = size or next((shape[0] for shape in files[0].shapes.values() if shape), None)
    entries = [
        Entry(file.path, batch, file.counts, found.latency, found.placement, None, None, None, found.disturbance, None)
        for file, found in zip(files, measured, strict=True)
    ]
    others_found = zip(entries[1:], files[1:], measured[1:], strict=True)
    return [entries[0], *(_compared(*each, files[0], measured[0], nothing_ms, device) for each in others_found)]


@dataclass(frozen=True)
class _File:
    """A file that can be run.

    Attributes:
        names: its inputs -> the base's.
        shapes: with the batch, by its inputs.
        given: values by its inputs; the others are random.
    """

    path: Path
    names: dict[str, str]
    shapes: dict[str, Shape]
    given: Inputs
    counts: Counts


@dataclass(frozen=True)
class _Measured:
    """What running a file gave.

    Attributes:
        answers: of its outputs.
        times: of its first session and of its twin, each (rounds,), in milliseconds.
        kernels: none where no file is in 8 bits.
        output_names: in their order.
    """

    placement: str | None
    answers: list[Any]
    output_names: list[str]
    times: tuple[np.ndarray, np.ndarray]
    latency: Latency
    disturbance: Disturbance
    kernels: Sequence[KernelTime]


def _read(
    paths: Sequence[Path],
    size: int | None,
    shapes: Mapping[str, Shape],
    values: Mapping[str, Any],
    device: str,
    threads: int,
) -> list[_File]:
    """The files, of which the first is the base, counted, and each run once."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    inputs = GraphProto()  # those of the base
    base_at = partial(input_shapes, paths[0], inputs, given=shapes, values=arrays)
    files: list[_File] = []
    read = 0  # bytes so far
    for path in paths:
        weight = bytes_around(path)
        read += weight
        stage(f"reading and counting {path}", reading_seconds(weight), memory=run_memory(read, None))
        model, file_bytes = load(path)
        if files:
            base = files[0]
            names = _paired_inputs(path, model, base.path, base.shapes)
            here = {own: arrays[theirs] for own, theirs in names.items() if theirs in arrays}
            resolved = _shapes_as_base(path, model.graph, names, here, base, base_at)
        else:
            here = arrays
            resolved = input_shapes(path, model.graph, size, shapes, arrays)
            inputs.input.extend(value for value in model.graph.input if value.name in resolved)
            names = {name: name for name in resolved}
        given = input_values(path, model.graph, resolved, here)
        counts = count_model(path, model, file_bytes, resolved, given)
        most = run_memory(read, counts.peak_activation_bytes)
        allowed = SECONDS + file_bytes / 50e6
        limits = dict(counts.index_limits)
        try_file(path, resolved, device, threads, given, limits, allowed, f"a single run of {path}", most)
        files.append(_File(path, names, resolved, given, counts))
    return files


def _shapes_as_base(
    path: Path,
    graph: GraphProto,
    names: Mapping[str, str],
    values: Inputs,
    base: _File,
    base_at: Callable[[int], dict[str, Shape]],
) -> dict[str, Shape]:
    """The shapes of a file's inputs, which are the base's.

    Args:
        names: the file's inputs -> the base's.
        values: by the file's inputs.
        base_at: gives the shapes of the base's inputs at a batch.

    Raises:
        InputError: it does not take them; where both take another batch, that is named.
    """

    def resolved(theirs: Mapping[str, Shape]) -> dict[str, Shape]:
        return input_shapes(path, graph, None, {own: theirs[name] for own, name in names.items()}, values)

    try:
        return resolved(base.shapes)
    except InputError as error:
        dims = [value.type.tensor_type.shape.dim for value in graph.input if value.name in names]
        for batch in {sizes[0].dim_value for sizes in dims if sizes and sizes[0].dim_value > 0}:
            try:
                resolved(base_at(batch))
            except InputError:
                continue
            raise InputError(f"{error}: give --batch-size {batch}, which both take") from None
        raise


def _measured(files: Sequence[_File], device: str, threads: int, seconds: float) -> tuple[list[_Measured], float]:
    """What running each of the files gave, all of them in turn; and the milliseconds of a run that does nothing."""
    placements = [on_cpu(file.path, _kernels(file, device, threads, 0)) if device == "cuda" else None for file in files]
    sessions = [open_session(file.path, device=device, threads=threads) for file in [*files, *files]]
    first = random_inputs(sessions[0], files[0].shapes, values=files[0].given, limits=_shared_limits(files))
    feeds = [
        _same_feed(file, session, sessions[0], first) for file, session in zip([*files, *files], sessions, strict=True)
    ]
    answers = [_answer(*each) for each in zip(files, sessions, feeds, strict=False)]
    runs = [bound_run(session, feed, device) for session, feed in zip(sessions, feeds, strict=True)]
    with timing_lock(helper.say):
        bystanders = Bystanders()
        *times, nothing = interleave([*runs, _nothing(device, threads)], seconds)
        disturbances = [bystanders.disturbance(part, threads) for part in times[: len(files)]]
        in_8_bits = any(has_int8(file.counts) for file in files)
        kernels = [_kernels(file, device, threads, _SECONDS_OF_KERNELS) if in_8_bits else () for file in files]
    measured = []
    for index, pair in enumerate(zip(times[: len(files)], times[len(files) :], strict=True)):
        measured.append(
            _Measured(
                placement=placements[index],
                answers=answers[index],
                output_names=[value.name for value in sessions[index].get_outputs()],
                times=pair,
                latency=summarise(np.concatenate(pair)),
                disturbance=disturbances[index],
                kernels=kernels[index],
            )
        )
    return measured, float(np.median(nothing))


def _compared(
    entry: Entry, file: _File, found: _Measured, base: _File, of_base: _Measured, nothing_ms: float, device: str
) -> Entry:
    """The entry of a file, with what compares it with the base."""
    medians = of_base.latency.median_ms, found.latency.median_ms
    firsts, twins = ([pair[at] for pair in (of_base.times, found.times)] for at in (0, 1))
    counts = base.counts, file.counts
    facts = facts_of(counts, (firsts, twins), medians[0] / medians[1], nothing_ms / medians[1], device)
    if has_int8(file.counts):
        processor = (int8_instructions(), vectors()) if device == "cpu" else (None, "")
        eight = quantised(file.counts, (of_base.kernels, found.kernels), medians, *processor)
        facts = replace(facts, quantised=eight)
    outputs, by_position = difference(of_base.output_names, found.output_names, of_base.answers, found.answers)
    renamed = [f"{own!r} with {theirs!r}" for own, theirs in file.names.items() if own != theirs] + by_position
    pairing = f"paired by position, their names differ: {', '.join(renamed)}" if renamed else None
    return replace(entry, facts=facts, verdict=judge(facts), outputs=outputs, pairing=pairing)


def _kernels(file: _File, device: str, threads: int, seconds: float) -> Sequence[KernelTime]:
    return time_kernels(
        file.path,
        file.shapes,
        device=device,
        threads=threads,
        seconds=seconds,
        values=file.given,
        limits=file.counts.index_limits,
    )


def _paired_inputs(path: Path, model: Any, base: Path, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """The file's inputs -> the base's.

    Raises:
        InputError: there are more or fewer.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initializers]
    if len(names) != len(shapes):
        raise InputError(
            f"{path}: it has {plural(len(names), 'input')}, {base} has {len(shapes)}: they cannot be compared"
        )
    return pair_names(names, list(shapes))


def _shared_limits(files: Sequence[_File]) -> dict[str, int]:
    """Of the base's inputs: what every file takes."""
    limits: dict[str, int] = {}
    for file in files:
        for name, limit in file.counts.index_limits.items():
            theirs = file.names[name]
            limits[theirs] = min(limit, limits.get(theirs, limit))
    return limits


def _same_feed(file: _File, session: Any, base: Any, feed: Inputs) -> Inputs:
    """The base's input under the names that the file has for it."""
    kinds = {value.name: value.type for value in base.get_inputs()}
    for own in session.get_inputs():
        theirs = kinds[file.names[own.name]]
        if own.type != theirs:
            raise InputError(f"{file.path}: its input {own.name!r} is {own.type}, the base's is {theirs}")
    return {own: feed[theirs] for own, theirs in file.names.items()}


def _answer(file: _File, session: Any, feed: Inputs) -> list[Any]:
    try:
        return list(session.run(None, feed))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{file.path}: onnxruntime cannot run it: {one_line(error)}") from error


def _nothing(device: str, threads: int) -> Callable[[], Any]:
    """A run that does nothing but what every run does."""
    with temporary_folder() as folder:
        path = Path(folder) / "nothing.onnx"
        onnx.save(onnx.parser.parse_model(_NOTHING), path)
        session = open_session(path, device=device, threads=threads)
    return bound_run(session, {"x": np.zeros(1, np.float32)}, device)
