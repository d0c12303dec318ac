"""Tables for people: what a sweep found, as text that fits a terminal."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from onnxprune.commands.cells import INT8_HEADINGS, MISSING, compact, plural, spread, terminal, whole
from onnxprune.common.errors import RunError
from onnxprune.common.progress import MOST_DROP
from onnxprune.delivery import headline
from onnxprune.delivery.choice import choose, constraints, studies
from onnxprune.delivery.modelcard import BEYOND
from onnxprune.results.seeds import accuracy_interval, change
from onnxprune.results.timings import noise, remarks
from onnxprune.results.trained_out import dead_units, not_trained_out
from onnxprune.settings.point import FIELDS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


_POINT = ["technique", "criterion", "granularity", "control", "channel_align", "sparsity"]
_REMARK = 16  # characters of the last column, which has words only: longer ones are wrapped
_HEADINGS = (
    "technique\n", "criterion\n", "asked\n%", "got\n%", "acc before\n%", "acc\n%", "95 %\ninterval",
    "change\npoints", "loss\n", "MACs\n", "eff. MACs\n", "non-zero\nparams", "file\nbytes", "TL\ns", "latency\nms",
    "speedup\n", "",
)  # fmt: skip
_AVERAGED = (
    "achieved_sparsity", "macs", "effective_macs", "nonzero_params", "file_bytes", "tl_seconds", "latency_ms_paired",
    "speedup", "speedup_noise",
)  # fmt: skip
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
    console = terminal()
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
            f"{timed['latency_batch']}, {plural(timed['latency_threads'], 'thread')}. Timing noise "
            f"±{100 * floor:.1f} % (two sessions of the same file; 90 % of the rows have no more). ~: a speedup "
            "within the noise."
        )
    if "int8_accuracy" in table:
        console.print("int8: the pruned network in 8 bits; its speedup is against the base in float32.")
    console.print(
        "acc: top-1 accuracy of the ONNX file on the full test set; acc before: before fine-tuning. 1 MAC = 2 "
        "FLOPs. eff. MACs: without multiplications by stored zeros, which onnxruntime still performs. TL: training "
        "cost of the point: training, criterion, calibration, discarded rounds."
    )
    console.print(
        "change: accuracy minus that of the 0 % control (the same training, nothing removed), mean over seeds; ~: "
        "within noise (McNemar's test; with several seeds also the interval of the paired differences). 95 % "
        "interval: of the accuracy of one network (Wilson), or of the mean over seeds (Student)."
    )
    if table["accuracy_change"].isna().any():
        console.print("change is empty where no 0 % point has the same training: add 0 to --sparsity.")
    for remark in remarks(table):
        console.print(remark)
    if table["collapsed"].any():
        console.print("collapsed: the network predicts one class for nearly all images; the percentage is their share.")


def print_headlines(sweep: "Path") -> None:
    """Prints the model that `deploy` would choose of each study to stdout."""
    console = terminal()
    wanted = constraints(max_drop=MOST_DROP)
    for table in studies(sweep, wanted):
        try:
            choice = choose(table, wanted)
        except RunError as error:
            console.print(f"\n{error}", markup=False)
            continue
        row = choice.row
        fewer = f"speedup {choice.over_seeds('speedup')[0]:.2f}x" if choice.by == "speedup" else "fewest MACs"
        console.print(
            f"\n{row['model']} on {row['dataset']}, best within {MOST_DROP:g} point of validation accuracy: "
            f"{headline.way(row)}, "
            f"{headline.removed(row)}, {fewer}; accuracy {headline.accuracy(row)}; {headline.change(row)}. "
            f"{choice.decided_on()}" + (f" {BEYOND}." if row.get("speedup_beyond_theory") is True else ""),
            markup=False,
        )


def print_claims(table: "pd.DataFrame", sweep: "Path") -> None:
    """Prints which ways to prune are better than others, and than their controls, to stdout; nothing without seeds or
    controls."""
    console = terminal()
    for title, lines in headline.told_claims(table, sweep).items():
        console.print(f"\n{title}")
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)


def _study(rows: "pd.DataFrame", point: list[str], floor: float, width: int) -> list[RenderableType]:
    """The heading with the base's assessment (IPA), and the table of its points."""
    row = rows.iloc[0]
    bases = rows.drop_duplicates("base_id")
    heading = (
        f"\n[bold]{escape(row['model'])} on {escape(row['dataset'])}[/], batch {row['batch_size']:,}, "
        f"{row['schedule']}, {plural(len(bases), 'seed')}; trained on {whole(row['train_images'])} images"
    )
    if whole(row["train_images"]) != whole(row["available_train_images"]):
        heading += f" (limited: there are {whole(row['available_train_images'])})"
    if row.get("precision") == "bf16":
        heading += " in bf16"
    heading += f", tested on {whole(row['test_images'])}"
    assessment = (
        f"IPA: accuracy {spread(bases['base_accuracy'])} %, top-5 {spread(bases['base_top5_accuracy'])} %, "
        f"cross-entropy {spread(bases['base_cross_entropy'], 4)}; "
        f"trained in {spread(bases['base_training_seconds'], 1)} s, {bases['base_training_flops'].mean() / 1e12:.3g} "
        f"TFLOPs\n     {row['base_macs']:,} MACs, {row['base_params']:,} params, {row['base_file_bytes']:,} bytes"
    )
    if dead := dead_units(bases):
        assessment += f"\n     {plural(dead, 'dead unit')}: their output is zero for every training image"
    base_remark = not_trained_out(rows)
    lines, sections = _lines(rows, point, floor)
    headings = _headings(rows)
    cells = [headings, *lines]
    kept = _fitting(cells, width)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index in kept:
        justify: Literal["left", "right"] = "left" if headings[index] in _LEFT else "right"
        grid.add_column(headings[index], justify=justify, no_wrap=index != len(headings) - 1)
    for line, section in zip(cells[1:], sections, strict=True):
        if section:
            grid.add_section()
        grid.add_row(*(line[index] for index in kept))
    found: list[RenderableType] = [heading, assessment, *([f"Note: {base_remark}."] if base_remark else []), grid]
    left_out = [" ".join(headings[index].split()) for index in range(len(headings)) if index not in kept]
    networks = int(rows["same_as"].isna().sum())
    if networks < len(rows):
        found.append(
            f"{len(rows)} rows, {plural(networks, 'network')}: rows marked = are the same network as another row, "
            "bit for bit."
        )
    if left_out:
        found.append(f"Columns not shown, as the terminal is too narrow: {', '.join(left_out)}.")
    return found


