"""Tables for people: what a sweep found, as text that fits a terminal."""

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from onnxprune.common.errors import RunError
from onnxprune.common.output import printable
from onnxprune.common.progress import MOST_DROP
from onnxprune.delivery import headline
from onnxprune.delivery.choice import choose, constraints, studies
from onnxprune.delivery.modelcard import BEYOND
from onnxprune.results.seeds import change
from onnxprune.results.statistics import mean_interval
from onnxprune.results.timings import noise, remarks
from onnxprune.results.trained_out import dead_units, not_trained_out
from onnxprune.settings.point import FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from onnxprune.study.search import Search
    from onnxprune.study.sensitivity import LayerAccuracy

_POINT = ["technique", "criterion", "granularity", "control", "channel_align", "sparsity"]
_MISSING = "-"
_WIDE = 170  # characters, where there is no terminal
_HEADINGS = (
    "technique\n", "criterion\n", "asked\n%", "got\n%", "acc before\n%", "acc\n%", "95 %\ninterval",
    "change\npoints", "loss\n", "MACs\n", "eff. MACs\n", "non-zero\nparams", "file\nbytes", "TL\ns", "latency\nms",
    "speedup\n", "",
)  # fmt: skip
_INT8 = ("int8 acc\n%", "int8\nbytes", "int8\nspeedup")  # where there are such files
_LEFT = ("technique\n", "criterion\n", "")
_NOT_FOR_PAPERS = ("acc before\n%", "loss\n", "non-zero\nparams", "TL\ns")
# What goes first where the terminal is too narrow for all of it.
_DISPENSABLE = (
    "loss\n",
    "TL\ns",
    "non-zero\nparams",
    "latency\nms",
    "eff. MACs\n",
    "acc before\n%",
    "95 %\ninterval",
    "got\n%",
    "criterion\n",
)


def print_results(table: "pd.DataFrame") -> None:
    """Prints a sweep's rows to stdout, one table a study, seeds folded into mean and standard deviation."""
    console = _console()
    point = [name for name in _POINT if name in table]
    study = [name for name in FIELDS if name in table and name not in (*point, "seed")]
    floor = noise(table)
    for _, rows in table.groupby(study, sort=False, dropna=False):
        for renderable in _study(rows, point, floor, console.width):
            console.print(renderable)
    if table["speedup"].notna().any():
        timed = table.iloc[0]
        console.print(
            f"Speedup: median latency of base / pruned, timed in turn by onnxruntime on {timed['device']}, batch "
            f"{timed['latency_batch']}, {_plural(timed['latency_threads'], 'thread')}. Sessions of the same file "
            f"differed by up to {100 * floor:.1f} % in nine rows of ten: differences within that, marked ~, are ties."
        )
    if "int8_accuracy" in table:
        console.print("int8: the pruned network in 8 bits, its accuracy and speedup against the base in float32.")
    console.print(
        "acc: top-1 on the full test set by the ONNX file under onnxruntime, before and after fine-tuning. 1 MAC = 2 "
        "FLOPs. eff. MACs: without multiplications by stored zeros, which a dense runtime performs all the same. TL: "
        "what making the point took: training, criterion, calibration, discarded rounds."
    )
    console.print(
        "change: accuracy less that of the 0 % control, which has the same training and nothing removed, on average "
        "over seeds; ~ is within noise (McNemar's test, and over seeds the interval of the paired differences). 95 % "
        "interval: of the accuracy of one network (Wilson), of the mean of several seeds (Student)."
    )
    if table["accuracy_change"].isna().any():
        console.print("No change is told where there is no 0 % point of the same training: add 0 to --sparsity.")
    for remark in remarks(table):
        console.print(remark)
    if table["collapsed"].any():
        console.print("collapsed: the network predicts one class for nearly all images, that many of them.")


def print_headlines(sweep: "Path") -> None:
    """Prints the model that `deploy` would choose of each study to stdout."""
    console = _console()
    wanted = constraints(max_drop=MOST_DROP)
    for table in studies(sweep, wanted):
        try:
            choice = choose(table, wanted)
        except RunError as error:
            console.print(f"\n{error}", markup=False)
            continue
        row = choice.row
        fewer = f"{choice.over_seeds('speedup')[0]:.2f}x faster" if choice.by == "speedup" else "fewest MACs"
        console.print(
            f"\nBest within {MOST_DROP:g} point of validation accuracy: {headline.way(row)}, "
            f"{headline.removed(row)}, {fewer}; accuracy {headline.accuracy(row)}; {headline.change(row)}. "
            f"{choice.decided_on()}" + (f" {BEYOND}." if row.get("speedup_beyond_theory") is True else ""),
            markup=False,
        )


