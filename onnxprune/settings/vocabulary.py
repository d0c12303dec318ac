"""What is removed (techniques), how importance is judged (criteria) and when (schedules).

The tables here are all that validation, help and listings read; NNI and PyTorch are imported only to prune. What does
the work is named as entry points name it, "module:function": imported when it is first needed.
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
        ranking: "module:function" that says how NNI ranks by it (`onnxprune.pruning.ranking`); "" for one that its
            schedule alone knows.
        techniques: those that accept it beside the criteria that they name themselves.
        labels: whether it looks at the loss, and so needs labels.
    """

    summary: str
    source: str = ""
    ranking: str = ""
    techniques: tuple[str, ...] = ()
    labels: bool = False


TECHNIQUES: Registry[Technique] = Registry(
    "technique",
    {
        "weight": Technique(
            "single weights, the same share of every layer",
            unit="weight",
            scope="layer",
            criteria=("l1", "l2", "threshold", "obs", "random"),
        ),
        "neuron": Technique(
            "output units of every layer but the classifier, by their contribution to the network's output",
            unit="channel",
            scope="layer",
            criteria=("taylor", "apoz", "activation", "obs", "random"),
        ),
        "structured": Technique(
            "filters of every layer but the classifier, by their own norm; or whole layers",
            unit="channel",
            scope="layer",
            criteria=("l1", "l2", "fpgm", "slim", "obs", "random"),
            granularities=("unit", "layer"),
        ),
        "unstructured": Technique(
            "single weights, one ranking over all layers",
            unit="weight",
            scope="global",
            criteria=("l1", "lamp", "taylor", "obs", "random"),
        ),
    },
    group="onnxprune.techniques",
)

CRITERIA: Registry[Criterion] = Registry(
    "criterion",
    {
        "l1": Criterion(
            "sum of absolute weights (of a single weight: its magnitude)",
            "Li et al. 2017, 1608.08710",
            ranking="onnxprune.pruning.criteria.norms:l1",
        ),
        "l2": Criterion(
            "Euclidean norm of the weights (ranks single weights as l1 does)",
            "Han et al. 2015, 1506.02626",
            ranking="onnxprune.pruning.criteria.norms:l2",
        ),
        "threshold": Criterion(
            "magnitude against a multiple of the layer's standard deviation; achieves about the requested share",
            "Han et al. 2015, 1506.02626",
            ranking="onnxprune.pruning.criteria.norms:threshold",
        ),
        "fpgm": Criterion(
            "distance to the layer's other filters",
            "He et al. 2019, 1811.00250",
            ranking="onnxprune.pruning.criteria.norms:fpgm",
        ),
        "slim": Criterion(
            "BatchNorm's scaling factor after training it towards zero",
            "Liu et al. 2017, 1708.06519",
            ranking="onnxprune.pruning.criteria.batch_norm:slim",
            labels=True,
        ),
        "taylor": Criterion(
            "squared weight times gradient on training images",
            "Molchanov et al. 2019, 1906.10771",
            ranking="onnxprune.pruning.criteria.gradients:taylor",
            labels=True,
        ),
        "lamp": Criterion(
            "squared weight, divided by the sum of those in its layer that are no smaller",
            "Lee et al. 2021, 2010.07611",
            ranking="onnxprune.pruning.criteria.norms:lamp",
        ),
        "apoz": Criterion(
            "how often the unit's rectified activation on training images is not zero",
            "Hu et al. 2016, 1607.03250",
            ranking="onnxprune.pruning.criteria.activations:apoz",
        ),
        "activation": Criterion(
            "mean of the unit's rectified activation on training images",
            "Molchanov et al. 2017, 1611.06440",
            ranking="onnxprune.pruning.criteria.activations:mean_activation",
        ),
        "obs": Criterion(
            "what the layers that read a unit lose without it once the others make up for it, on training images",
            "Hassibi and Stork 1993; Kurtic et al. 2023, 2302.04089",
            ranking="onnxprune.pruning.criteria.reconstruction:obs",
        ),
        "movement": Criterion(
            "whether training moves the weight away from zero; by its schedule alone", "Sanh et al. 2020, 2005.07683"
        ),
        "random": Criterion(
            "at random: the control for every other criterion", ranking="onnxprune.pruning.criteria.chance:chance"
        ),
    },
    aliases={"magnitude": "l1"},
    group="onnxprune.criteria",
)


