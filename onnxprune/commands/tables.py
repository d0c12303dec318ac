"""Tables for people: what a sweep found, as text that fits a terminal."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from onnxprune.commands.cells import MISSING, compact, int8_headings, spread, terminal, whole
from onnxprune.commands.console import prose
from onnxprune.common.errors import RunError
from onnxprune.common.output import plural
from onnxprune.common.progress import MOST_DROP
from onnxprune.delivery import headline
from onnxprune.delivery.choice import by_study, choose
from onnxprune.delivery.constraints import constraints
from onnxprune.results.derived import same_as
from onnxprune.results.quality import ACCURACY, FIDELITY, quality_of, quality_of_study
from onnxprune.results.seeds import OF_POINT, STUDY, accuracy_interval, change, training_columns
from onnxprune.results.tables import intact
from onnxprune.results.timings import is_tie, noise, remarks, told_noises
from onnxprune.results.training_remarks import dead_units, training_remarks
from onnxprune.settings.point import FIELDS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


_BEYOND = "The speedup is beyond theory: MACs and timing noise explain less of it; check it before you rely on it"
_REMARK = 12  # characters of the last column, which has words only: longer ones are wrapped
_OF_QUALITY = {
    ACCURACY: ("acc before\n%", "acc\n%", "95 %\ninterval", "change\npoints", "loss\n"),
    FIDELITY: ("fidelity\nbefore %", "fidelity\n%", "cosine\n", "same\ntop-1 %"),
}
_HEADINGS = {
    quality: (
        "technique\n", "criterion\n", "asked\n%", "got\n%", *own, "MACs\n", "eff. MACs\n", "non-zero\nparams",
        "file\nbytes", "TL\ns", "latency\nms", "speedup\n", "",
    )
    for quality, own in _OF_QUALITY.items()
}  # fmt: skip
_AVERAGED = (
    "achieved_sparsity", "macs", "effective_macs", "nonzero_params", "file_bytes", "tl_seconds", "latency_ms_paired",
    "speedup",
)  # fmt: skip
_LEFT = ("technique\n", "criterion\n", "")
_NOT_FOR_PAPERS = ("acc before\n%", "fidelity\nbefore %", "loss\n", "non-zero\nparams", "TL\ns")
# What goes first where the terminal is too narrow for all of it.
_DISPENSABLE = (
    "loss\n",
    "TL\ns",
    "non-zero\nparams",
    "latency\nms",
    "eff. MACs\n",
    "acc before\n%",
    "fidelity\nbefore %",
    "95 %\ninterval",
    "cosine\n",
    "same\ntop-1 %",
    "got\n%",
    "criterion\n",
    "int8\nbytes",
    "file\nbytes",
    "change\npoints",
    "int8\nspeedup",
    "int8 acc\n%",
    "int8 fidelity\n%",
)


def print_results(table: "pd.DataFrame") -> None:
    """Prints a sweep's rows to stdout, one table a study, seeds folded into mean and standard deviation."""
    console = terminal()
    floors = []
    for rows, floor in _studies(table):
        floors.append(floor)
        for renderable in _study(rows, floor, console.width):
            console.print(renderable)
    if table["speedup"].notna().any():
        timed = table.iloc[0]
        console.print(
            f"Speedup: median latency of base / pruned, timed in turn by onnxruntime on {timed['device']}, batch "
            f"{timed['latency_batch']}, {plural(timed['latency_threads'], 'thread')}. Timing noise "
            f"{told_noises(floors)} (two sessions of the same file; 90 % of the rows have no more). ~: a speedup "
            "within the noise, or one on which seeds do not agree. !: one beyond theory."
        )
    if {"int8_accuracy", "int8_fidelity"} & {*table.columns}:
        console.print("int8: the pruned network in 8 bits; its speedup is against the base in float32.")
    if table["accuracy"].notna().any():
        console.print(
            "acc: top-1 accuracy of the ONNX file on the full test set; acc before: before fine-tuning. change: "
            "accuracy minus that of the 0 % control (the same training, nothing removed), mean over seeds; ~: within "
            "noise (McNemar's test; with several seeds also the interval of the paired differences). 95 % interval: of "
            "the accuracy of one network (Wilson), or of the mean over seeds (Student, or Wilson where that is wider)."
        )
        if table.loc[table["accuracy"].notna(), "accuracy_change"].isna().any():
            console.print("change is empty where no 0 % point has the same training: add 0 to --sparsity.")
    if quality_of_study(table) is FIDELITY:
        console.print(
            "fidelity: how close the answers of the ONNX file are to the unpruned file's, on the full test set, which "
            "has no labels: 100 % less the relative error; before: before fine-tuning. cosine: of the answers to one "
            "image, on average. same top-1: images whose highest score is at the same place, where the first output is "
            "a row of scores."
        )
    console.print(
        "1 MAC = 2 FLOPs. eff. MACs: without multiplications by stored zeros, which onnxruntime still performs. TL: "
        "training cost of the point: training, criterion, calibration, discarded rounds."
    )
    for remark in remarks(table):
        console.print(remark)
    if table["collapsed"].any():
        console.print(
            "collapsed: the network predicts one class for nearly all images; the percentage is their share."
            if table["accuracy"].notna().any()
            else "collapsed: the network gives the same answer to every image."
        )


