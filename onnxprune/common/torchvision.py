"""torchvision, imported in the one place that knows how."""

import importlib
import sys
from types import ModuleType
from typing import Any

_libraries: list[Any] = []


def is_misfit(error: RuntimeError) -> bool:
    """Whether it is raised where torchvision's compiled operators do not fit the installed torch."""
    return "torchvision::nms does not exist" in str(error)


def torchvision_module() -> ModuleType:
    """The torchvision package, also where its compiled operators do not fit the installed torch.

    The torchvision wheel of the package index is built for CUDA. Beside a CPU-only torch its extension does not
    load, and the import then fails on operators it expects to be declared. Declaring their schemas is enough for
    models, datasets and transforms, which use none of them.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if not is_misfit(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)  # the declarations live as long as this object does
    return importlib.import_module("torchvision")
