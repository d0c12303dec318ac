"""`profile`: any ONNX file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.cells import MISSING
from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import BATCH_SIZES, DEVICE, INPUTS, SECONDS, THREADS, GivenInputs, PathName, one_form
from onnxprune.common.errors import InputError
from onnxprune.common.files import is_folder
from onnxprune.common.output import plural, printable

if TYPE_CHECKING:
    from onnxprune.analysis.profiling import Profile, Value
    from onnxprune.graph.counts import NodeCount
    from onnxprune.runtime.roofline import Roofline

Table = tuple[str, list[str], list[list[str]]]  # title, headings, rows

_BUSY = "busy"
_LONGEST_NAME = 60
_LABEL = 12  # characters before the lines of the summary


class _NodeNumber(click.ParamType):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "all" or value is None:
            return None
        if not (isinstance(value, int) or value.isdecimal()):
            self.fail(f"expected a number or all, got {value!r}", param, ctx)
        return int(value)


@click.command()
@click.argument("models", type=PathName(path_type=Path), nargs=-1, required=True, metavar="MODEL...")
@BATCH_SIZES
@INPUTS
@DEVICE
@THREADS
@SECONDS
@click.option("--no-latency", is_flag=True, help="Count only; without --per-node-time nothing is run.")
@click.option("--per-node-time", is_flag=True, help="Time each operator's kernels, with onnxruntime's own profiler.")
@click.option(
    "--nodes",
    type=_NodeNumber(),
    default=10,
    metavar="N|all",
    show_default=True,
    help="How many nodes to list, those with the most MACs first.",
)
@one_form(json="Print everything as JSON.", csv="Print the nodes as CSV, all of them in the order of the graph.")
@click.option(
    "--html",
    "page",
    type=PathName(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page of one model too: its heaviest nodes, memory from node to node, what bounds each node.",
)
def profile(
    models: tuple[Path, ...],
    batch_sizes: tuple[int, ...],
    inputs: GivenInputs,
    device: str,
    threads: int | None,
    seconds: float,
    no_latency: bool,
    per_node_time: bool,
    nodes: int | None,
    output: str | None,
    page: Path | None,
) -> None:
    """Profile any ONNX file: contents, cost and speed.

    Parameters, MACs and memory are counted from the graph; latency is measured by onnxruntime on random inputs. Counts
    are for the first batch size. With the latency comes a measured roofline, the multiply-adds and bytes a second of
    this machine at best: it says whether a node is bound by what it computes or by what it moves. Several files, or the
    files of a folder, make one table, a row each.

    \b
    Examples:
      onnxprune profile model.onnx
      onnxprune profile a.onnx b.onnx models/ --no-latency
      onnxprune profile model.onnx --batch-size 1,32 --threads 1 --per-node-time
      onnxprune profile model.onnx --input input:1x3x224x224 --no-latency --json
      onnxprune profile model.onnx --html profile.html
    """
    from onnxprune.commands.profile_rows import onnx_files
    from onnxprune.runtime.helper import warm_up

    warm_up()
    if page is not None and output == "csv":
        raise click.UsageError("--csv and --html exclude each other: with --csv nothing is measured")
    if page is not None and page.exists() and models[0].exists() and page.samefile(models[0]):
        raise InputError(f"--html {page} would take the place of the model: choose another name")
    settings: dict[str, Any] = {
        "batch_sizes": batch_sizes,
        "shapes": inputs.shapes,
        "values": inputs.values,
        "device": device,
        "threads": threads,
        "seconds": seconds,
        "say": lambda line: echo(f"{line[0].upper()}{line[1:]}", err=True),
    }
    if len(models) > 1 or is_folder(models[0]):
        if page is not None:
            raise click.UsageError("--html makes a page of one model")
        _print_all(*onnx_files(models), output, latency=not no_latency, **settings)
        return
    from onnxprune.analysis import profiling
    from onnxprune.commands.columns import csv_text

    found = profiling.profile(
        models[0],
        latency=not (no_latency or output == "csv"),
        per_node_time=per_node_time and output != "csv",
        **settings,
    )
    if output == "csv":
        echo(csv_text(found.node_rows) if found.counts.nodes else "", nl=False)
    elif output == "json":
        echo(json.dumps(found.document, indent=1))
    else:
        _print(found, nodes)
    if page is not None:
        from onnxprune.report import profile_page

        profile_page.write(found.document, page)
        echo(f"Wrote {page}", err=True)
    for line in found.missing:
        prose(f"Not measured: {line}", err=True)


def _print_all(files: Sequence[Path], refused: InputError | None, output: str | None, **settings: Any) -> None:
    """Prints a row for every file that can be profiled, and exits with 2 where one cannot, or folders were refused."""
    from onnxprune.analysis import profiling
    from onnxprune.commands.profile_rows import print_rows

    found: list[Profile] = []
    problems = [] if refused is None else [refused]
    for path in files:
        try:
            found.append(profiling.profile(path, roofline=False, **settings))
        except InputError as error:
            problems.append(error)
    print_rows(found, output)
    for entry in found:
        for line in entry.missing:
            prose(f"Not measured: {entry.path}: {line}", err=True)
    for problem in problems:
        echo(f"Error: {problem}", err=True)
    if problems:
        raise SystemExit(InputError.exit_code)


def _print(found: "Profile", nodes: int | None) -> None:
    from onnxprune.commands.columns import columns

    prose(_summary(found), indent=_LABEL)
    tables = (_operators(found), _nodes(found, nodes), *_held(found, nodes), *_latencies(found), *_kernels(found))
    for title, headings, rows in tables:
        echo(f"\n{title}\n\n{columns(headings, rows)}")
    notes = [*found.counts.notes, *filter(None, [found.placement]), *found.remarks]
    if notes:
        echo()
    for note in notes:
        prose(f"Note: {printable(note)}")


def _summary(found: "Profile") -> str:
    header, counts = found.header, found.counts
    opsets = ", ".join(f"{domain} {version}" for domain, version in header.opsets.items())
    peak = counts.peak_activation_bytes
    rows = [
        ("opset", f"{opsets}, IR {header.ir_version}, by {header.producer or 'an unnamed producer'}"),
        *(("input", _declared(value)) for value in header.inputs),
        *(("output", _declared(value)) for value in header.outputs),
        ("params", f"{counts.params:,}, {counts.nonzero_params:,} of them not zero: sparsity {counts.sparsity:.2f} %"),
        ("file", f"{counts.file_bytes:,} bytes, of them weights {counts.weight_bytes:,}"),
        ("activations", "unknown" if peak is None else f"{peak:,} bytes at the peak{_while(counts.peak_node)}"),
        ("MACs", f"{counts.bound}{counts.macs:,}  =  {counts.bound}{counts.flops:,} FLOPs (1 MAC = 2 FLOPs)"),
        ("eff. MACs", f"{counts.bound}{counts.effective_macs:,} without multiplications by stored zeros"),
    ]
    if counts.onnx_tool_ops is None:
        rows.append(("onnx-tool", f"no total: {counts.onnx_tool_note}"))
    else:
        reasons = [
            f"{abs(ops):,} {'more' if ops > 0 else 'fewer'}: {why}" for why, ops in counts.onnx_tool_difference.items()
        ]
        rows.append(("onnx-tool", f"{counts.onnx_tool_ops:,} operations" + (", against our MACs" if reasons else "")))
        rows += [("", reason) for reason in reasons]
    if found.roofline is not None:
        rows.append(("roofline", _roof(found, found.roofline)))
    batch = "" if found.batch is None else f", for batch {found.batch:,}"
    return "\n".join([f"{found.path}{batch}", *(printable(f"  {name:{_LABEL}}{text}") for name, text in rows)])


def _while(node: "NodeCount | None") -> str:
    return "" if node is None else f", while {_short(node.operator)} {_short(node.name)!r} runs"


def _roof(found: "Profile", roof: "Roofline") -> str:
    """The machine at best, and what that means for the nodes."""
    speeds = [f"{macs / 1e9:,.1f} GMAC/s of {kind}" for kind, macs in roof.macs_per_second.items()]
    ridges = [f"{macs:.1f} MACs a byte of {kind}" for kind, macs in roof.ridges.items()]
    memory, total = found.memory_bound_macs, found.counts.macs
    share = f": {_percent(memory, total)} % of the MACs" if memory is not None and total else ""
    threads = plural(roof.threads, "thread")
    bound = f"; memory bounds nodes below {', '.join(ridges)}{share}" if ridges else ""
    return f"{', '.join([*speeds, f'{roof.bytes_per_second / 1e9:,.1f} GB/s'])} on {roof.device}, {threads}{bound}"


def _declared(value: "Value") -> str:
    if value.shape is None:
        return f"{_short(value.name)}: {value.kind}"
    return f"{_short(value.name)}: {value.kind} [{', '.join('?' if dim is None else str(dim) for dim in value.shape)}]"


def _short(name: str) -> str:
    """A name that does not break a table: of a long one, its beginning and its end."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 3]}...{name[-half:]}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else MISSING


