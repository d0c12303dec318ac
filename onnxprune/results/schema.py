"""What the files of bases and points may hold: nothing else is believed, whoever wrote it.

Records come from `json.loads`, which knows NaN, and are checked by msgspec. What a version of onnxprune does not know
is left alone; what it knows has its type and its range.

python -m onnxprune.results.schema > docs/records.schema.json
"""

import json
import sys
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from onnxprune.settings.point import FIELDS, Point

_MOST = 2**63 - 1  # a column of whole numbers holds no more

_END = r"(?![\s\S])"  # of a text, in Python and in JSON Schema; "$" lets a newline follow
# no control characters, nor those that turn the direction of text or end a line
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]*" + _END
Text = Annotated[str, Meta(max_length=10_000, pattern=_PLAIN)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}" + _END)]
Count = Annotated[int, Meta(ge=0, le=_MOST)]
Whole = Annotated[int, Meta(ge=-_MOST, le=_MOST)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Positive = Annotated[float, Meta(ge=0, le=1e300)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]

# type -> metrics of that type: those of every row, then those that some rows lack or have empty
_IN_EVERY_ROW: dict[Any, str] = {
    Text: "base_id",
    Finite: "achieved_sparsity",
    Count: "base_training_flops base_macs base_effective_macs base_params base_file_bytes macs effective_macs "
    "nonzero_params file_bytes training_flops",
    Positive: "base_training_seconds training_seconds",
    bool: "collapsed",
}
# of every row where there are labels, and where there are none
_OF_ACCURACY: dict[Any, str] = {
    Percent: "base_accuracy base_top5_accuracy base_validation_accuracy accuracy validation_accuracy",
    float: "base_cross_entropy cross_entropy",  # NaN where a logit is not finite
    Finite: "base_accuracy_change",
}
_OF_FIDELITY: dict[Any, str] = {
    Percent: "base_fidelity base_validation_fidelity fidelity validation_fidelity",
    Finite: "base_fidelity_change",
}
_BESIDE_FIDELITY: dict[Any, str] = {
    Percent: "base_agreement agreement before_finetuning_fidelity before_finetuning_agreement",
    float: "base_relative_error base_cosine relative_error cosine before_finetuning_relative_error "
    "before_finetuning_cosine",
}
_IN_SOME_ROWS: dict[Any, str] = {
    Text: "data_checksum spec_hash network_id timing_disturbed",
    Percent: "before_finetuning_accuracy before_finetuning_top5_accuracy top5_accuracy most_predicted",
    bool: "speedup_beyond_theory",
    float: "before_finetuning_cross_entropy",
    Finite: "achieved_channels_sparsity achieved_weight_sparsity achieved_params_sparsity achieved_macs_sparsity "
    "achieved_effective_macs_sparsity",
    Count: "base_flops base_onnx_tool_ops base_nonzero_params base_training_images base_training_peak_memory_bytes "
    "train_images available_train_images test_images flops onnx_tool_ops params training_images "
    "training_peak_memory_bytes latency_runs empty_layers base_training_updates base_dead_units dead_params "
    "validation_images teacher_flops criterion_flops calibration_flops discarded_flops tl_flops bytes_compressed "
    "base_bytes_compressed",
    Positive: "base_training_images_per_second base_parity_max_abs_diff scaled_learning_rate "
    "training_images_per_second compression_ratio theoretical_speedup latency_ms_median latency_ms_p90 "
    "base_latency_ms_median speedup speedup_low speedup_high speedup_noise before_finetuning_parity_max_abs_diff "
    "parity_max_abs_diff timing_load_average timing_other_cores criterion_seconds calibration_seconds "
    "discarded_seconds tl_seconds",
}
_OF_INT8: dict[Any, str] = {
    Text: "missing",
    Percent: "accuracy top5_accuracy validation_accuracy fidelity agreement validation_fidelity",
    float: "cross_entropy relative_error cosine",
    Count: "macs file_bytes bytes_compressed latency_runs",
    Positive: "latency_ms_median latency_ms_p90 speedup speedup_noise",
    bool: "collapsed",
}


def _names(kinds: dict[Any, str]) -> list[tuple[str, Any]]:
    return [(name, kind) for kind, names in kinds.items() for name in names.split()]


_WHERE_NEEDED: list[tuple[str, Any]] = [  # columns that most tables have not
    ("macs_missing", Text),
    ("base_macs_missing", Text),
    *_names(_OF_FIDELITY),
    *_names(_BESIDE_FIDELITY),
    *((f"{of}int8_{name}", kind) for of in ("", "base_") for kind, names in _OF_INT8.items() for name in names.split()),
]
TIMED = ("latency_ms_median", "base_latency_ms_median", "speedup", "speedup_noise")  # all, where there is a speedup
_ENVIRONMENT: dict[Any, str] = {
    Text: "onnxprune_version git_commit python_version platform cpu gpu torch_version torchvision_version nni_version "
    "onnx_version onnxruntime_gpu_version onnxruntime_version onnx_tool_version numpy_version numeric_variables",
    Count: "cpu_cores memory_bytes training_threads",
}


def _optional(fields: Iterable[tuple[str, Any]]) -> list[tuple[str, Any, UnsetType]]:
    return [(name, kind | None | UnsetType, UNSET) for name, kind in fields]


_METRICS = [*_names(_IN_EVERY_ROW), *_names(_OF_ACCURACY), *_names(_IN_SOME_ROWS), *_WHERE_NEEDED]
EVERY_ROW = tuple(name for name, _ in _names(_IN_EVERY_ROW))
WITH_LABELS = tuple(name for name, _ in _names(_OF_ACCURACY))
WITHOUT_LABELS = tuple(name for name, _ in _names(_OF_FIDELITY))
SHARES = frozenset(name for name, kind in _METRICS if kind == Percent)  # metrics that lie between 0 and 100
SOME_ROWS = (*WITH_LABELS, *(name for name, _ in _names(_IN_SOME_ROWS)))
Metrics = msgspec.defstruct("Metrics", _optional(_METRICS))
Environment = msgspec.defstruct("Environment", _optional(_names(_ENVIRONMENT)))


class Units(Struct):
    """Of a layer: how many units there were, and how many are left."""

    units: Count
    kept: Count


class Record(Struct):
    """metrics.json, of a base or a point. What some have not, as those of an earlier version, has a default."""

    metrics: Metrics  # type: ignore[valid-type]
    environment: Environment  # type: ignore[valid-type]
    files: dict[Text, Digest] = {}
    epoch_losses: list[float] = []
    layers: dict[Text, Units] = {}
    cleaned: list[Text] = []
    wall_seconds: Finite | None = None


class Losses(Struct):
    """What a report reads of a base."""

    epoch_losses: list[float] = []


class Deployed(Struct):
    """An entry of index.json: what must be in it to be found and replaced."""

    name: Text
    file: Text
    point: Text
    sha256: Digest


_SETTING_KINDS = {bool: bool, int: Whole, float: Finite, str: Text}
_KINDS = {name: _SETTING_KINDS[getattr(hint, "__args__", (hint,))[0]] for name, hint in get_type_hints(Point).items()}
_KINDS["sparsity"] = Percent
_NEEDED_SETTINGS = (
    *("model", "dataset", "batch_size", "technique", "criterion", "schedule", "sparsity", "control", "seed"),
    *("device", "latency_batch", "latency_threads"),
)

Config = msgspec.defstruct(
    "Config",
    [
        *((name, _KINDS[name]) for name in _NEEDED_SETTINGS),
        *_optional((name, _KINDS[name]) for name in FIELDS if name not in _NEEDED_SETTINGS),
    ],
)


def problem(value: Any, kind: Any) -> str | None:
    """What is wrong with a value that JSON gave, in a few words; None where it is of that kind."""
    try:
        msgspec.convert(value, kind)
    except UnicodeEncodeError:  # JSON may escape half of a pair
        return "a text of it is no Unicode"
    except (msgspec.ValidationError, OverflowError) as error:
        return str(error).replace("`", "'").removesuffix(" - at '$'").replace("$.", "")
    return None


@cache
def column_kinds() -> dict[str, type]:
    """Name of each column that a record can give to a table -> bool, str, int or float."""
    return _plain([*_METRICS, *_names(_ENVIRONMENT)])


@cache
def setting_kinds() -> dict[str, type]:
    """The same of each setting of a point."""
    return _plain(_KINDS.items())


def _plain(kinds: Iterable[tuple[str, Any]]) -> dict[str, type]:
    return {name: getattr(kind, "__origin__", kind) for name, kind in kinds}


def json_schema() -> str:
    """The same as JSON Schema, for other programs: "Record" is metrics.json, "Config" config.json, "Deployed" an entry
    of index.json. JSON itself has no NaN, which a cross-entropy may be."""
    _, parts = msgspec.json.schema_components([Record, Config, Deployed])
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": parts}
    return json.dumps(whole, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