def _studies(table: "pd.DataFrame") -> "list[tuple[pd.DataFrame, float]]":
    """The rows of each table of results, with the timing noise of those that compare with them."""
    return [
        (rows, noise(study))
        for _, study in table.groupby(STUDY, sort=False, dropna=False)
        for _, rows in study.groupby(training_columns(study), sort=False, dropna=False)
    ]


def print_headlines(table: "pd.DataFrame", sweep: "Path") -> None:
    """Prints the model that `deploy` would choose of these rows of a sweep, for each study, to stdout."""
    console = terminal()
    wanted = constraints(max_drop=MOST_DROP)
    sound = intact(table, sweep, lambda line: None)
    for table in by_study(sound, sweep, wanted) if len(sound) else ():
        try:
            choice = choose(table, wanted)
        except RunError as error:
            console.print(f"\n{error}", markup=False)
            continue
        row, quality = choice.row, quality_of(choice.row).name
        fewer = "fewest MACs"
        if choice.by == "speedup":
            fewer = f"speedup {'~' if choice.tie else ''}{choice.over_seeds('speedup')[0]:.2f}x"
        console.print(
            f"\n{row['model']} on {row['dataset']}, batch {row['batch_size']:,}, best within {MOST_DROP:g} point of "
            f"validation {quality}: "
            f"{headline.way(row)}, {headline.removed(row)}, {fewer}; {headline.quality(row, len(choice.seeds))}. "
            f"{choice.decided_on()}" + (f" {_BEYOND}." if row.get("speedup_beyond_theory") is True else ""),
            markup=False,
        )


def print_claims(table: "pd.DataFrame", sweep: "Path") -> None:
    """Prints which ways to prune are better than others, and than their controls, to stdout; nothing without seeds or
    controls."""
    console = terminal()
    for title, lines in headline.told_claims(table, sweep).items():
        console.print(f"\n{title}")
        for line in lines:
            prose(f"  {line}")