def _operators(found: "Profile") -> Table:
    counts = found.counts
    rows = [
        [
            _short(name),
            f"{entry.count:,}",
            "unknown" if name in counts.uncounted else f"{entry.macs:,}",
            _percent(entry.macs, counts.macs),
            f"{entry.params:,}",
            _percent(entry.params, counts.params),
        ]
        for name, entry in counts.operators.items()
    ]
    return "Operators", ["operator", ">count", ">MACs", ">%", ">params", ">%"], rows


def _nodes(found: "Profile", number: int | None) -> Table:
    nodes, counts = found.counts.nodes, found.counts
    heaviest = sorted(nodes, key=lambda node: (-node.macs, -node.params))[:number]
    pruned = counts.effective_macs != counts.macs
    compared = any(node.onnx_tool_ops is not None for node in heaviest)
    rows = [
        [
            _short(node.operator),
            f"{node.macs:,}",
            _percent(node.macs, counts.macs),
            *([f"{node.effective_macs:,}"] if pruned else []),
            f"{node.macs_per_byte:.3g}" if node.macs_per_byte else MISSING,
            *([found.bound(node) or MISSING] if found.roofline else []),
            *([f"{node.onnx_tool_ops:,}" if node.onnx_tool_ops is not None else MISSING] if compared else []),
            f"{node.params:,}",
            MISSING if node.output_shape is None else "x".join(map(str, node.output_shape)) or "scalar",
            _short(node.name),
        ]
        for node in heaviest
    ]
    headings = [
        "operator",
        ">MACs",
        ">%",
        *([">eff. MACs"] if pruned else []),
        ">MACs/byte",
        *(["bound by"] if found.roofline else []),
        *([">onnx-tool"] if compared else []),
        ">params",
        "output",
        "node",
    ]
    return f"The heaviest {len(heaviest)} of {len(nodes)} nodes", headings, rows


