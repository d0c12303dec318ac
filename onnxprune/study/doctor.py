"""Checks of the installation, the data and the machine: what works, and what to do about what does not."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from onnxprune.common.environment import available_memory, free_disk
from onnxprune.common.errors import InputError, described
from onnxprune.common.output import silenced
from onnxprune.common.progress import Verbosity
from onnxprune.common.temporary import temporary_folder
from onnxprune.data.dataset import load
from onnxprune.data.registry import DATASETS
from onnxprune.data.source import DatasetInfo

ENOUGH_DISK = 10**9  # bytes: a study of 44 points takes a tenth of it with the cnn, and all of it with DenseNet-121
ENOUGH_MEMORY = 4 * 10**9  # bytes: what training and measuring stay below
# package -> its module, where the two have different names
_MODULES = {"onnxruntime-gpu": "onnxruntime", "onnx-tool": "onnx_tool", "pillow": "PIL", "scikit-learn": "sklearn"}
_MOST_NAMED = 10  # classes
_EXTRAS = ("study", "report")
_SMALL = '<ir_version: 8, opset_import: ["" : 18]> g (float[1] input) => (float[1] output) { output = Relu (input) }'


@dataclass(frozen=True)
class Finding:
    """
    Attributes:
        subject: what was looked at.
        state: "ok"; "note" for what is not there and need not be; "broken" for what will fail.
        text: what was found, and what to do.
    """

    subject: str
    state: str
    text: str


def examine(
    runs: Path, data_dir: Path, dataset: str | None = None, size: tuple[int, int] | None = None
) -> Iterator[Finding]:
    """All checks, one after the other; nothing is downloaded, and nothing stays written but in the user's cache.

    Args:
        runs: where results are going to be written.
        data_dir: of the datasets.
        dataset: one to look at too, such as a file or a folder of the user's own.
        size: (height, width) that the pictures of a folder are brought to; None: their own.
    """
    yield from _packages()
    yield _runs_on_cpu()
    yield _runs_on_cuda()
    yield _trains_on_cuda()
    for name, info in DATASETS.items():
        yield _dataset(name, info, data_dir)
    if dataset is not None:
        yield _given_dataset(dataset, data_dir, size)
    yield _writable(runs)
    yield _amount("disk", free_disk(runs), ENOUGH_DISK, f"at {runs}: free some, or choose another place with --out")
    yield _amount("memory", available_memory(), ENOUGH_MEMORY, "available: DenseNet-121 and large batches may not fit")


def _packages() -> Iterator[Finding]:
    """Each package that onnxprune declares to need here: there, in a version that fits, and importable.

    Those of studies and of reports need not be there.
    """
    try:
        declared = [Requirement(text) for text in requires("onnxprune") or []]
    except PackageNotFoundError:
        yield Finding("onnxprune", "broken", "not installed, only found: pip install it, with what it needs")
        return
    for requirement in declared:
        wanted = [
            extra
            for extra in ("", *_EXTRAS)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        ]
        if wanted and requirement.name != "onnxprune":
            yield _package(requirement, wanted[0])


def _package(requirement: Requirement, extra: str) -> Finding:
    """
    Args:
        extra: the one that brings it; "": it is always needed.
    """
    name, bounds = requirement.name, requirement.specifier
    try:
        found = version(name)
    except PackageNotFoundError:
        if extra:
            return Finding(name, "note", f"not installed: pip install 'onnxprune[{extra}]'")
        return Finding(name, "broken", f"not installed: pip install '{name}{bounds}'")
    if not bounds.contains(found, prereleases=True):
        return Finding(name, "broken", f"version {found} does not fit {bounds}: pip install '{name}{bounds}'")
    try:
        with silenced():
            if name == "torchvision":
                from onnxprune.common.torchvision import torchvision_module

                torchvision_module()
            else:
                import_module(_MODULES.get(name, name))
    except Exception as error:  # a package that does not fit the others raises anything
        return Finding(name, "broken", f"version {found} cannot be imported ({described(error)}): install it again")
    return Finding(name, "ok", found)


def _runs_on_cpu() -> Finding:
    try:
        _run_small_model()
    except Exception as error:
        return Finding("onnxruntime on cpu", "broken", described(error))
    return Finding("onnxruntime on cpu", "ok", "ran a small model")


def _runs_on_cuda() -> Finding:
    subject = "onnxruntime on cuda"
    try:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return Finding(subject, "note", "this build of onnxruntime has none: --device cpu only")
        from onnxprune.runtime.session import check_cuda

        check_cuda()
    except Exception as error:
        return Finding(subject, "note", f"does not run here, --device cpu only ({described(error)})")
    return Finding(subject, "ok", "ran a small model")


def _trains_on_cuda() -> Finding:
    subject = "torch on cuda"
    try:
        import torch

        if not torch.cuda.is_available():
            return Finding(subject, "note", "torch finds no CUDA device here: sweeps with --device cpu only")
        torch.ones(1, device="cuda").add(1).cpu()
    except Exception as error:
        return Finding(subject, "note", f"does not run here, sweeps with --device cpu only ({described(error)})")
    return Finding(subject, "ok", "added two numbers")


def _run_small_model() -> None:
    import numpy as np
    import onnx

    from onnxprune.runtime.session import open_session

    with temporary_folder() as folder:
        path = Path(folder) / "small.onnx"
        onnx.save(onnx.parser.parse_model(_SMALL), path)
        (output,) = open_session(path).run(None, {"input": np.ones(1, np.float32)})
    if output.tolist() != [1.0]:
        raise ValueError(f"gives {output.tolist()} where [1.0] is right")


def _dataset(name: str, info: DatasetInfo, data_dir: Path) -> Finding:
    """Whether a dataset is there and intact, read as a sweep reads it; one that is missing is not downloaded."""
    subject = f"dataset {name}"
    folder, file = data_dir / info.folder, data_dir / f"{name}.npz"
    try:
        try:
            images = len(info.read(folder)[1])
        except FileNotFoundError:
            if not file.is_file():
                raise
            images = len(load(str(file)).train)
    except FileNotFoundError:
        return Finding(subject, "note", f"not in {data_dir}: it is downloaded when it is first used")
    except Exception as error:  # whatever the reader stumbles over, a sweep would too
        return Finding(subject, "broken", described(error))
    return Finding(subject, "ok", f"intact, {images:,} images outside the test set")


def _given_dataset(name: str, data_dir: Path, size: tuple[int, int] | None) -> Finding:
    """A dataset, read as a sweep reads it."""
    subject = f"dataset {name}"
    try:
        found = load(name, data_dir, size=size, verbosity=Verbosity.NORMAL)
    except InputError as error:
        return Finding(subject, "broken", str(error))
    named = ", ".join(found.classes[:_MOST_NAMED]) + (", ..." if len(found.classes) > _MOST_NAMED else "")
    kinds = f"{len(found.classes)} classes: {named}" if found.labelled else "no labels: for a trained FILE.onnx"
    return Finding(
        subject,
        "ok",
        f"{len(found.train):,} images to train, {len(found.validation):,} to validate, {len(found.test):,} to test, of "
        f"{'x'.join(map(str, found.input_shape))} (channels x height x width); {kinds}",
    )


def _writable(runs: Path) -> Finding:
    existing = next(path for path in (runs, *runs.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"onnxprune")
    except OSError as error:
        return Finding("results", "broken", f"cannot write to {existing}: {described(error)}")
    return Finding("results", "ok", f"{existing} can be written to")


def _amount(subject: str, found: int, enough: int, otherwise: str) -> Finding:
    text = f"{found / 1e9:,.1f} GB"
    if found < enough:
        return Finding(subject, "note", f"{text}, less than {enough / 1e9:g} GB, {otherwise}")
    return Finding(subject, "ok", text)
