"""How important the units of a group are, judged by the weights alone."""

import numpy as np

from onnxprune.graph.channels import ChannelGraph, Group


def norms(graph: ChannelGraph, group: Group, order: int) -> np.ndarray:
    """Norms of the rows that make each unit (units,), each producer relative to its mean: l1, l2.

    Source: Li et al. 2017, 1608.08710.
    """
    total = np.zeros(len(group.units))
    for rows in _producer_rows(graph, group):
        size = np.abs(rows).sum(1) if order == 1 else np.sqrt(np.square(rows).sum(1))
        total += size / max(size.mean(), np.finfo(np.float64).tiny)
    return total


def geometric_median(graph: ChannelGraph, group: Group) -> np.ndarray:
    """Sum of the distances of each unit's weights to those of the others (units,): fpgm.

    Source: He et al. 2019, 1811.00250.
    """
    total = np.zeros(len(group.units))
    for rows in _producer_rows(graph, group):
        square = np.square(rows).sum(1)
        distances = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * rows @ rows.T, 0)).sum(1)
        total += distances / max(distances.mean(), np.finfo(np.float64).tiny)
    return total


def _producer_rows(graph: ChannelGraph, group: Group) -> list[np.ndarray]:
    """For each producer, the weights that make each unit (units, weights), float64."""
    unit_of = np.full(graph.count, -1)
    for number, labels in enumerate(group.units):
        unit_of[labels] = number
    found = []
    for cut in graph.cuts:
        if cut.role != "producer":
            continue
        owner = unit_of[cut.labels]
        value = graph.network.weights[graph.network.nodes[cut.node].input[cut.position]]
        if value.ndim < 2 or (owner < 0).all():  # biases are no part of the norm
            continue
        rows = np.moveaxis(value, cut.axis, 0).reshape(value.shape[cut.axis], -1).astype(np.float64)
        order = np.argsort(owner, kind="stable")
        order = order[owner[order] >= 0]
        counts = np.bincount(owner[order], minlength=len(group.units))
        if counts.min() != counts.max():  # a unit that this producer does not make
            sums = np.zeros((len(group.units), 1))
            np.add.at(sums[:, 0], owner[order], np.abs(rows[order]).sum(1))
            found.append(sums)
        else:
            found.append(rows[order].reshape(len(group.units), -1))
    return found