def _study(rows: "pd.DataFrame", floor: float, width: int) -> list[RenderableType]:
    """The heading with the base's assessment (IPA), and the table of its points."""
    row = rows.iloc[0]
    bases = rows.drop_duplicates("base_id")
    heading = (
        f"\n[bold]{escape(row['model'])} on {escape(row['dataset'])}[/], batch {row['batch_size']:,}, "
        f"{row['schedule']}, {plural(len(bases), 'seed')}; trained on {whole(row['train_images'])} images"
    )
    if whole(row["train_images"]) != whole(row["available_train_images"]):
        heading += f" (limited: there are {whole(row['available_train_images'])})"
    if row["precision"] != FIELDS["precision"].default:
        heading += f" in {row['precision']}"
    heading += f", tested on {whole(row['test_images'])}"
    assessment = "IPA: the file as it is, without labels"
    if quality_of_study(rows) is ACCURACY:
        assessment = (
            f"IPA: accuracy {spread(bases['base_accuracy'])} %, top-5 {spread(bases['base_top5_accuracy'])} %, "
            f"cross-entropy {spread(bases['base_cross_entropy'], 4)}"
        )
        if bases["base_training_flops"].any():  # a network from a file was trained elsewhere
            assessment += (
                f"; trained in {spread(bases['base_training_seconds'], 1)} s, "
                f"{bases['base_training_flops'].mean() / 1e12:.3g} TFLOPs"
            )
    assessment += f"\n     {row['base_macs']:,} MACs, {row['base_params']:,} params, {row['base_file_bytes']:,} bytes"
    if dead := dead_units(bases):
        most = "up to " if len(bases) > 1 else ""
        assessment += f"\n     {most}{plural(dead, 'dead unit')}: zero for each of up to 1,000 training images"
    lines, sections = _lines(rows, floor)
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
    notes = [f"Note: {remark}." for remark in training_remarks(rows)]
    found: list[RenderableType] = [heading, assessment, *notes, grid]
    left_out = [" ".join(headings[index].split()) for index in range(len(headings)) if index not in kept]
    networks = int(same_as(rows).isna().sum())
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
    quality = quality_of_study(rows)
    *found, remark = _HEADINGS[quality]
    return [*found, *(int8_headings(quality) if f"int8_{quality.name}" in rows else ()), remark]


def _lines(rows: "pd.DataFrame", floor: float) -> tuple[list[list[str]], list[bool]]:
    """The cells of each point of a study, seeds folded, and whether another technique begins there."""
    lines, sections, previous = [], [], None
    seeds_of_study = rows["seed"].nunique()
    names: dict[str, str] = {}
    twins = same_as(rows)  # of these rows: the table's column may name one that is not among them
    for _, seeds in rows.groupby([name for name in OF_POINT if name in rows], sort=False, dropna=False):
        first = seeds.iloc[0]
        sections.append(previous not in (None, first["technique"]))
        previous = first["technique"]
        criterion = first["criterion"] + (" of layers" if seeds["granularity"].eq("layer").any() else "")
        if first.get("control", "none") != "none":
            criterion += f", {first['control']}"
        names |= dict.fromkeys(seeds["folder"], f"{first['technique']} {criterion} {first['sparsity']:g}")
        same = twins[seeds.index]
        others = {names.get(folder) for folder in same} if same.notna().all() else set()
        said = [f"= {name}" for name in others if name is not None and len(others) == 1]
        if len(seeds) < seeds_of_study:
            said.append(f"{len(seeds)} of {seeds_of_study} seeds")
        *numbers, remark = _cells(seeds, floor)
        remark = ", ".join(filter(None, [remark, *said]))
        asked = f"{'≤' if headline.is_bound(first['schedule'], first['sparsity']) else ''}{first['sparsity']:g}"
        lines.append([first["technique"], criterion, asked, *numbers, remark])
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
    found = []
    for rows, floor in _studies(table):
        row, seeds = rows.iloc[0], rows["seed"].nunique()
        lines, sections = _lines(rows, floor)
        kept = [
            index
            for index, heading in enumerate(_headings(rows))
            if heading not in _NOT_FOR_PAPERS and any(line[index] not in ("", MISSING) for line in lines)
        ]
        judged = "acc: accuracy of the ONNX file on"
        if quality_of_study(rows) is FIDELITY:
            judged = "fidelity: 100 % less the relative error of the answers against the unpruned file's on"
        caption = (
            f"{row['model']} on {row['dataset']}, batch {row['batch_size']:,}, schedule {row['schedule']}, "
            f"{plural(seeds, 'seed')}; {judged} {whole(row['test_images'])} test images; eff. MACs: without those by "
            "stored zeros"
        )
        if rows["accuracy"].notna().any():
            caption += "; change: against the 0 % control, ~: within noise"
        if rows["speedup"].notna().any():
            caption += (
                f"; speedup: measured by onnxruntime on {row['device']}, batch {row['latency_batch']}, "
                f"{plural(row['latency_threads'], 'thread')}, ~: within timing noise, !: beyond what MACs explain"
            )
        headings = [" ".join(_headings(rows)[index].split()) for index in kept]
        found.append(PaperTable(caption, headings, [[line[index] for index in kept] for line in lines], sections))
    return found