def _held(found: "Profile", number: int | None) -> list[Table]:
    held, peak = found.counts.peak_held, found.counts.peak_activation_bytes
    if not held or not peak:
        return []
    rows = [
        [
            f"{tensor.bytes:,}",
            _percent(tensor.bytes, peak),
            _short(tensor.tensor),
            "an input" if tensor.node is None else _short(tensor.node),
        ]
        for tensor in held[:number]
    ]
    title = f"The largest {len(rows)} of {len(held)} tensors at the peak of the activations"
    return [(title, [">bytes", ">%", "tensor", "made by"], rows)]


def _latencies(found: "Profile") -> list[Table]:
    if not found.latencies:
        return []
    from onnxprune.runtime.timing import PLANNED_ROUNDS

    on_gpu = [">transfer"] if found.device == "cuda" else []
    marked = any(entry.disturbance.busy for entry in found.latencies)
    rows = []
    for entry in found.latencies:
        times = entry.latency
        milliseconds = (times.median_ms, times.p90_ms, times.p99_ms, times.mean_ms, times.std_ms)
        rows.append(
            [
                MISSING if entry.batch is None else f"{entry.batch:,}",
                *(MISSING if ms is None else f"{ms:.3f}" for ms in milliseconds),
                f"{times.runs:,}" + (f" of {PLANNED_ROUNDS}" if times.runs < PLANNED_ROUNDS else ""),
                f"{entry.samples_per_second:,.0f}",
                *([f"{entry.transfer.median_ms:.3f}"] if entry.transfer else []),
                *([_BUSY if entry.disturbance.busy else ""] if marked else []),
            ]
        )
    title = (
        f"Latency in ms, by onnxruntime on {found.device}, {plural(found.threads, 'thread')}, "
        f"after {found.latencies[0].warmup_seconds:g} s of warm-up"
    )
    return [
        (
            title,
            [
                ">batch",
                ">median",
                ">p90",
                ">p99",
                ">mean",
                ">std",
                ">runs",
                ">samples/s",
                *on_gpu,
                *([""] if marked else []),
            ],
            rows,
        )
    ]


def _kernels(found: "Profile") -> list[Table]:
    tables = []
    for entry in found.kernels:
        rows = [
            [kernel.operator, kernel.provider, f"{kernel.count:,}", f"{kernel.ms:.3f}", f"{kernel.share:.1f}"]
            for kernel in entry.kernels
        ]
        batch = "" if entry.batch is None else f" at batch {entry.batch:,}"
        title = f"Kernels of a run{batch}, by onnxruntime's profiler after its optimisations"
        tables.append((title, ["kernel", "on", ">count", ">ms", ">%"], rows))
    return tables
