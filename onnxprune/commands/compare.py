"""`compare`: ONNX files side by side."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.cells import MISSING
from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import (
    BATCH_SIZES,
    DEVICE,
    INPUTS,
    SECONDS,
    THREADS,
    GivenInputs,
    PathName,
    check_measured,
    one_form,
    warn,
)
from onnxprune.common.errors import InputError
from onnxprune.common.output import printable
from onnxprune.common.plain import plain

if TYPE_CHECKING:
    from onnxprune.analysis.comparison import Entry
    from onnxprune.analysis.verdict import Facts
    from onnxprune.reduction.output_file import FileReport

_COUNTS = ("file_bytes", "params", "nonzero_params", "macs", "effective_macs")
_OF_MACS = ("macs", "effective_macs")


@click.command()
@click.argument("base", type=PathName(path_type=Path))
@click.argument("others", type=PathName(path_type=Path), nargs=-1, required=True, metavar="OTHER...")
@BATCH_SIZES
@INPUTS
@DEVICE
@THREADS
@SECONDS
@one_form(json="Print as JSON.", csv="Print as CSV, one row per batch size and file.")
def compare(
    base: Path,
    others: tuple[Path, ...],
    batch_sizes: tuple[int, ...],
    inputs: GivenInputs,
    device: str,
    threads: int | None,
    seconds: float,
    output: str | None,
) -> None:
    """Compare ONNX files with a base: whether they are really faster, and why or why not.

    onnxruntime runs all files in turn on the same random input, in two sessions each. So the speedup is a ratio from
    one measurement, and comes with a confidence interval and the timing noise. --input names the inputs of the base.

    \b
    Examples:
      onnxprune compare base.onnx pruned.onnx
      onnxprune compare base.onnx a.onnx b.onnx --batch-size 1,32 --threads 1 --json
    """
    from onnxprune.runtime.helper import warm_up

    warm_up()
    from onnxprune.analysis.comparison import compare as compare_files

    check_measured(base)
    sound = _measured(others)
    entries = compare_files(
        base,
        sound,
        batch_sizes=batch_sizes,
        shapes=inputs.shapes,
        values=inputs.values,
        device=device,
        threads=threads,
        seconds=seconds,
        say=lambda line: echo(f"{line[0].upper()}{line[1:]}", err=True),
    )
    if output == "json":
        _print_json([_entry_json(entry) for entry in entries])
    elif output == "csv":
        echo(_as_csv(entries), nl=False)
    else:
        _print(entries, device)
    if len(sound) < len(others):
        raise SystemExit(InputError.exit_code)


def _measured(files: Sequence[Path]) -> list[Path]:
    """The files but for points of sweeps that are not what was measured, which are named and left out.

    Raises:
        InputError: all of them are.
    """
    sound, problems = [], []
    for path in files:
        try:
            check_measured(path)
            sound.append(path)
        except InputError as error:
            problems.append(str(error))
    if not sound:
        raise InputError("\n".join(problems))
    for problem in problems:
        warn(f"Left out: {problem}")
    return sound


def print_json(report: "FileReport") -> None:
    """Prints a report with its comparison to stdout."""
    _print_json({**report.as_json(), "comparison": [_entry_json(entry) for entry in report.comparison]})


def _print_json(found: Any) -> None:
    echo(json.dumps(plain(found), indent=1, allow_nan=False))


def _entry_json(entry: "Entry") -> dict[str, Any]:
    """A file at one batch size, in plain types."""
    parts = {
        name: None if part is None else asdict(part)
        for name, part in (("facts", entry.facts), ("verdict", entry.verdict), ("outputs", entry.outputs))
    }
    names = (*_COUNTS, "weight_bytes", "macs_by_type", "sparsity", "complete", "exact")
    counts = {name: getattr(entry.counts, name) for name in names}
    return {
        "model": str(entry.path),
        "batch": entry.batch,
        **counts,
        "latency": asdict(entry.latency),
        "disturbance": asdict(entry.disturbance),
        "placement": entry.placement,
        "pairing": entry.pairing,
        **parts,
    }


def _as_csv(entries: "list[Entry]") -> str:
    from onnxprune.commands.columns import csv_text

    rows = []
    for entry in entries:
        facts, verdict, outputs = entry.facts, entry.verdict, entry.outputs
        rows.append(
            {
                "model": entry.path,
                "batch": entry.batch,
                **{name: getattr(entry.counts, name) for name in (*_COUNTS, "weight_bytes", "complete", "exact")},
                "int8_macs": entry.counts.macs_by_type.get("int8", 0),
                "latency_ms_median": entry.latency.median_ms,
                "theoretical_speedup": facts and facts.theoretical,
                "speedup": facts and facts.speedup,
                "speedup_low": facts and facts.interval[0],
                "speedup_high": facts and facts.interval[1],
                "speedup_noise": facts and facts.noise,
                "output_max_abs_diff": outputs and outputs.max_abs,
                "outcome": verdict and verdict.outcome,
                "busy": entry.disturbance.busy,
            }
        )
    return csv_text(rows)


def _print(entries: "list[Entry]", device: str) -> None:
    from onnxprune.commands.columns import columns

    base = entries[0]
    files = [entry for entry in entries if entry.batch == base.batch]
    batch = "" if base.batch is None else f", for batch {base.batch:,}"
    echo(f"Costs{batch}; in brackets the base's divided by it\n")
    headings = [">bytes", ">params", ">not zero", ">MACs", ">eff. MACs", "model"]
    rows = [[*(_ratio(entry, base, name) for name in _COUNTS), str(entry.path)] for entry in files]
    echo(columns(headings, rows))
    types = [entry for entry in files if entry.counts.macs_by_type.keys() - {"float32", "unknown"}]
    if types:
        echo("\nTypes of numbers that are multiplied; bytes of weights as stored\n")
        headings = [">weight bytes", ">MACs in float32", ">in 8 bits", ">in others", "model"]
        echo(columns(headings, [_types(entry) for entry in files]))
    for start in range(0, len(entries), len(files)):
        part = entries[start : start + len(files)]
        batch = "" if base.batch is None else f" at batch {part[0].batch:,}"
        echo(f"\nLatency{batch}, by onnxruntime on {device}, all timed in turn\n")
        headings = [">median ms", ">speedup", ">95 % interval", ">noise", ">in theory", ">output differs", "model"]
        echo(columns(headings, [_timed(entry) for entry in part]))
        echo()
        for entry in part:
            _print_notes(entry)
            print_verdict(entry)


def _print_notes(entry: "Entry") -> None:
    if entry.placement:
        prose(f"Note: {entry.path}: {printable(entry.placement)}")
    if entry.disturbance.busy:
        prose(f"Note: {entry.path}: timed on a busy machine: {entry.disturbance.busy}")


def _ratio(entry: "Entry", base: "Entry", name: str) -> str:
    number, reference = getattr(entry.counts, name), getattr(base.counts, name)
    if name in _OF_MACS and not (entry.counts.comparable and base.counts.comparable):
        return f"{entry.counts.bound}{number:,}"
    return f"{number:,}" + (f" ({reference / number:.2f})" if number and entry is not base else "")


def _types(entry: "Entry") -> list[str]:
    found = dict(entry.counts.macs_by_type)
    whole = max(1, sum(found.values()))
    shares = [found.pop("float32", 0), found.pop("int8", 0), sum(found.values())]
    return [f"{entry.counts.weight_bytes:,}", *(f"{100 * share / whole:.1f} %" for share in shares), str(entry.path)]


def _timed(entry: "Entry") -> list[str]:
    facts, outputs = entry.facts, entry.outputs
    if facts is None or outputs is None:
        return [f"{entry.latency.median_ms:.3f}", *[MISSING] * 5, str(entry.path)]
    low, high = facts.interval
    return [
        f"{entry.latency.median_ms:.3f}",
        f"{facts.speedup:.2f}x",
        f"{low:.2f} to {high:.2f}",
        f"{100 * facts.noise:.1f} %",
        _theory(facts),
        MISSING if outputs.max_abs is None else f"{outputs.max_abs:.3g}",
        str(entry.path),
    ]


def _theory(facts: "Facts") -> str:
    return MISSING if facts.theoretical is None else f"{facts.theoretical:.2f}x"


def print_verdict(entry: "Entry") -> None:
    """What came out for a file, and why; nothing for the base."""
    if entry.facts is None or entry.verdict is None or entry.outputs is None:
        return
    of = "" if entry.facts.theoretical is None else f" of {_theory(entry.facts)}"
    prose(f"{entry.path}: {entry.verdict.outcome}, {entry.facts.speedup:.2f}x{of}")
    for reason in entry.verdict.reasons:
        prose(f"  - {reason}")
    if entry.pairing:
        prose(f"  - {entry.pairing}")
    if entry.outputs.note:
        prose(f"  - {entry.outputs.note}")
    if entry.outputs.same_top1 is not None and entry.outputs.same_top1 < 1:
        prose(f"  - on random input its largest output is the base's for {100 * entry.outputs.same_top1:.0f} % of rows")


def print_verdicts(entries: "Sequence[Entry]") -> None:
    """What came out for a file that was made of another, at each batch size."""
    for entry in entries:
        if entry.facts is None:
            batch = "" if entry.batch is None else f" at batch {entry.batch:,}"
            echo(f"\nBy onnxruntime{batch}, both timed in turn:")
        else:
            _print_notes(entry)
        print_verdict(entry)