@dataclass(frozen=True)
class Schedule:
    """When units are removed.

    Attributes:
        summary: what happens, in one line.
        source: the paper it comes from, or "".
        run: "module:function" that makes a trained, pruned network of a point in the making
            (`onnxprune.schedules.context`).
        settings: fields of a point that it reads beside those of every schedule.
        units: of the techniques it makes sense for, with the reason where it is not all of them.
        granularities: likewise.
        criteria: the only ones it accepts; none: those of the technique.
        rounds: steps in which it prunes, by default; None: it has no such steps.
        controls: whether what it decides on can be replaced by a control's.
        finds_sparsity: whether it finds by itself how much to remove, by the validation split; the sparsity that is
            asked for is then the most.
    """

    summary: str
    source: str
    run: str
    settings: tuple[str, ...]
    units: tuple[str, ...] = ("weight", "channel")
    granularities: tuple[str, ...] = ("unit",)
    criteria: tuple[str, ...] = ()
    rounds: int | None = None
    controls: bool = False
    finds_sparsity: bool = False

    @property
    def finetunes(self) -> bool:
        """Whether networks are fine-tuned from a trained base."""
        return "finetune_epochs" in self.settings


_FINETUNING = ("finetune_epochs", "finetune_learning_rate", "distill")

SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "one-shot": Schedule(
            "train, prune once, fine-tune",
            "Li et al. 2017, 1608.08710",
            "onnxprune.schedules.one_shot:one_shot",
            (*_FINETUNING, "recalibrate", "compensate"),
            granularities=("unit", "layer"),
            controls=True,
        ),
        "at-init": Schedule(
            "prune the untrained network, then train it",
            "Frankle et al. 2021, 2009.08576",
            "onnxprune.schedules.at_init:at_init",
            (),
            granularities=("unit", "layer"),
            controls=True,
        ),
        "iterative": Schedule(
            "prune the same share of what is left and fine-tune, --rounds times",
            "Han et al. 2015, 1506.02626",
            "onnxprune.schedules.iterative:iterative",
            (*_FINETUNING, "rounds"),
            rounds=3,
        ),
        "agp": Schedule(
            "while fine-tuning, in --rounds steps, fast at first and slower towards the end",
            "Zhu and Gupta 2017, 1710.01878",
            "onnxprune.schedules.gradual:agp",
            (*_FINETUNING, "rounds"),
            rounds=10,
        ),
        "linear": Schedule(
            "while fine-tuning, in --rounds equal steps",
            "Zhu and Gupta 2017, 1710.01878",
            "onnxprune.schedules.gradual:linear",
            (*_FINETUNING, "rounds"),
            rounds=10,
        ),
        "movement": Schedule(
            "while fine-tuning, what training moves towards zero",
            "Sanh et al. 2020, 2005.07683",
            "onnxprune.schedules.movement:movement",
            _FINETUNING,
            criteria=("movement",),
        ),
        "lottery": Schedule(
            "train, prune, rewind what is left to its weights of --rewind-epoch, train again; --rounds times",
            "Frankle and Carbin 2019, 1803.03635",
            "onnxprune.schedules.lottery:lottery",
            ("rounds", "rewind_epoch"),
            granularities=("unit", "layer"),
            rounds=1,
            controls=True,
        ),
        "set": Schedule(
            "sparse from the start: while training, the smallest weights move to random places",
            "Mocanu et al. 2018, 1707.04780",
            "onnxprune.schedules.regrown:sparse_evolutionary",
            (),
            units=("weight",),
            criteria=("l1",),
        ),
        "rigl": Schedule(
            "sparse from the start: while training, the smallest weights move to where the gradient is largest",
            "Evci et al. 2020, 1911.11134",
            "onnxprune.schedules.regrown:rigged_lottery",
            (),
            units=("weight",),
            criteria=("l1",),
        ),
        "adaptive": Schedule(
            "while fine-tuning, as far as validation allows: --max-drop points at most, layer by layer",
            "",
            "onnxprune.schedules.adaptive:adaptive",
            (*_FINETUNING, "rounds", "max_drop"),
            rounds=20,
            finds_sparsity=True,
        ),
    },
    group="onnxprune.schedules",
)

CONTROLS: Registry[str] = Registry(
    "control",
    {
        "none": "the criterion's own choice",
        "random": "as many units, chosen at random",
        "layerwise-random": "as many units of each layer as the criterion takes, chosen at random within it",
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


def is_finetuned(schedule: str, control: str | None) -> bool:
    """Whether networks are trained further from their base, and not from new weights."""
    return control != "scratch" and SCHEDULES[schedule].finetunes


def criteria_of(technique: str) -> tuple[str, ...]:
    """Names of the criteria that a technique accepts, its default first; those of other packages say so themselves."""
    named = TECHNIQUES[technique].criteria
    return named + tuple(name for name, entry in CRITERIA.items() if technique in entry.techniques)


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
    if name in accepted or (not limits and technique in CRITERIA[name].techniques):
        return name
    if not limits:
        accepted = criteria_of(technique)
    raise InputError(
        f"technique '{technique}'{limits} does not accept criterion '{name}': it accepts {', '.join(accepted)}"
    )
