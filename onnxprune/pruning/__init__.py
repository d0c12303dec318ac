"""What is removed (techniques), how importance is judged (criteria) and when (schedules).

The tables here are all that validation, help and listings read; NNI and PyTorch are imported only to prune.
"""

from dataclasses import dataclass

from onnxprune.errors import InputError
from onnxprune.registry import Registry


@dataclass(frozen=True)
class Technique:
    """What one unit of removal is.

    Attributes:
        summary: the unit and the scope of the ranking, in one line.
        unit: "weight" (zeros stay in place) or "channel" (an output unit of a layer; the network really shrinks).
        scope: "layer" (every layer loses the same share) or "global" (one ranking over all layers).
        criteria: names of the criteria it accepts; the first is its default.
        granularities: what a unit can be; the first is the default.
    """

    summary: str
    unit: str
    scope: str
    criteria: tuple[str, ...]
    granularities: tuple[str, ...] = ("unit",)


@dataclass(frozen=True)
class Criterion:
    """How the importance of a unit is judged.

    Attributes:
        summary: what the score is; the lowest scores go first.
        source: the paper it comes from, or "" for a control.
    """

    summary: str
    source: str = ""


TECHNIQUES: Registry[Technique] = Registry(
    "technique",
    {
        "weight": Technique(
            "single weights, the same share of every layer",
            unit="weight",
            scope="layer",
            criteria=("l1", "l2", "threshold", "random"),
        ),
        "neuron": Technique(
            "output units of every layer but the classifier, by their contribution to the network's output",
            unit="channel",
            scope="layer",
            criteria=("taylor", "random"),
        ),
        "structured": Technique(
            "filters of every layer but the classifier, by their own norm; or whole layers",
            unit="channel",
            scope="layer",
            criteria=("l1", "l2", "fpgm", "slim", "random"),
            granularities=("unit", "layer"),
        ),
        "unstructured": Technique(
            "single weights, one ranking over all layers",
            unit="weight",
            scope="global",
            criteria=("l1", "taylor", "random"),
        ),
    },
)

CRITERIA: Registry[Criterion] = Registry(
    "criterion",
    {
        "l1": Criterion("sum of absolute weights (of a single weight: its magnitude)", "Li et al. 2017, 1608.08710"),
        "l2": Criterion(
            "Euclidean norm of the weights (ranks single weights as l1 does)", "Han et al. 2015, 1506.02626"
        ),
        "threshold": Criterion(
            "magnitude against a multiple of the layer's standard deviation; achieves about the requested share",
            "Han et al. 2015, 1506.02626",
        ),
        "fpgm": Criterion("distance to the layer's other filters", "He et al. 2019, 1811.00250"),
        "slim": Criterion("BatchNorm's scaling factor after training it towards zero", "Liu et al. 2017, 1708.06519"),
        "taylor": Criterion("squared weight times gradient on training images", "Molchanov et al. 2019, 1906.10771"),
        "random": Criterion("chance: the control for every other criterion"),
    },
    aliases={"magnitude": "l1"},
)

SCHEDULES: Registry[str] = Registry(
    "schedule",
    {
        "one-shot": "train, prune once, fine-tune",
        "at-init": "prune the untrained network, then train it",
    },
)

GRANULARITIES: Registry[str] = Registry(
    "granularity",
    {
        "unit": "the technique's own unit",
        "layer": "whole layers, where the architecture allows it (DenseNet-121's dense layers)",
    },
)

LAYER_CRITERIA = ("l1", "l2", "random")


def resolve_criterion(technique: str, criterion: str | None, granularity: str) -> str:
    """The criterion's canonical name, the technique's default one for None.

    Raises:
        InputError: the technique, at that granularity, does not accept the criterion.
    """
    accepted = TECHNIQUES[technique].criteria
    if granularity == "layer":
        accepted = tuple(name for name in accepted if name in LAYER_CRITERIA)
    if criterion is None:
        return accepted[0]
    name = CRITERIA.canonical(criterion)
    if name not in accepted:
        of_layers = " of whole layers" if granularity == "layer" else ""
        raise InputError(
            f"technique '{technique}'{of_layers} does not accept criterion '{name}': it accepts {', '.join(accepted)}"
        )
    return name
