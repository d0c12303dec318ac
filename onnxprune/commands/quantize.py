"""`quantize`: any ONNX file in 8 or 16 bits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.cells import MISSING, accuracy_rows
from onnxprune.commands.made_file import Account, makes_a_file
from onnxprune.commands.options import PathName
from onnxprune.common.output import plural

if TYPE_CHECKING:
    from onnxprune.quantization.result import LayerReport, QuantizeReport

_MOST_LINES = 12  # of layers left in float32, each with its own reason


def _account(report: "QuantizeReport") -> Account:
    return Account(_headline(report), (_sizes(report), _quality(report)), (_kept(report), _without_data(report)))


@click.command()
@click.argument("model", type=PathName(path_type=Path))
@click.option(
    "--type",
    default="int8",
    show_default=True,
    metavar="TYPE",
    help="Number type of weights and computation: int8, or float16 for GPUs.",
)
@click.option("--dynamic", is_flag=True, help="int8 with ranges found at run time: needs no data; no convolutions.")
@click.option(
    "--calibration",
    default="minmax",
    show_default=True,
    help="How activation ranges are found from the data: minmax, entropy, percentile.",
)
@click.option(
    "--keep", metavar="NODES", help="Nodes to keep in float32, separated by commas: names as `profile` lists them."
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Keep the most sensitive layers in float32, so that no more than this is lost: accuracy on validation "
    "images or, without labels, agreement with the original (of a file that is no classifier: fidelity to it)  "
    "[default: quantise all].",
)
@makes_a_file("MODEL-int8.onnx", _account)
def quantize(
    model: Path,
    type: str,
    dynamic: bool,
    calibration: str,
    keep: str | None,
    max_drop: float | None,
    **shared: Any,
) -> "QuantizeReport":
    """Quantise any ONNX file to int8 or float16, and measure what that costs and gains.

    By onnxruntime's quantiser: static int8 as QuantizeLinear and DequantizeLinear nodes, a scale for each channel of
    weights, which have 7 bits, since with 8 sums overflow on processors without VNNI. Works on pruned files alike.

    \b
    Examples:
      onnxprune quantize model.onnx --data inputs.npz
      onnxprune quantize model.onnx --data fmnist --mean 0.286 --std 0.353 --max-drop 0.5
      onnxprune quantize model.onnx --dynamic
    """
    from onnxprune.quantization import quantize as quantization

    return quantization.quantize(
        model,
        type=type,
        dynamic=dynamic,
        calibration=calibration,
        keep=[name.strip() for name in (keep or "").split(",") if name.strip()],
        max_drop=max_drop,
        **shared,
    )


def _headline(report: "QuantizeReport") -> str:
    settings = report.settings
    how = f", ranges by {settings.calibration} from {report.samples}" if settings.calibrated else ""
    done = f"{report.source}: {settings.title}{how}, {100 * report.converted_share:.1f} % of its layers' MACs"
    place = f"{report.output}, in place of the file that was there" if report.replaced else str(report.output)
    return f"{done}\nwritten to {place}"


def _sizes(report: "QuantizeReport") -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, label in (("bytes", "bytes"), ("bytes_compressed", "bytes after gzip")):
        before, after = getattr(report.before, name), getattr(report.after, name)
        rows.append([label, f"{before:,}", f"{after:,}", f"{100 * after / before:.1f} %"])
    return ["", ">before", ">after", ">left"], rows


def _quality(report: "QuantizeReport") -> tuple[list[str], list[list[str]]]:
    found, accuracy = report.fidelity, report.accuracy
    if found is None:
        return [], []
    rows = [
        ["relative error of the outputs", MISSING, f"{found.relative_error:.4f}"],
        ["cosine with the original's", MISSING, f"{found.cosine:.4f}"],
    ]
    if found.agreement is not None:
        rows.append(["same highest score", MISSING, f"{found.agreement:.2f} %"])
    if report.drop is not None:
        rows.append(["drop that --max-drop limits, points", MISSING, f"{report.drop:.2f}"])
    if accuracy is not None and report.tested is not None:
        rows += accuracy_rows(accuracy, report.tested)
    return [f"on {plural(found.samples, 'held-out sample')}", ">original", ">quantised"], rows


def _kept(report: "QuantizeReport") -> list[str]:
    """Layers that stay in float32, one by one or, where there are many, by their reason."""
    kept = [layer for layer in report.layers if layer.reason]
    by_reason: dict[str, list[LayerReport]] = {}
    for layer in kept:
        by_reason.setdefault(layer.reason, []).append(layer)
    lines = [f"  {layer.layer}, {100 * layer.macs_share:.1f} % of the MACs: {_reason(layer)}" for layer in kept]
    if len(lines) > _MOST_LINES:
        lines = [
            f"  {plural(len(found), 'layer')}, {100 * sum(layer.macs_share for layer in found):.1f} % of the MACs: "
            f"{reason}"
            for reason, found in by_reason.items()
        ]
    return ["Left in float32:", *lines] if lines else []


def _reason(layer: "LayerReport") -> str:
    alone = "" if layer.error_alone is None else f", alone it changes the outputs by {layer.error_alone:.4f}"
    return f"{layer.reason}{alone}"


def _without_data(report: "QuantizeReport") -> list[str]:
    if report.samples is not None:
        return []
    return ["Without --data it is not known how close the outputs are: a few hundred unlabelled inputs would show it."]
