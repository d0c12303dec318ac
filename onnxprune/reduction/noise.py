"""Inputs where there are no data: noise whose neighbours are alike, as those of pictures and sounds are."""

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.network import Network
from onnxprune.runtime.random_inputs import Inputs

_BATCHES = 8
_BATCH = 32
_MOST_MACS = 3e10  # for one pass over all of them
_LONG = 8  # places of an axis along which neighbours are alike


def noise(network: Network, feed: Inputs, macs: float, seed: int = 0) -> list[Inputs]:
    """Batches of standard normal noise, whose power falls with frequency along long axes as in natural images.

    Field 1987, J. Opt. Soc. Am. A 4. None at all where the network has inputs that are not floating-point numbers,
    or is so large that they would take long.

    Args:
        feed: inputs that the network takes; where it fixes the size of a batch, those of their shapes.
        macs: of the network, for one sample.
    """
    if any(array.dtype.kind != "f" or not array.ndim for array in feed.values()):
        return []
    size = network.fixed_batch
    if macs * (size or _BATCH) * _BATCHES > _MOST_MACS:
        return []
    random = np.random.default_rng(seed)
    shapes = {name: (_BATCH if size is None else array.shape[0], *array.shape[1:]) for name, array in feed.items()}
    return [
        {name: _smooth(random, shapes[name]).astype(array.dtype) for name, array in feed.items()}
        for _ in range(_BATCHES)
    ]


def _smooth(random: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    found = random.standard_normal(shape)
    for axis in range(1, len(shape)):
        if shape[axis] > _LONG:
            frequencies = np.fft.rfftfreq(shape[axis])
            frequencies[0] = frequencies[1]
            along = [-1 if other == axis else 1 for other in range(len(shape))]
            spectrum = np.fft.rfft(found, axis=axis) / np.sqrt(frequencies).reshape(along)
            found = np.fft.irfft(spectrum, n=shape[axis], axis=axis)
    return found / max(float(found.std()), 1e-12)
