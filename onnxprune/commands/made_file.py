"""What the commands share that make an ONNX file of another one: options, and how they tell what came of it."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import (
    BATCH_SIZES,
    DATA_DIR,
    INPUTS,
    MEAN,
    SECONDS,
    STD,
    THREADS,
    GivenInputs,
    PathName,
    machine_readable,
    print_rows,
)
from onnxprune.common.output import printable

if TYPE_CHECKING:
    from onnxprune.reduction.output_file import FileReport


class Account(NamedTuple):
    """What people are told of a report.

    Attributes:
        headline: what was made, and where it is.
        tables: headings and rows of each; one without rows is left out.
        notes: lines of each; one without lines is left out.
    """

    headline: str
    tables: Sequence[tuple[list[str], list[list[str]]]]
    notes: Sequence[list[str]]


def makes_a_file(example: str, account: Callable[[Any], Account]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options of the samples, the file to write and its comparison; the command gets them by the names that its
    function in Python has for them, and returns the report, which is printed.

    Args:
        example: name of the file that is written by default.
        account: of a report.
    """

    def decorated(command: "Callable[..., FileReport]") -> Callable[..., Any]:
        @functools.wraps(command)
        def inner(
            *, path: Path | None, inputs: GivenInputs, no_latency: bool, quiet: bool, output: str | None, **rest: Any
        ) -> None:
            from onnxprune.runtime.helper import warm_up

            warm_up()
            from onnxprune.common.progress import Stages, Verbosity

            if inputs.values:
                raise click.UsageError(
                    "--input takes NAME:SIZES here: values of inputs are samples, given by --data FILE.npz"
                )
            with Stages(Verbosity.QUIET if quiet else Verbosity.NORMAL) as advance:
                report = command(output=path, shapes=inputs.shapes, latency=not no_latency, advance=advance, **rest)
            _print(report, account, output)

        optional: Callable[..., Any] = machine_readable(inner)
        for option in reversed(_options(example)):
            optional = option(optional)
        return optional

    return decorated


def _options(example: str) -> list[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    return [
        click.option(
            "--data",
            help="Inputs, with or without labels: FILE.npz with an array for each input, a dataset's name or .npz, or "
            "a folder of pictures.",
        ),
        DATA_DIR,
        click.option(
            "--samples",
            type=int,
            default=512,
            show_default=True,
            help="Largest number of inputs of --data to work from.",
        ),
        MEAN,
        STD,
        click.option("--seed", type=int, default=0, show_default=True, help="Random seed."),
        INPUTS,
        click.option(
            "-o",
            "--output",
            "path",
            type=PathName(path_type=Path),
            metavar="FILE",
            help=f"File to write; an existing one is replaced  [default: {example} beside MODEL].",
        ),
        click.option("--no-latency", is_flag=True, help="Do not time the file against the original."),
        BATCH_SIZES,
        THREADS,
        SECONDS,
        click.option("--quiet", is_flag=True, help="No progress."),
    ]


def _print(report: "FileReport", account: Callable[[Any], Account], form: str | None) -> None:
    from onnxprune.commands.columns import columns
    from onnxprune.commands.compare import print_json, print_verdicts

    if form == "json":
        print_json(report)
    elif form == "csv":
        print_rows(report.rows(), form)
    else:
        told = account(report)
        prose(told.headline)
        for headings, rows in told.tables:
            if rows:
                echo(f"\n{columns(headings, rows)}")
        for lines in told.notes:
            if lines:
                prose("\n" + "\n".join(lines))
        if report.not_tested is not None:
            prose(f"Note: no accuracy was measured: {printable(report.not_tested)}")
        if report.not_compared is not None:
            prose(f"Note: not compared with the original: {printable(report.not_compared)}")
        print_verdicts(report.comparison)