def print_claims(table: "pd.DataFrame", sweep: "Path") -> None:
    """Prints which ways to prune are better than others, and than their controls, to stdout; nothing without seeds or
    controls."""
    console = _console()
    for title, lines in headline.told_claims(table, sweep).items():
        console.print(f"\n{title}")
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)


def layers_by_sparsity(found: "Sequence[LayerAccuracy]") -> "pd.DataFrame":
    """Points of accuracy lost: a row a layer, in the network's order, and a column a sparsity in percent."""
    import pandas as pd

    table = pd.DataFrame([(entry.layer, entry.sparsity, entry.drop) for entry in found], columns=["layer", "x", "drop"])
    return table.pivot(index="layer", columns="x", values="drop").loc[list(dict.fromkeys(table["layer"]))]


def print_sensitivity(found: "Sequence[LayerAccuracy]") -> None:
    """Prints what each layer bears to stdout."""
    console = _console()
    drops = layers_by_sparsity(found)
    units = {entry.layer: entry.units for entry in found}
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("layer", "units", *(f"{sparsity:g} %" for sparsity in drops)):
        grid.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    for layer, row in drops.iterrows():
        grid.add_row(escape(printable(str(layer))), f"{units[str(layer)]:,}", *(f"{drop:.2f}" for drop in row))
    console.print(grid)
    base = found[0].accuracy + found[0].drop
    console.print(
        f"Points of validation accuracy lost where that share of one layer alone is removed, of {base:.2f} %, without "
        "fine-tuning."
    )


def print_search(found: "Sequence[Search]", max_drop: float) -> None:
    """Prints the highest sparsities to stdout."""
    console = _console()
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    left = ("technique", "criterion")
    numbers = ("highest\n%", "removed\n%", "val. drop\npoints", "acc\n%", "MACs", "file\nbytes", "speedup")
    for heading in (*left, *numbers, "tried\n%"):
        grid.add_column(heading, justify="left" if heading in (*left, "tried\n%") else "right")
    for entry in found:
        metrics = entry.metrics
        tried = " ".join(f"{trial.sparsity:g}{'' if trial.accepted else '✗'}" for trial in entry.trials)
        shown = [_MISSING] * 6
        if metrics:
            drop = next(trial.drop for trial in entry.trials if trial.sparsity == entry.sparsity)
            speedup = metrics.get("speedup")
            shown = [
                f"{metrics['achieved_sparsity']:.1f}",
                f"{drop:.2f}",
                f"{metrics['accuracy']:.2f}",
                compact(metrics["macs"]),
                compact(metrics["file_bytes"]),
                _MISSING if speedup is None else f"{speedup:.2f}x",
            ]
        criterion = entry.criterion + ("" if entry.control == "none" else f", {entry.control}")
        grid.add_row(entry.technique, criterion, f"{entry.sparsity:g}", *shown, tried)
    console.print(grid)
    console.print(
        f"The highest sparsity that loses at most {max_drop:g} point(s) of validation accuracy against the base; 0: "
        "none does. ✗: lost more."
    )
    for remark in dict.fromkeys(entry.remark for entry in found if entry.remark):
        console.print(f"Note: {remark}.")
    trainings = sum(entry.trainings for entry in found)
    reused = sum(entry.reused for entry in found)
    console.print(f"{_plural(trainings, 'point')} run, {reused} reused.")
    for entry in found:
        for folder in entry.folders:
            console.print(f"{entry.technique}: {folder}", soft_wrap=True)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def _study(rows: "pd.DataFrame", point: list[str], floor: float, width: int) -> list[RenderableType]:
    """The heading with the base's assessment (IPA), and the table of its points."""
    row = rows.iloc[0]
    bases = rows.drop_duplicates("base_id")
    heading = (
        f"\n[bold]{escape(row['model'])} on {escape(row['dataset'])}[/], batch {row['batch_size']:,}, "
        f"{row['schedule']}, {_plural(len(bases), 'seed')}; trained on {_whole(row['train_images'])} images"
    )
    if _whole(row["train_images"]) != _whole(row["available_train_images"]):
        heading += f" (limited: there are {_whole(row['available_train_images'])})"
    if row.get("precision") == "bf16":
        heading += " in bf16"
    heading += f", tested on {_whole(row['test_images'])}"
    assessment = (
        f"IPA: accuracy {_spread(bases['base_accuracy'])} %, top-5 {_spread(bases['base_top5_accuracy'])} %, "
        f"cross-entropy {_spread(bases['base_cross_entropy'], 4)}; "
        f"trained in {_spread(bases['base_training_seconds'], 1)} s, {bases['base_training_flops'].mean() / 1e12:.3g} "
        f"TFLOPs\n     {row['base_macs']:,} MACs, {row['base_params']:,} params, {row['base_file_bytes']:,} bytes"
    )
    if dead := dead_units(bases):
        assessment += f"\n     {_plural(dead, 'dead unit')}, which no training image makes answer"
    base_remark = not_trained_out(rows)
    lines, sections = _lines(rows, point, floor)
    headings = _headings(rows)
    cells = [headings, *lines]
    kept = _fitting(cells, width)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index in kept:
        grid.add_column(headings[index], justify="left" if headings[index] in _LEFT else "right", no_wrap=True)
    for line, section in zip(cells[1:], sections, strict=True):
        if section:
            grid.add_section()
        grid.add_row(*(line[index] for index in kept))
    found: list[RenderableType] = [heading, assessment, *([f"Note: {base_remark}."] if base_remark else []), grid]
    left_out = [" ".join(headings[index].split()) for index in range(len(headings)) if index not in kept]
    networks = int(rows["same_as"].isna().sum())
    if networks < len(rows):
        found.append(
            f"{len(rows)} rows, {_plural(networks, 'network')}: rows marked = are the same one, to the last bit."
        )
    if left_out:
        found.append(f"Not shown for want of room: {', '.join(left_out)}.")
    return found


