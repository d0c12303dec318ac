"""The command line: finds the command, and turns errors into one line and an exit code."""

import contextlib
import io
import sys
import warnings
from importlib import import_module
from typing import Any, NoReturn

import click

from onnxprune.commands.console import prose
from onnxprune.common import interruption
from onnxprune.common.errors import OnnxpruneError, bad_path
from onnxprune.common.output import printable, printable_lines
from onnxprune.version import __version__

# command -> the module of it and its summary: help needs no import, and a command imports only what it needs
_COMMANDS = {
    "sweep": ("onnxprune.commands.study", "Run a study: every combination of the values given."),
    "run": ("onnxprune.commands.study", "Run one point: one network, pruned in one way by one amount."),
    "search": ("onnxprune.commands.search", "Find the highest sparsity that loses no more than allowed."),
    "sensitivity": ("onnxprune.commands.sensitivity", "Measure accuracy against sparsity, one layer at a time."),
    "results": ("onnxprune.commands.study", "Print the table of a sweep, finished or still running."),
    "retime": ("onnxprune.commands.retime", "Measure the latencies of a sweep again."),
    "report": ("onnxprune.commands.report", "Write a report page (HTML) of sweeps, finished or still running."),
    "plot": ("onnxprune.commands.plot", "Draw a figure of sweeps for a paper."),
    "prune": ("onnxprune.commands.prune", "Prune any ONNX file, without its source code: smaller and faster."),
    "quantize": (
        "onnxprune.commands.quantize",
        "Quantise any ONNX file to int8 or float16, and measure what that costs and gains.",
    ),
    "profile": ("onnxprune.commands.profile", "Profile any ONNX file: contents, cost and speed."),
    "rerun": ("onnxprune.commands.rerun", "Run a point or a sweep again and check that the results are the same."),
    "compare": (
        "onnxprune.commands.compare",
        "Compare ONNX files with a base: whether they are really faster, and why or why not.",
    ),
    "evaluate": ("onnxprune.commands.evaluate", "Measure the accuracy of an ONNX file on a dataset's full test set."),
    "predict": ("onnxprune.commands.predict", "Classify picture files, using the metadata in an ONNX file."),
    "deploy": ("onnxprune.commands.deploy", "Copy the best model of a sweep, and write a model card."),
    "clean": ("onnxprune.commands.clean", "Remove the models of a sweep that are no longer needed."),
    "doctor": ("onnxprune.commands.doctor", "Check the installation, the data and the machine."),
    "models": ("onnxprune.commands.listings", "List the models."),
    "datasets": ("onnxprune.commands.listings", "List the datasets."),
    "techniques": ("onnxprune.commands.listings", "List the techniques, the criteria, the schedules and the controls."),
}

_CONTINUED = ("sweep", "run", "search")  # commands that go on where they were stopped

# module -> the extra that brings it; the rest of what commands import is always there
_EXTRAS = {
    **dict.fromkeys(("nni", "pyarrow", "safetensors", "sklearn", "torch", "torchvision"), "study"),
    **dict.fromkeys(("jinja2", "markupsafe", "matplotlib", "plotly"), "report"),
}


def main() -> NoReturn:
    """Runs the command line and exits: 0 ok, 1 a run failed, 2 bad input, 128 and its number after a signal."""
    interruption.listen()
    warnings.showwarning = _show_warning
    stderr = sys.stderr
    try:
        with interruption.not_lost():
            cli.main(prog_name="onnxprune", standalone_mode=False)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(file=text)
        click.echo(printable_lines(text.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt, interruption.Terminated):
        code = interruption.end()
        sys.stderr = stderr  # it may have come while a block that leads it elsewhere was being left
        told = "Interrupted."
        if sys.argv[1:2] and sys.argv[1] in _CONTINUED:
            told += " Everything finished is kept; the same command continues a study from there."
        with contextlib.suppress(OSError):  # the terminal may be closed
            click.echo(told, err=True)
        interruption.leave(code)
    except OnnxpruneError as error:
        for line in str(error).splitlines():
            prose(f"Error: {printable(line)}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS:
            raise
        click.echo(f'Error: this needs {module}: pip install "onnxprune[{_EXTRAS[module]}]"', err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be read
        refused = bad_path(error)
        click.echo(f"Error: {printable(str(refused or error))}", err=True)
        sys.exit(1 if refused is None else refused.exit_code)
    except MemoryError:
        click.echo("Error: not enough memory. Everything finished is kept.", err=True)
        sys.exit(1)
    sys.exit(0)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning of a library on one line, without the places in its source."""
    prose(f"Warning: {printable(' '.join(str(message).split()))}", err=True)


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="onnxprune")
def cli() -> None:
    """What does pruning a neural network cost, and what does it gain?

    Trains, prunes, exports to ONNX, and measures the ONNX file.
    """
