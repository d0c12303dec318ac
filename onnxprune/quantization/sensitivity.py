"""Which layers stay in float32: the fewest that lose no more than allowed, most sensitive first."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.output import plural
from onnxprune.quantization.conversion import Converter
from onnxprune.quantization.preparation import Prepared
from onnxprune.reduction.fidelity import answers, compare_answers, deciding_score
from onnxprune.reduction.samples import Samples
from onnxprune.runtime.long_work import Advance
from onnxprune.runtime.random_inputs import Inputs

_BATCHES = 8  # of samples that a single layer is judged by


def errors_alone(
    converter: Converter, prepared: Prepared, nodes: Sequence[str], batches: Sequence[Inputs], advance: Advance
) -> dict[str, float]:
    """Relative error of the outputs where one node alone is converted, for each of these nodes.

    Args:
        batches: samples that ranges were not found on.
    """
    batches = batches[:_BATCHES]
    original = answers(prepared.source, batches)
    found = {}
    for number, node in enumerate(nodes):
        advance("converting layers one by one", number, len(nodes))
        alone = answers(converter.convert(only=node), batches)
        found[node] = compare_answers(original, alone, batches).relative_error
    return found


def layers_to_keep(
    path: Path,
    converter: Converter,
    prepared: Prepared,
    samples: Samples,
    asked: Sequence[str],
    most: float,
    advance: Advance,
) -> tuple[tuple[str, ...], Mapping[str, float]]:
    """Nodes that stay in float32, so that no more than `most` points are lost, and what each layer does alone.

    Layers are ranked by the error of the outputs where one alone is converted; the number that stays is found by
    bisection, which takes for granted that more layers in float32 lose less.

    Args:
        asked: nodes that stay whatever is lost.

    Raises:
        InputError: the outputs are no scores.
        RunError: more is lost even with all but one layer in float32.
    """
    whole = deciding_score(prepared.source, prepared.source, samples)
    if whole is None:
        raise InputError(
            f"{path}: no output has a score for each class of the data, so that no drop can be told: leave --max-drop "
            "out, or give data without labels"
        )

    def drop(keep: Sequence[str]) -> float:
        found = deciding_score(converter.convert(keep), prepared.source, samples)
        return whole - (found if found is not None else 0.0)

    if drop(asked) <= most:
        return (), {}
    free = [layer.node for layer in prepared.layers if layer.obstacle is None and layer.node not in asked]
    nodes = list(dict.fromkeys(free))
    errors = errors_alone(converter, prepared, nodes, samples.held_out, advance)
    ranked = sorted(nodes, key=lambda node: -errors[node])
    low, high = 0, len(ranked) - 1  # `low` lose too much
    if high <= low or drop([*asked, *ranked[:high]]) > most:
        raise RunError(
            f"{path}: it loses more than {plural(most, 'point')} even where one layer alone is converted: allow more, "
            "try another --calibration, or ship it in float32"
        )
    while high - low > 1:
        advance("looking for the layers that stay", len(ranked) - (high - low), len(ranked))
        middle = (low + high) // 2
        if drop([*asked, *ranked[:middle]]) <= most:
            high = middle
        else:
            low = middle
    return tuple(ranked[:high]), errors