def _fitting(lines: list[list[str]], width: int) -> list[int]:
    """The columns that fit a width in characters, with two beside each and one at the edge; the first line are the
    headings."""
    widths = [max(len(part) for line in lines for part in line[index].split("\n")) for index in range(len(lines[0]))]
    widths[-1] = min(widths[-1], _REMARK)
    kept = list(range(len(widths)))
    techniques, ways = ({tuple(line[:count]) for line in lines[1:]} for count in (1, 2))
    for heading in _DISPENSABLE:
        if sum(widths[index] + 2 for index in kept) < width:
            break
        if heading == "criterion\n" and len(techniques) < len(ways):  # without it rows look the same
            continue
        if heading in lines[0]:
            kept.remove(lines[0].index(heading))
    return kept


def _cells(seeds: "pd.DataFrame", floor: float) -> list[str]:
    mean = seeds[[name for name in _AVERAGED if name in seeds]].mean(numeric_only=True)
    timed = seeds["speedup"].notna().all()
    speedup = f"{mean['speedup']:.2f}x" if timed else MISSING
    if timed and is_tie(seeds, floor):
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
        *_quality_cells(seeds),
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


def _quality_cells(seeds: "pd.DataFrame") -> list[str]:
    """Those under `_OF_QUALITY`."""
    quality = quality_of_study(seeds)
    found = [spread(seeds[column]) for column in (f"before_finetuning_{quality.name}", quality.name)]
    if quality is ACCURACY:
        return [*found, _interval(seeds), _change(seeds), spread(seeds["cross_entropy"], 3)]
    return [*found, spread(seeds["cosine"], 4), spread(seeds["agreement"])]


def _int8_cells(seeds: "pd.DataFrame", floor: float) -> list[str]:
    quality = quality_of_study(seeds).name
    if f"int8_{quality}" not in seeds:
        return []
    mean = seeds[["int8_file_bytes", "int8_speedup"]].astype(float).mean(skipna=False)
    speedup = mean["int8_speedup"]
    tie = "~" if speedup > 0 and is_tie(seeds, floor, "int8_") else ""
    return [
        spread(seeds[f"int8_{quality}"]),
        compact(mean["int8_file_bytes"]) if mean["int8_file_bytes"] > 0 else MISSING,
        f"{tie}{speedup:.2f}x" if speedup > 0 else MISSING,
    ]


def _collapsed(seeds: "pd.DataFrame") -> list[str]:
    """That networks have collapsed, how far, and how many of several seeds; else that their files in 8 bits have."""
    gone = seeds[seeds["collapsed"].astype(bool)]
    if not len(gone):
        alone = seeds["int8_collapsed"].fillna(False).astype(bool) if "int8_collapsed" in seeds else None
        return [] if alone is None or not alone.any() else [f"int8 collapsed{_some(alone.sum(), len(seeds))}"]
    share = gone["most_predicted"].min() if "most_predicted" in gone else None
    share_told = f", {share:.1f} %" if share is not None and share < 100 else ""
    return [f"collapsed{_some(len(gone), len(seeds))}{share_told}"]


def _some(count: int, seeds: int) -> str:
    return f" {count} of {seeds}" if seeds > 1 else ""


def _interval(seeds: "pd.DataFrame") -> str:
    """That of the accuracy."""
    low, high = accuracy_interval(seeds)
    return MISSING if math.isnan(low) else f"{low:.1f}-{high:.1f}"


def _change(seeds: "pd.DataFrame") -> str:
    found = change(seeds)
    if found is None:
        return MISSING
    return f"{'' if found.real else '~'}{found.mean:+.2f}"
