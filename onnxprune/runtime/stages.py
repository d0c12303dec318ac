"""Runs a network over many samples from node to node, so that its weights can be changed on the way.

What is live between two places is kept for every batch: running on costs no more than one pass over the network in
all. Beyond a limit it is kept on disk, so that memory stays bounded.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from onnx import ModelProto, helper

from onnxprune.common.temporary import temporary_folder
from onnxprune.graph.network import Network, reads
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.random_inputs import Inputs

_IN_MEMORY = 2**29  # bytes of live tensors


class Stages:
    """One pass over a network, batch by batch, that stops where it is told to.

    Args:
        batches: the inputs of each batch.
    """

    def __init__(self, network: Network, batches: Sequence[Inputs]) -> None:
        self.network = network
        self.place = 0
        self._folder = temporary_folder()
        self._live: list[dict[str, np.ndarray | Path]] = [dict(batch) for batch in batches]
        self._numbers: dict[str, int] = {}  # names may hold what no path can
        self._readers: dict[str, int] = {}
        for index, node in enumerate(network.nodes):
            for name in reads(node):
                self._readers[name] = index
        for name in network.outputs:
            self._readers[name] = len(network.nodes)

    def __enter__(self) -> "Stages":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._live)

    def advance(self, place: int, keep: Iterable[str] = ()) -> None:
        """Runs the nodes before `place`; of what they read, only what later nodes read too is kept, and `keep`."""
        if place <= self.place:
            return
        nodes = self.network.nodes[self.place : place]
        wanted = set(keep)
        made = [name for node in nodes for name in node.output if name]
        outputs = [name for name in made if self._readers.get(name, -1) >= place or name in wanted]
        inner = set(made)
        inputs = sorted({name for node in nodes for name in reads(node)} - inner - set(self.network.weights))
        if outputs:
            self._run(nodes, inputs, outputs)
        self.place = place
        for live in self._live:
            for name in [name for name in live if self._readers.get(name, -1) < place and name not in wanted]:
                self._drop(live.pop(name))

    def again(self, nodes: Iterable[int], output: str) -> None:
        """Runs nodes again whose weights have changed since, for a tensor that is live, as all that they read is."""
        chosen = [self.network.nodes[place] for place in sorted(nodes)]
        made = {name for node in chosen for name in node.output}
        inputs = sorted({name for node in chosen for name in reads(node)} - made - set(self.network.weights))
        self._run(chosen, inputs, [output])

    def _run(self, nodes: Sequence, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        part = Network(ModelProto(), dict(self.network.weights))
        part.model.CopyFrom(self.network.model)
        first = self._read(self._live[0], inputs)
        del part.model.graph.input[:], part.model.graph.output[:]
        for name in inputs:
            kind = helper.np_dtype_to_tensor_dtype(first[name].dtype)
            # of some operators onnxruntime wants to know the ranks: they follow from those of what it is fed. Of
            # Attention it takes a width that it does not know for 0
            shape = _common([_loaded(live[name]).shape for live in self._live])
            part.model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        part.replace_nodes(nodes)
        with open_network(part, outputs) as session:
            for number, live in enumerate(self._live):
                found = run(session, self._read(live, inputs))
                spills = sum(value.nbytes for value in found.values()) * len(self._live) > _IN_MEMORY
                for name, value in found.items():
                    live[name] = self._store(number, name, value) if spills else value

    def value(self, batch: int, name: str) -> np.ndarray:
        """A live tensor of a batch."""
        return _loaded(self._live[batch][name])

    def values(self, name: str) -> Iterator[np.ndarray]:
        """A live tensor, batch by batch."""
        for batch in range(len(self._live)):
            yield self.value(batch, name)

    def is_live(self, name: str) -> bool:
        """Whether the tensor can be read here."""
        return name in self._live[0]

    def _read(self, live: Mapping[str, np.ndarray | Path], names: Iterable[str]) -> Inputs:
        return {name: _loaded(live[name]) for name in names}

    def _store(self, batch: int, name: str, value: np.ndarray) -> Path:
        path = Path(self._folder.name) / f"{self._numbers.setdefault(name, len(self._numbers))}-{batch}.npy"
        np.save(path, value)
        return path

    def _drop(self, found: np.ndarray | Path) -> None:
        if isinstance(found, Path):
            found.unlink()


def _common(shapes: Sequence[Shape]) -> list[int | None] | None:
    """The sizes that are the same in all; None where their ranks differ."""
    if len(set(map(len, shapes))) > 1:
        return None
    return [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True)]


def _loaded(found: np.ndarray | Path) -> np.ndarray:
    """A tensor, of which only what is looked at is read from the disk; open files cannot be removed on Windows."""
    if not isinstance(found, Path):
        return found
    return np.load(found, mmap_mode=None if sys.platform == "win32" else "c")