def _headings(rows: "pd.DataFrame") -> list[str]:
    """Of the cells of a line, the second files' among them where there are such."""
    return [*_HEADINGS[:-1], *(INT8_HEADINGS if "int8_accuracy" in rows else ()), _HEADINGS[-1]]


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
            if heading not in _NOT_FOR_PAPERS and any(line[index] not in ("", MISSING) for line in lines)
        ]
        caption = (
            f"{row['model']} on {row['dataset']}, schedule {row['schedule']}, {plural(seeds, 'seed')}; acc: accuracy "
            f"of the ONNX file on {whole(row['test_images'])} test images; eff. MACs: without those by stored zeros"
        )
        if rows["speedup"].notna().any():
            caption += (
                f"; speedup: measured by onnxruntime on {row['device']}, batch {row['latency_batch']}, "
                f"{plural(row['latency_threads'], 'thread')}, ~: within timing noise"
            )
        headings = [" ".join(_headings(rows)[index].split()) for index in kept]
        found.append(PaperTable(caption, headings, [[line[index] for index in kept] for line in lines], sections))
    return found


def _fitting(lines: list[list[str]], width: int) -> list[int]:
    """The columns that fit a width in characters, two between neighbours; the first line are the headings."""
    widths = [max(len(part) for line in lines for part in line[index].split("\n")) for index in range(len(lines[0]))]
    widths[-1] = min(widths[-1], _REMARK)
    kept = list(range(len(widths)))
    for heading in _DISPENSABLE:
        if sum(widths[index] + 2 for index in kept) <= width:
            break
        kept.remove(lines[0].index(heading))
    return kept


def _cells(seeds: "pd.DataFrame", floor: float) -> list[str]:
    mean = seeds[[name for name in _AVERAGED if name in seeds]].mean(numeric_only=True)
    timed = seeds["speedup"].notna().all()
    speedup = f"{mean['speedup']:.2f}x" if timed else MISSING
    if timed and abs(mean["speedup"] - 1) <= max(floor, mean["speedup_noise"]):
        speedup = f"~{speedup}"
    if timed and seeds.reindex(columns=["speedup_beyond_theory"]).fillna(False).any(axis=None):
        speedup = f"{speedup}!"
    said = _collapsed(seeds)
    if seeds["empty_layers"].any() and not seeds["collapsed"].all():
        said.append(plural(int(seeds["empty_layers"].max()), "empty layer"))
    if seeds.reindex(columns=["macs_missing", "base_macs_missing"]).notna().any(axis=None):
        said.append("MACs not all counted")
    return [
        f"{mean['achieved_sparsity']:.1f}",
        spread(seeds["before_finetuning_accuracy"]),
        spread(seeds["accuracy"]),
        _interval(seeds),
        _change(seeds),
        spread(seeds["cross_entropy"], 3),
        compact(mean["macs"]),
        compact(mean["effective_macs"]),
        compact(mean["nonzero_params"]),
        compact(mean["file_bytes"]),
        f"{mean['tl_seconds']:.1f}" if "tl_seconds" in mean else MISSING,
        f"{mean['latency_ms_paired']:.3f}" if timed else MISSING,
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
        spread(seeds["int8_accuracy"]),
        compact(mean["int8_file_bytes"]) if mean["int8_file_bytes"] > 0 else MISSING,
        f"{tie}{speedup:.2f}x" if speedup > 0 else MISSING,
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
    low, high = accuracy_interval(seeds)
    return MISSING if math.isnan(low) else f"{low:.1f}-{high:.1f}"


def _change(seeds: "pd.DataFrame") -> str:
    found = change(seeds)
    if found is None:
        return MISSING
    return f"{'' if found.real else '~'}{found.mean:+.2f}"
