"""Compares ONNX files with a base: what they cost, what they gain when they are run, and why not more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

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
from onnxprune.runtime.kernels import on_cpu, time_kernels
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
    paths = [base, *others]
    counts: list[Counts] = []
    resolved: list[dict[str, Shape]] = []
    names: list[dict[str, str]] = []
    fed: Inputs = {}  # what is given for the base
    values_of: list[Inputs] = []
    arrays = {name: np.asarray(value) for name, value in values.items()}
    read = 0  # bytes so far
    for path in paths:
        weight = bytes_around(path)
        read += weight
        stage(f"reading and counting {path}", reading_seconds(weight), memory=run_memory(read, None))
        model, file_bytes = load(path)
        if resolved:
            names.append(_paired_inputs(path, model, base, resolved[0]))
            here = {own: arrays[theirs] for own, theirs in names[-1].items() if theirs in arrays}
            taken = {own: resolved[0][theirs] for own, theirs in names[-1].items()}
            resolved.append(input_shapes(path, model.graph, None, taken, here))
        else:
            resolved.append(input_shapes(path, model.graph, size, shapes, arrays))
            names.append({name: name for name in resolved[0]})
            here = arrays
        given = input_values(path, model.graph, resolved[-1], here)
        values_of.append(given)
        counts.append(count_model(path, model, file_bytes, resolved[-1], given))
        limits = dict(counts[-1].index_limits)
        most = run_memory(read, counts[-1].peak_activation_bytes)
        allowed = SECONDS + file_bytes / 50e6
        try_file(path, resolved[-1], device, threads, given, limits, allowed, f"a single run of {path}", most)
        fed = fed or given
    stage("timing", timing_limit(seconds) + len(paths) * SECONDS, quiet=True)
    placements = [
        _placement(path, own, threads, counted.index_limits) if device == "cuda" else None
        for path, own, counted in zip(paths, resolved, counts, strict=True)
    ]
    sessions = [open_session(path, device=device, threads=threads) for path in [*paths, *paths]]
    first = random_inputs(sessions[0], resolved[0], values=fed, limits=_shared_limits(names, counts))
    feeds = [
        _same_feed(path, session, sessions[0], first, own)
        for path, session, own in zip(paths * 2, sessions, names * 2, strict=True)
    ]
    answers = [_answer(path, session, feed) for path, session, feed in zip(paths, sessions, feeds, strict=False)]
    runs = [bound_run(session, feed, device) for session, feed in zip(sessions, feeds, strict=True)]
    with timing_lock(helper.say):
        bystanders = Bystanders()
        *times, nothing = interleave([*runs, _nothing(device, threads)], seconds)
        disturbances = [bystanders.disturbance(part, threads) for part in times[: len(paths)]]
        kernels = [
            time_kernels(
                path,
                own,
                device=device,
                threads=threads,
                seconds=_SECONDS_OF_KERNELS,
                values=given,
                limits=counted.index_limits,
            )
            if any(map(has_int8, counts))
            else ()
            for path, own, given, counted in zip(paths, resolved, values_of, counts, strict=True)
        ]
    batch = size or next((shape[0] for shape in resolved[0].values() if shape), None)
    firsts, twins = times[: len(paths)], times[len(paths) :]
    latencies = [summarise(np.concatenate(pair)) for pair in zip(firsts, twins, strict=True)]
    entries = [Entry(base, batch, counts[0], latencies[0], placements[0], None, None, None, disturbances[0], None)]
    for index in range(1, len(paths)):
        facts = facts_of(
            (counts[0], counts[index]),
            ([firsts[0], firsts[index]], [twins[0], twins[index]]),
            latencies[0].median_ms / latencies[index].median_ms,
            float(np.median(nothing)) / latencies[index].median_ms,
            device,
        )
        if has_int8(counts[index]):
            processor = (int8_instructions(), vectors()) if device == "cpu" else (None, "")
            medians = (latencies[0].median_ms, latencies[index].median_ms)
            eight = quantised(counts[index], (kernels[0], kernels[index]), medians, *processor)
            facts = replace(facts, quantised=eight)
        theirs, own = ([value.name for value in sessions[at].get_outputs()] for at in (0, index))
        outputs, by_position = difference(theirs, own, answers[0], answers[index])
        renamed = [f"{own!r} with {theirs!r}" for own, theirs in names[index].items() if own != theirs] + by_position
        pairing = f"paired by position, their names differ: {', '.join(renamed)}" if renamed else None
        entries.append(
            Entry(
                paths[index],
                batch,
                counts[index],
                latencies[index],
                placements[index],
                facts,
                judge(facts),
                outputs,
                disturbances[index],
                pairing,
            )
        )
    return entries


def _placement(path: Path, shapes: Mapping[str, Shape], threads: int, limits: Mapping[str, int]) -> str | None:
    return on_cpu(path, time_kernels(path, shapes, device="cuda", threads=threads, seconds=0, limits=limits))


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


def _shared_limits(names: Sequence[Mapping[str, str]], counts: Sequence[Counts]) -> dict[str, int]:
    """Of the base's inputs: what every file takes."""
    limits: dict[str, int] = {}
    for own, counted in zip(names, counts, strict=True):
        for name, limit in counted.index_limits.items():
            limits[own[name]] = min(limit, limits.get(own[name], limit))
    return limits


def _same_feed(path: Path, session: Any, base: Any, feed: Inputs, names: Mapping[str, str]) -> Inputs:
    """The base's input under the names that the other file has for it."""
    kinds = {value.name: value.type for value in base.get_inputs()}
    for own in session.get_inputs():
        if own.type != kinds[names[own.name]]:
            raise InputError(f"{path}: its input {own.name!r} is {own.type}, the base's is {kinds[names[own.name]]}")
    return {own: feed[theirs] for own, theirs in names.items()}


def _answer(path: Path, session: Any, feed: Inputs) -> list[Any]:
    try:
        return list(session.run(None, feed))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{path}: onnxruntime cannot run it: {one_line(error)}") from error


def _nothing(device: str, threads: int) -> Callable[[], Any]:
    """A run that does nothing but what every run does."""
    with temporary_folder() as folder:
        path = Path(folder) / "nothing.onnx"
        onnx.save(onnx.parser.parse_model(_NOTHING), path)
        session = open_session(path, device=device, threads=threads)
    return bound_run(session, {"x": np.zeros(1, np.float32)}, device)
