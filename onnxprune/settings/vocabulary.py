"""What is removed (techniques), how importance is judged (criteria) and when (schedules).

The tables here are all that validation, help and listings read; NNI and PyTorch are imported only to prune.
"""

from dataclasses import dataclass

from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry


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
            criteria=("taylor", "apoz", "activation", "random"),
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
            criteria=("l1", "lamp", "taylor", "random"),
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
        "lamp": Criterion(
            "squared weight, divided by the sum of those in its layer that are no smaller",
            "Lee et al. 2021, 2010.07611",
        ),
        "apoz": Criterion(
            "how often the unit's rectified activation on training images is not zero", "Hu et al. 2016, 1607.03250"
        ),
        "activation": Criterion(
            "mean of the unit's rectified activation on training images", "Molchanov et al. 2017, 1611.06440"
        ),
        "movement": Criterion(
            "whether training moves the weight away from zero; by its schedule alone", "Sanh et al. 2020, 2005.07683"
        ),
        "random": Criterion("chance: the control for every other criterion"),
    },
    aliases={"magnitude": "l1"},
)


@dataclass(frozen=True)
class Schedule:
    """When units are removed.

    Attributes:
        summary: what happens, in one line.
        source: the paper it comes from, or "".
        function: of `onnxprune.schedules.families`, which runs it.
        settings: fields of a point that it reads beside those of every schedule.
        units: of the techniques it makes sense for, with the reason where it is not all of them.
        granularities: likewise.
        criteria: the only ones it accepts; none: those of the technique.
        rounds: steps in which it prunes, by default; None: it has no such steps.
        controls: whether what it decides on can be replaced by a control's.
    """

    summary: str
    source: str
    function: str
    settings: tuple[str, ...]
    units: tuple[str, ...] = ("weight", "channel")
    granularities: tuple[str, ...] = ("unit",)
    criteria: tuple[str, ...] = ()
    rounds: int | None = None
    controls: bool = False


_FINETUNING = ("finetune_epochs", "finetune_learning_rate", "distill")

SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "one-shot": Schedule(
            "train, prune once, fine-tune",
            "Li et al. 2017, 1608.08710",
            "one_shot",
            (*_FINETUNING, "recalibrate", "compensate"),
            granularities=("unit", "layer"),
            controls=True,
        ),
        "at-init": Schedule(
            "prune the untrained network, then train it",
            "Frankle et al. 2021, 2009.08576",
            "at_init",
            (),
            granularities=("unit", "layer"),
            controls=True,
        ),
        "iterative": Schedule(
            "prune the same share of what is left and fine-tune, --rounds times",
            "Han et al. 2015, 1506.02626",
            "iterative",
            (*_FINETUNING, "rounds"),
            rounds=3,
        ),
        "agp": Schedule(
            "while fine-tuning, in --rounds steps, fast at first and slower towards the end",
            "Zhu and Gupta 2017, 1710.01878",
            "agp",
            (*_FINETUNING, "rounds"),
            rounds=10,
        ),
        "linear": Schedule(
            "while fine-tuning, in --rounds equal steps",
            "Zhu and Gupta 2017, 1710.01878",
            "linear",
            (*_FINETUNING, "rounds"),
            rounds=10,
        ),
        "movement": Schedule(
            "while fine-tuning, what training moves towards zero",
            "Sanh et al. 2020, 2005.07683",
            "movement",
            _FINETUNING,
            criteria=("movement",),
        ),
        "lottery": Schedule(
            "train, prune, rewind what is left to its weights of --rewind-epoch, train again; --rounds times",
            "Frankle and Carbin 2019, 1803.03635",
            "lottery",
            ("rounds", "rewind_epoch"),
            granularities=("unit", "layer"),
            rounds=1,
            controls=True,
        ),
        "set": Schedule(
            "sparse from the start: while training, the smallest weights move to random places",
            "Mocanu et al. 2018, 1707.04780",
            "sparse_evolutionary",
            (),
            units=("weight",),
            criteria=("l1",),
        ),
        "rigl": Schedule(
            "sparse from the start: while training, the smallest weights move to where the gradient is largest",
            "Evci et al. 2020, 1911.11134",
            "rigged_lottery",
            (),
            units=("weight",),
            criteria=("l1",),
        ),
        "adaptive": Schedule(
            "while fine-tuning, as far as validation allows: --max-drop points at most, layer by layer",
            "",
            "adaptive",
            (*_FINETUNING, "rounds", "max_drop"),
            rounds=20,
        ),
    },
)

CONTROLS: Registry[str] = Registry(
    "control",
    {
        "none": "the criterion's own choice",
        "random": "as many units, chosen by chance",
        "layerwise-random": "as many units of each layer as the criterion takes, chosen by chance within it",
        "scratch": "the network that the criterion leaves, trained from new random weights for all epochs",
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


def resolve_criterion(technique: str, criterion: str | None, granularity: str, schedule: str = "one-shot") -> str:
    """The criterion's canonical name, the technique's default one for None.

    Raises:
        InputError: the technique, at that granularity and schedule, does not accept the criterion.
    """
    accepted = TECHNIQUES[technique].criteria
    limits = ""
    if granularity == "layer":
        accepted = tuple(name for name in accepted if name in LAYER_CRITERIA)
        limits = " of whole layers"
    if SCHEDULES[schedule].criteria:
        accepted = SCHEDULES[schedule].criteria
        limits += f" with schedule '{schedule}'"
    if criterion is None:
        return accepted[0]
    name = CRITERIA.canonical(criterion)
    if name not in accepted:
        raise InputError(
            f"technique '{technique}'{limits} does not accept criterion '{name}': it accepts {', '.join(accepted)}"
        )
    return name