def _headings(rows: "pd.DataFrame") -> list[str]:
    """Of the cells of a line, the second files' among them where there are such."""
    return [*_HEADINGS[:-1], *(_INT8 if "int8_accuracy" in rows else ()), _HEADINGS[-1]]


def _lines(rows: "pd.DataFrame", point: list[str], floor: float) -> tuple[list[list[str]], list[bool]]:
    """The cells of each point of a study, seeds folded, and whether another technique begins there."""
    lines, sections, previous = [], [], None
    names: dict[str, str] = {}
    for _, seeds in rows.groupby(point, sort=False, dropna=False):
        first = seeds.iloc[0]
        sections.append(previous not in (None, first["technique"]))
        previous = first["technique"]
        criterion = first["criterion"] + (" of layers" if seeds["granularity"].eq("layer").any() else "")
        if first.get("control", "none") != "none":
            criterion += f", {first['control']}"
        names |= dict.fromkeys(seeds["folder"], f"{first['technique']} {criterion} {first['sparsity']:g}")
        said = [f"= {names[same]}" for same in seeds["same_as"].dropna().unique()[:1] if same in names]
        *numbers, remark = _cells(seeds, floor)
        remark = ", ".join(filter(None, [remark, *said]))
        lines.append([first["technique"], criterion, f"{first['sparsity']:g}", *numbers, remark])
    return lines, sections


@dataclass(frozen=True)
class PaperTable:
    """The points of one study, for a paper.

    Attributes:
        caption: model, data and how the numbers were measured.
        headings: of the columns.
        lines: cells, a line a point; seeds folded into mean and standard deviation.
        sections: whether another technique begins at a line.
    """

    caption: str
    headings: list[str]
    lines: list[list[str]]
    sections: list[bool]


def paper_tables(table: "pd.DataFrame") -> list[PaperTable]:
    """A table for each study, with the columns that say something in it."""
    point = [name for name in _POINT if name in table]
    study = [name for name in FIELDS if name in table and name not in (*point, "seed")]
    floor = noise(table)
    found = []
    for _, rows in table.groupby(study, sort=False, dropna=False):
        row, seeds = rows.iloc[0], rows["seed"].nunique()
        lines, sections = _lines(rows, point, floor)
        kept = [
            index
            for index, heading in enumerate(_headings(rows))
            if heading not in _NOT_FOR_PAPERS and any(line[index] not in ("", _MISSING) for line in lines)
        ]
        caption = (
            f"{row['model']} on {row['dataset']}, schedule {row['schedule']}, {_plural(seeds, 'seed')}; acc: accuracy "
            f"of the ONNX file on {_whole(row['test_images'])} test images; eff. MACs: without those by stored zeros"
        )
        if rows["speedup"].notna().any():
            caption += (
                f"; speedup: measured by onnxruntime on {row['device']}, batch {row['latency_batch']}, "
                f"{_plural(row['latency_threads'], 'thread')}, ~: within timing noise"
            )
        headings = [" ".join(_headings(rows)[index].split()) for index in kept]
        found.append(PaperTable(caption, headings, [[line[index] for index in kept] for line in lines], sections))
    return found


