"""`prune`: any ONNX file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.cells import MISSING, accuracy_rows
from onnxprune.commands.made_file import Account, makes_a_file
from onnxprune.commands.options import PathName
from onnxprune.common.output import plural
from onnxprune.common.widths import DEFAULT_STEP

if TYPE_CHECKING:
    from onnxprune.reduction.result import GroupReport, PruneReport

_MOST_LINES = 12  # of frozen groups, each with its own reason
_MOST_NAMES = 4  # of frozen groups of one reason


def _account(report: "PruneReport") -> Account:
    tables = _sizes(report), _quality(report), _groups(report.groups), _layers(report)
    return Account(
        _headline(report), tables, (_frozen(report.groups), _recovery(report), _harm(report), _without_data(report))
    )


@click.command()
@click.argument("model", type=PathName(path_type=Path))
@click.option(
    "--sparsity",
    type=float,
    metavar="PERCENT",
    help="Percent to remove: of the units of each group, or of the weights.",
)
@click.option(
    "--target",
    metavar="WHAT=SHARE",
    help=(
        "Share to keep: macs=0.5, or latency=0.5 (measured). How much each layer loses depends on its sensitivity "
        "and cost."
    ),
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Remove as much as possible while losing no more than this: accuracy on validation images or, without "
    "labels, agreement with the original (of a file that is no classifier: fidelity to it).",
)
@click.option(
    "--technique",
    default="structured",
    show_default=True,
    help=(
        "structured or neuron (removes units), weight or unstructured (zeros single weights, per layer or over "
        "all layers)."
    ),
)
@click.option(
    "--criterion",
    help="l1, l2, fpgm, random; with --data also obs, wanda, activation  [default: obs with --data, else l1].",
)
@click.option(
    "--channel-align",
    default=str(DEFAULT_STEP),
    show_default=True,
    metavar="N",
    help="Convolutions of 32 channels or more keep a multiple of N, or of a half, a quarter, ... of it; auto: measure "
    "which multiple is fast on this machine.",
)
@click.option(
    "--recovery",
    default="bias,ridge,match,pairs",
    show_default=True,
    metavar="METHODS",
    help="Repairs to try after pruning, fitted to the samples; or none.",
)
@click.option("--dry-run", is_flag=True, help="Show what can be removed, and what is frozen and why; write nothing.")
@makes_a_file("MODEL-structured-50.onnx", _account)
def prune(
    model: Path,
    sparsity: float | None,
    target: str | None,
    max_drop: float | None,
    technique: str,
    criterion: str | None,
    channel_align: str,
    recovery: str,
    dry_run: bool,
    **shared: Any,
) -> "PruneReport":
    """Prune any ONNX file, without its source code: smaller and faster.

    Give one of --sparsity, --target and --max-drop. Channels that belong together go together; what is not understood
    stays, and the report says why. The result is checked against the original with the same channels masked, and with
    --data repaired by least squares, without labels and without training.

    \b
    Examples:
      onnxprune prune model.onnx --dry-run
      onnxprune prune model.onnx --sparsity 50 --data inputs.npz
      onnxprune prune model.onnx --target macs=0.5 --data pictures --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26
    """
    from onnxprune.reduction import prune as pruning

    return pruning.prune(
        model,
        sparsity=sparsity,
        target=target,
        max_drop=max_drop,
        technique=technique,
        criterion=criterion,
        channel_align=channel_align,
        recovery=() if recovery == "none" else tuple(recovery.split(",")),
        dry_run=dry_run,
        **shared,
    )


def _headline(report: "PruneReport") -> str:
    settings = report.settings
    whole = "units" if report.groups else "weights"
    done = (
        f"{report.source}: {settings.technique} by {settings.criterion}, {100 * report.share_gone:.1f} % of the {whole}"
    )
    if report.output is None:
        return f"{done} would go; nothing is written"
    place = f"{report.output}, in place of the file that was there" if report.replaced else str(report.output)
    return f"{done} gone\nwritten to {place}"


def _sizes(report: "PruneReport") -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, label in (("params", "params"), ("nonzero_params", "not zero"), ("macs", "MACs"), ("bytes", "bytes")):
        before, after = getattr(report.before, name), getattr(report.after, name)
        if name != "nonzero_params" or after != report.after.params:
            rows.append([label, f"{before:,}", f"{after:,}", f"{100 * after / before:.1f} %" if before else MISSING])
    return ["", ">before", ">after", ">left"], rows


def _quality(report: "PruneReport") -> tuple[list[str], list[list[str]]]:
    plain, found, accuracy = report.fidelity_plain, report.fidelity, report.accuracy
    if plain is None or found is None:
        return [], []
    rows = [
        ["relative error of the outputs", MISSING, f"{plain.relative_error:.4f}", f"{found.relative_error:.4f}"],
        ["cosine with the original's", MISSING, f"{plain.cosine:.4f}", f"{found.cosine:.4f}"],
    ]
    if plain.agreement is not None and found.agreement is not None:
        rows.append(["same highest score", MISSING, f"{plain.agreement:.2f} %", f"{found.agreement:.2f} %"])
    if accuracy is not None and report.tested is not None:
        rows += accuracy_rows(accuracy, report.tested)
    return [f"on {plural(found.samples, 'held-out sample')}", ">original", ">pruned", ">recovered"], rows


def _groups(groups: "Sequence[GroupReport]") -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            f"{group.units:,}",
            f"{group.kept:,}",
            f"{100 * group.kept / group.units:.1f} %",
            f"{group.width:,}",
            f"{100 * group.macs_share:.1f} %",
            MISSING if group.error_added is None else f"{group.error_added:.2e}",
            _names(group.producers),
        ]
        for group in groups
        if group.frozen is None
    ]
    return [">units", ">kept", ">left", ">channels each", ">of MACs", ">error added", "made by"], rows


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _layers(report: "PruneReport") -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"{layer.weights:,}", f"{layer.zeros:,}", f"{100 * layer.zeros / layer.weights:.2f} %", layer.layer]
        for layer in report.layers
    ]
    return [">weights", ">zeros", ">share", "layer"], rows


def _frozen(groups: "Sequence[GroupReport]") -> list[str]:
    """Frozen groups one by one or, where there are many, by their reason."""
    frozen = [group for group in groups if group.frozen is not None]
    lines = [
        f"  {_names(group.producers)}, {plural(group.units, 'unit')}: {group.frozen}"
        + (f" ({group.frozen_by})" if group.frozen_by else "")
        for group in frozen
    ]
    if len(lines) > _MOST_LINES:
        by_reason: dict[str, list[GroupReport]] = {}
        for group in frozen:
            by_reason.setdefault(str(group.frozen), []).append(group)
        lines = [
            f"  {len(found)} of them, {plural(sum(group.units for group in found), 'unit')}: {reason}; made by "
            + _names([name for group in found for name in group.producers])
            for reason, found in by_reason.items()
        ]
    return ["Frozen:", *lines] if lines else []


def _recovery(report: "PruneReport") -> list[str]:
    if not report.repairs:
        return []
    none = report.recovered.get("none", 0)
    done = ", ".join(f"{count} by {method}" for method, count in sorted(report.recovered.items()) if method != "none")
    lines = [f"Recovery, from {report.samples or 'noise in place of data'}: {done or 'nothing was repaired'}."]
    if none:
        lines.append(
            f"{none} of {len(report.repairs)} operators stay as they were: nothing helped on samples kept apart."
        )
    return lines


def _harm(report: "PruneReport") -> list[str]:
    plain, found = report.fidelity_plain, report.fidelity
    if plain is None or found is None or found.relative_error <= plain.relative_error:
        return []
    return [
        "On held-out samples recovery made it worse: give it more of them (--data, --samples), or use --recovery none."
    ]


def _without_data(report: "PruneReport") -> list[str]:
    if report.samples is not None or report.output is None:
        return []
    return [
        f"Without --data {'it was repaired from noise' if report.repairs else 'nothing was repaired'}: a few "
        "hundred unlabelled inputs would give a better choice, restore most of the accuracy, and show how close "
        "the outputs are."
    ]
