"""Tables for people: how far a network can be pruned, by `search`, and each of its layers, by `sensitivity`."""

from typing import TYPE_CHECKING, Any

from onnxprune.commands.cells import MISSING, SHORT, compact, int8_headings, terminal
from onnxprune.commands.columns import columns
from onnxprune.commands.console import echo
from onnxprune.common.output import plural
from onnxprune.results.quality import ACCURACY, FIDELITY, quality_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from onnxprune.results.quality import Quality
    from onnxprune.study.search import Search
    from onnxprune.study.sensitivity import LayerAccuracy


def layers_by_sparsity(found: "Sequence[LayerAccuracy]") -> "pd.DataFrame":
    """Points of accuracy lost, or of fidelity: a row a layer, in the network's order; a column a sparsity, percent."""
    import pandas as pd

    table = pd.DataFrame([(entry.layer, entry.sparsity, entry.drop) for entry in found], columns=["layer", "x", "drop"])
    return table.pivot(index="layer", columns="x", values="drop").loc[list(dict.fromkeys(table["layer"]))]


def quality_of_layers(found: "Sequence[LayerAccuracy]") -> "Quality":
    """What the layers were judged by."""
    return ACCURACY if found[0].fidelity is None else FIDELITY


def print_sensitivity(found: "Sequence[LayerAccuracy]") -> None:
    """Prints what each layer bears to stdout."""
    console = terminal()
    drops = layers_by_sparsity(found)
    units = {entry.layer: entry.units for entry in found}
    headings = ["layer", ">units", *(f">{sparsity:g} %" for sparsity in drops)]
    rows = [[str(layer), f"{units[str(layer)]:,}", *(f"{drop:.2f}" for drop in row)] for layer, row in drops.iterrows()]
    echo(f"\n{columns(headings, rows)}\n")
    quality = quality_of_layers(found)
    base = getattr(found[0], quality.name) + found[0].drop
    console.print(
        f"Points of validation {quality.name} lost when that share of one layer alone is removed, without fine-tuning. "
        f"The unpruned network has {base:.2f} %."
    )


def print_search(found: "Sequence[Search]", max_drop: float) -> None:
    """Prints the highest sparsities to stdout."""
    console = terminal()
    metrics = next((entry.metrics for entry in found if entry.metrics), {})
    quality = quality_of(metrics)
    varying = _varying([entry.settings for entry in found])
    numbers = ("highest\n%", "got\n%", "drop\npoints", f"{SHORT[quality]}\n%", "MACs", "file\nbytes", "speedup")
    int8 = int8_headings(quality) if any(f"int8_{quality.name}" in entry.metrics for entry in found) else ()
    rows = []
    for entry in found:
        metrics = entry.metrics
        trials = " ".join(f"{trial.sparsity:g}{'' if trial.accepted else '✗'}" for trial in entry.trials)
        shown = [MISSING] * (6 + len(int8))
        if metrics:
            drop = next(trial.drop for trial in entry.trials if trial.sparsity == entry.sparsity)
            shown = [
                f"{metrics['achieved_sparsity']:.1f}",
                f"{drop:.2f}",
                f"{metrics[quality.name]:.2f}",
                compact(metrics["macs"]),
                compact(metrics["file_bytes"]),
                _written(metrics.get("speedup"), "{:.2f}x"),
            ]
        if metrics and int8:
            size = metrics.get("int8_file_bytes")
            shown += [
                _written(metrics.get(f"int8_{quality.name}"), "{:.2f}"),
                MISSING if size is None else compact(size),
                _written(metrics.get("int8_speedup"), "{:.2f}x"),
            ]
        settings = entry.settings
        way = f"{settings['technique']} {settings['criterion']}"
        way += "" if settings["control"] == "none" else f", {settings['control']}"
        rows.append([*(str(settings[name]) for name in varying), way, f"{entry.sparsity:g}", *shown, trials])
    axes = [name.replace("_", "\n") for name in varying]
    headings = [*axes, "technique", *(f">{heading}" for heading in (*numbers, *int8, "tried\n%"))]
    echo(f"\n{columns(headings, rows)}\n")
    console.print(
        f"The highest sparsity losing at most {plural(max_drop, 'point')} of validation {quality.name} against the "
        "base (drop). 0: none does. ✗: lost more, or a network collapsed."
    )
    for remark in dict.fromkeys(entry.remark for entry in found if entry.remark):
        console.print(f"Note: {remark}.")
    trainings = sum(entry.trainings for entry in found)
    reused = sum(entry.reused for entry in found)
    console.print(f"{plural(trainings, 'point')} run, {reused} reused.")
    for entry in found:
        for folder in entry.folders:
            console.print(f"{entry.settings['technique']}: {folder}", soft_wrap=True)


def _varying(settings: "Sequence[Mapping[str, Any]]") -> list[str]:
    """Settings that differ among searches, but for those that the technique's column says."""
    said = ("technique", "criterion", "control")
    shared = [name for name in settings[0] if all(name in other for other in settings)]
    return [name for name in shared if name not in said and len({str(other[name]) for other in settings}) > 1]


def _written(number: float | None, form: str) -> str:
    return MISSING if number is None else form.format(number)
