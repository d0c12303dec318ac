"""Runs networks, or parts of them, and looks at every tensor on the way."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, ValueInfoProto

from onnxprune.common.errors import InputError, one_line
from onnxprune.common.interruption import interruptible
from onnxprune.common.temporary import temporary_folder
from onnxprune.graph.network import Network
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.helper import within_stage
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.session import FATAL

_PROTOBUF_LIMIT = 2**31 - 2**20
_SECONDS = 10.0  # of the processor, for a run
_SECONDS_A_SAMPLE = 3.0  # beside that


class CannotRunError(InputError):
    """onnxruntime does not take a network or stops in it; which file it is of, the message does not say."""


@dataclass(frozen=True)
class Trace:
    """One run of a network.

    Attributes:
        shapes: name -> shape of every tensor that was computed or fed.
        values: name -> value of those that were asked for.
    """

    shapes: dict[str, Shape]
    values: dict[str, np.ndarray]


def trace(network: Network, feed: Inputs, keep: Iterable[str]) -> Trace:
    """Runs a network without any optimisation and notes the shape of every tensor, and the values of some.

    Raises:
        CannotRunError: onnxruntime cannot run it.
    """
    wanted = [name for node in network.nodes for name in node.output if name]
    wanted += [name for name in network.outputs if name not in wanted]
    kept = set(keep)
    with open_network(network, wanted, optimise=False) as session:
        found = run(session, feed)
    shapes = {name: value.shape for name, value in found.items() if isinstance(value, np.ndarray)}
    shapes |= {name: value.shape for name, value in feed.items()}
    shapes |= {name: value.shape for name, value in network.weights.items()}
    return Trace(shapes, {name: value for name, value in found.items() if name in kept})


@contextlib.contextmanager
def open_network(
    network: Network, outputs: Sequence[str] | None = None, *, threads: int = 0, optimise: bool = True
) -> Iterator[onnxruntime.InferenceSession]:
    """A session of a network that gives these tensors, by default its outputs.

    Args:
        threads: 0: one for each core.

    Raises:
        CannotRunError: onnxruntime does not take it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if outputs is not None:
        network = network.copy()
        known = {value.name: value for value in network.model.graph.output}
        del network.model.graph.output[:]
        network.model.graph.output.extend(known.get(name) or ValueInfoProto(name=name) for name in outputs)
    with contextlib.ExitStack() as stack:
        try:
            yield onnxruntime.InferenceSession(_serialised(network, stack), options, providers=["CPUExecutionProvider"])
        except InputError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class
            if type(error).__module__.startswith("onnxruntime"):
                raise CannotRunError(f"onnxruntime cannot run the model: {one_line(error)}") from error
            raise


def _serialised(network: Network, stack: contextlib.ExitStack) -> bytes | str:
    if sum(value.nbytes for value in network.weights.values()) <= _PROTOBUF_LIMIT:
        model: ModelProto = network.proto()
        return bytes(model.SerializeToString())
    folder = stack.enter_context(temporary_folder())
    path = Path(folder) / "model.onnx"
    network.save(path)
    return str(path)


def run(session: onnxruntime.InferenceSession, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The session's outputs by name; of `feed`, what it does not take is left out.

    Raises:
        CannotRunError: onnxruntime cannot run it.
    """
    names = [value.name for value in session.get_outputs()]
    taken = {value.name: feed[value.name] for value in session.get_inputs()}
    samples = max((len(value) for value in taken.values() if np.ndim(value)), default=1)
    try:
        with within_stage("a run", _SECONDS + _SECONDS_A_SAMPLE * samples):
            return dict(zip(names, interruptible(lambda: session.run(names, taken)), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise CannotRunError(f"onnxruntime cannot run the model: {one_line(error)}") from error