def _fitting(lines: list[list[str]], width: int) -> list[int]:
    """The columns that fit a width in characters, two between neighbours; the first line are the headings."""
    widths = [max(len(part) for line in lines for part in line[index].split("\n")) for index in range(len(lines[0]))]
    kept = list(range(len(widths)))
    for heading in _DISPENSABLE:
        if sum(widths[index] + 2 for index in kept) <= width:
            break
        kept.remove(lines[0].index(heading))
    return kept


def _cells(seeds: "pd.DataFrame", floor: float) -> list[str]:
    mean = seeds.mean(numeric_only=True)
    timed = seeds["speedup"].notna().all()
    speedup = f"{mean['speedup']:.2f}x" if timed else _MISSING
    if timed and abs(mean["speedup"] - 1) <= max(floor, mean["speedup_noise"]):
        speedup = f"~{speedup}"
    if timed and seeds.reindex(columns=["speedup_beyond_theory"]).fillna(False).any(axis=None):
        speedup = f"{speedup}!"
    said = _collapsed(seeds)
    if seeds["empty_layers"].any() and not seeds["collapsed"].all():
        said.append(_plural(int(seeds["empty_layers"].max()), "empty layer"))
    if seeds.reindex(columns=["macs_missing", "base_macs_missing"]).notna().any(axis=None):
        said.append("MACs not all counted")
    return [
        f"{mean['achieved_sparsity']:.1f}",
        _spread(seeds["before_finetuning_accuracy"]),
        _spread(seeds["accuracy"]),
        _interval(seeds),
        _change(seeds),
        _spread(seeds["cross_entropy"], 3),
        compact(mean["macs"]),
        compact(mean["effective_macs"]),
        compact(mean["nonzero_params"]),
        compact(mean["file_bytes"]),
        f"{mean['tl_seconds']:.1f}" if "tl_seconds" in mean else _MISSING,
        f"{mean['latency_ms_paired']:.3f}" if timed else _MISSING,
        speedup,
        *_int8_cells(seeds, floor),
        ", ".join(said),
    ]


def _int8_cells(seeds: "pd.DataFrame", floor: float) -> list[str]:
    if "int8_accuracy" not in seeds:
        return []
    mean = seeds[["int8_file_bytes", "int8_speedup", "int8_speedup_noise"]].astype(float).mean(skipna=False)
    speedup = mean["int8_speedup"]
    tie = "~" if abs(speedup - 1) <= max(floor, mean["int8_speedup_noise"]) else ""
    return [
        _spread(seeds["int8_accuracy"]),
        compact(mean["int8_file_bytes"]) if mean["int8_file_bytes"] > 0 else _MISSING,
        f"{tie}{speedup:.2f}x" if speedup > 0 else _MISSING,
    ]


def _collapsed(seeds: "pd.DataFrame") -> list[str]:
    """That networks have collapsed, how far, and how many of several seeds."""
    gone = seeds[seeds["collapsed"].astype(bool)]
    if not len(gone):
        return []
    many = f" {len(gone)} of {len(seeds)}" if len(seeds) > 1 else ""
    share = gone["most_predicted"].min() if "most_predicted" in gone else None
    return [f"collapsed{many}" + (f", {share:.1f} %" if share is not None and share < 100 else "")]


def _interval(seeds: "pd.DataFrame") -> str:
    """That of the accuracy."""
    low, high = (
        mean_interval(seeds["accuracy"].to_numpy(float))
        if len(seeds) > 1
        else (seeds["accuracy_low"].iloc[0], seeds["accuracy_high"].iloc[0])
    )
    return _MISSING if low != low or high != high else f"{max(0, low):.1f}-{min(100, high):.1f}"


def _change(seeds: "pd.DataFrame") -> str:
    found = change(seeds)
    if found is None:
        return _MISSING
    return f"{'' if found.real else '~'}{found.mean:+.2f}"


def _spread(values: "pd.Series", digits: int = 2) -> str:
    """The mean, with the sample standard deviation where there are several values."""
    if values.isna().any():
        return _MISSING
    text = f"{values.mean():.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {values.std():.{digits}f}"


def compact(number: float) -> str:
    """A count to four digits: 57829376 is "57.83M"; exact below 10,000."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= factor:
            return f"{number / (1e3 if unit == 'k' else factor):.4g}{unit}"
    return f"{number:.0f}"


def _whole(number: Any) -> str:
    return f"{number:,}" if isinstance(number, Integral) else "?"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
