"""Whether two pruned networks are one: what is left of them, and what is done with it, is the same to the last bit."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from onnxprune.pruning.remove import Pruned


def network_identity(pruned: Pruned, treatment: Mapping[str, Any]) -> str:
    """Sixteen hex digits that equal networks share, whatever technique and sparsity they come from.

    Masks count where they remove something; what keeps all of a layer is no mask, of whatever shape.

    Args:
        treatment: how the network is trained and measured, as JSON values.
    """
    parts = [json.dumps(treatment, sort_keys=True), str(pruned.network), str((pruned.whole_layers, pruned.in_file))]
    found = hashlib.sha256("\n".join(parts).encode())
    for tensors in (pruned.network.state_dict(), _removing(pruned.held), _removing(pruned.unit_masks)):
        for name in sorted(tensors):
            array = tensors[name].detach().cpu().contiguous().numpy()
            found.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
    return found.hexdigest()[:16]


def _removing(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask.bool() for name, mask in masks.items() if not bool(mask.all())}
