"""Prunes an ONNX file on its own graph, in the helper process, writes the result and compares the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.common.environment import usable_cores
from onnxprune.common.errors import InputError
from onnxprune.common.widths import AUTO, DEFAULT_STEP
from onnxprune.graph.files import files_of
from onnxprune.graph.tensors import Shape
from onnxprune.reduction.output_file import check_output, compared
from onnxprune.reduction.recovery import METHODS
from onnxprune.reduction.result import PruneReport
from onnxprune.reduction.samples import Data, sample_source
from onnxprune.reduction.settings import PruneSettings, parse_target
from onnxprune.runtime.long_work import Advance, silent, work_in_helper
from onnxprune.runtime.probe import probe
from onnxprune.runtime.sizes import SECONDS_TO_OPEN
from onnxprune.runtime.steps import MEASURING_STEPS, measured_step
from onnxprune.settings.values import channel_step


def prune(
    path: str | Path,
    *,
    sparsity: float | None = None,
    target: str | tuple[str, float] | None = None,
    max_drop: float | None = None,
    technique: str = "structured",
    criterion: str | None = None,
    data: Data | None = None,
    data_dir: str | Path | None = None,
    samples: int = 512,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str | Path | None = None,
    shapes: Mapping[str, Shape] | None = None,
    channel_align: int | str = DEFAULT_STEP,
    recovery: Sequence[str] = METHODS,
    seed: int = 0,
    threads: int | None = None,
    latency: bool = True,
    batch_sizes: Sequence[int] = (),
    seconds: float = 3.0,
    dry_run: bool = False,
    advance: Advance = silent,
) -> PruneReport:
    """Prunes an ONNX file, writes the result, and compares the two.

    Args:
        sparsity: percent of the units or weights that go.
        target: "macs=0.5" or "latency=0.5" (measured): the share of the original's that is left; shares of the layers
            then follow from their sensitivity and cost.
        max_drop: points that may be lost, see `PruneSettings`. Exactly one of the three is given; a dry run needs none.
        technique: "structured", "neuron", "weight" or "unstructured".
        criterion: default: "obs" with data, else "l1".
        data: samples to judge and repair by: arrays by input name, an .npz of them, a dataset's name or .npz, or a
            folder of pictures.
        data_dir: folder of the datasets.
        samples: of the data, at most.
        mean, std: of images' pixels in [0, 1], where the file's metadata do not say them.
        output: default: beside the file, named after what was done: MODEL-structured-50.onnx.
        shapes: input name -> shape with the batch, where the file leaves more than the batch open.
        channel_align: kept widths of convolutions are multiples of it; "auto": of the step that onnxruntime's speed
            has on this machine, measured.
        recovery: of "bias", "ridge", "match", "pairs", those that may repair the network.
        threads: of the processor, for latency; default: one for each core.
        latency: whether the two files are timed, at these `batch_sizes` and for so many `seconds`.
        dry_run: nothing is written, and nothing repaired but where that decides what goes.
        advance: told what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: the file, the samples or the settings cannot be used.
        RunError: the result fails its check; nothing is written.
    """
    path = Path(path)
    if dry_run and sparsity is None and target is None and max_drop is None:
        sparsity = 0.0
    threads = threads or usable_cores()
    if channel_align == AUTO:
        advance(MEASURING_STEPS, 0, 1)
    settings = PruneSettings(
        technique=technique,
        criterion=criterion,
        sparsity=sparsity,
        target=None if target is None else parse_target(target),
        max_drop=max_drop,
        align=_step(channel_align, threads),
        recovery=tuple(recovery),
        samples=samples,
        threads=threads,
        seed=seed,
    ).resolved(data is not None)
    advance("reading the file", 0, 1)
    probe(path, seconds=SECONDS_TO_OPEN, counted=shapes or {}, fresh=False)
    files = files_of(path)
    output = path.with_name(f"{path.stem}-{settings.title}.onnx") if output is None else Path(output)
    if not dry_run:
        check_output(output, files, "prune")
    asked = (settings, not dry_run, sample_source(data, data_dir, mean, std), shapes)
    report, network = work_in_helper("onnxprune.reduction.pruned_network:prune_file", path, *asked, advance=advance)
    if network is None:
        return report
    replaced = output.exists()
    network.save(output)
    after = replace(report.after, bytes=sum(file.stat().st_size for file in files_of(output)))
    report = replace(report, output=output, replaced=replaced, after=after)
    if not latency:
        return report
    how: dict[str, Any] = {"batch_sizes": batch_sizes, "shapes": shapes, "threads": threads, "seconds": seconds}
    return compared(report, path, output, advance, **how)


def _step(channel_align: int | str, threads: int) -> int:
    try:
        asked = channel_step(channel_align)
    except InputError as error:
        raise InputError(f"channel_align: {error}, or {AUTO}") from None
    return measured_step(threads) if isinstance(asked, str) else asked
