"""What moves, cuts and joins elements, and says sizes."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.bridge.operators.call import Call, Value, number, numbers, operator, padded, together


@operator("Reshape", numbers=(1,))
def _reshape(call: Call, data: Tensor, target: Value) -> Tensor:
    sizes = numbers(target)
    if not call.attribute("allowzero", 0):
        sizes = [data.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return data.reshape(sizes)


@operator("Flatten")
def _flatten(call: Call, data: Tensor) -> Tensor:
    axis = call.attribute("axis", 1)
    axis = axis + data.dim() if axis < 0 else axis
    return data.reshape(math.prod(data.shape[:axis]), -1)


@operator("Transpose")
def _transpose(call: Call, data: Tensor) -> Tensor:
    return data.permute(call.attribute("perm", list(reversed(range(data.dim())))))


@operator("Squeeze", numbers=(1,))
def _squeeze(call: Call, data: Tensor, axes: Value = None) -> Tensor:
    given = call.attribute("axes") if axes is None else numbers(axes)
    return data.squeeze() if given is None else data.squeeze(tuple(given))


@operator("Unsqueeze", numbers=(1,))
def _unsqueeze(call: Call, data: Tensor, axes: Value = None) -> Tensor:
    given = call.attribute("axes") if axes is None else numbers(axes)
    for axis in sorted(axis % (data.dim() + len(given)) for axis in given):
        data = data.unsqueeze(axis)
    return data


@operator("Concat")
def _concat(call: Call, *values: Value) -> Tensor:
    return torch.cat(together(*values), call.attribute("axis"))


@operator("Split", numbers=(1,))
def _split(call: Call, data: Tensor, sizes: Value = None) -> list[Tensor]:
    axis, parts = call.attribute("axis", 0), len(call.node.output)
    given = call.attribute("split") if sizes is None else numbers(sizes)
    return list(data.split(given or -(-data.shape[axis] // parts), axis))


@operator("Slice", numbers=(1, 2, 3, 4))
def _slice(call: Call, data: Tensor, *rest: Value) -> Tensor:
    if rest:
        starts, ends, axes, steps = ([None if part is None else numbers(part) for part in rest] + [None, None])[:4]
    else:
        starts, ends, axes, steps = call.attribute("starts"), call.attribute("ends"), call.attribute("axes"), None
    assert starts is not None and ends is not None
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] % data.dim() if axes else place
        step = steps[place] if steps else 1
        size = data.shape[axis]
        if step > 0:
            data = data[(slice(None),) * axis + (slice(*slice(start, end, step).indices(size)),)]
        else:
            chosen = range(*slice(start, end if end > -size - 1 else None, step).indices(size))
            data = data.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=data.device))
    return data


@operator("Gather")
def _gather(call: Call, data: Value, places: Value) -> Tensor:
    table, index = together(data, places)
    axis = call.attribute("axis", 0) % table.dim()
    index = torch.where(index < 0, index + table.shape[axis], index)
    found = table.index_select(axis, index.flatten())
    return found.reshape(*table.shape[:axis], *index.shape, *table.shape[axis + 1 :])


@operator("GatherElements")
def _gather_elements(call: Call, data: Value, places: Value) -> Tensor:
    table, index = together(data, places)
    axis = call.attribute("axis", 0) % table.dim()
    return table.gather(axis, torch.where(index < 0, index + table.shape[axis], index))


@operator("Pad", numbers=(1, 2, 3))
def _pad(call: Call, data: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    amounts = call.attribute("pads") if pads is None else numbers(pads)
    half = len(amounts) // 2
    which = [axis % data.dim() for axis in numbers(axes)] if axes is not None else list(range(half))
    whole = [0] * 2 * data.dim()
    for place, axis in enumerate(which):
        whole[axis], whole[data.dim() + axis] = amounts[place], amounts[half + place]
    mode = call.attribute("mode", "constant")
    if mode == "constant":
        filler = call.attribute("value", 0.0) if value is None else number(value)
        return padded(data, whole, float(filler))
    flat = [amount for axis in reversed(range(data.dim())) for amount in (whole[axis], whole[data.dim() + axis])]
    while len(flat) > 2 and flat[-2:] == [0, 0] and len(flat) // 2 > data.dim() - 2:
        flat = flat[:-2]
    kinds = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return F.pad(data, flat, kinds[mode])


@operator("Expand", numbers=(1,))
def _expand(call: Call, data: Tensor, target: Value) -> Tensor:
    return data.expand(torch.broadcast_shapes(data.shape, tuple(numbers(target))))


@operator("Tile", numbers=(1,))
def _tile(call: Call, data: Tensor, repeats: Value) -> Tensor:
    return data.repeat(numbers(repeats))


@operator("Resize", "Upsample", numbers=(1, 2, 3))
def _resize(call: Call, data: Tensor, *rest: Value) -> Tensor:
    scales, sizes = (list(rest) + [None] * 3)[1:3] if call.opset >= 11 else (rest[0] if rest else None, None)
    rank = data.dim()
    axes = [axis % rank for axis in call.attribute("axes", range(rank))]
    how: dict[str, Any]
    if sizes is not None:
        target = dict(enumerate(data.shape)) | dict(zip(axes, numbers(sizes), strict=True))
        how = {"size": [target[axis] for axis in range(2, rank)]}
        stay = (target[0], target[1]) == data.shape[:2]
    else:
        factors = call.attribute("scales") if scales is None else numbers(scales)
        if not factors:
            raise call.refused("neither scales nor sizes")
        by = dict.fromkeys(range(rank), 1.0) | dict(zip(axes, factors, strict=True))
        how = {"scale_factor": [by[axis] for axis in range(2, rank)], "recompute_scale_factor": False}
        stay = by[0] == by[1] == 1
    if not stay or call.attribute("antialias", 0) or call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refused("antialias, a policy, or other axes than those of places")
    where = call.attribute("coordinate_transformation_mode", "half_pixel" if call.opset >= 11 else "asymmetric")
    mode = call.attribute("mode", "nearest")
    if mode == "nearest" and where == "asymmetric" and call.attribute("nearest_mode", "floor") == "floor":
        return F.interpolate(data, mode="nearest", **how)
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners") and rank in (3, 4):
        kind = "linear" if rank == 3 else "bilinear"
        return F.interpolate(data, mode=kind, align_corners=where == "align_corners", **how)
    raise call.refused(f"mode {mode} and {where}")


@operator("DepthToSpace")
def _depth_to_space(call: Call, data: Tensor) -> Tensor:
    block = call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(data, block)
    count, channels, height, width = data.shape
    parts = data.view(count, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(count, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def _space_to_depth(call: Call, data: Tensor) -> Tensor:
    block = call.attribute("blocksize")
    count, channels, height, width = data.shape
    parts = data.view(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(count, channels * block**2, height // block, width // block)


@operator("Size")
def _size(call: Call, data: Tensor) -> np.ndarray:
    return np.array(data.numel(), np.int64)


@operator("Shape")
def _shape(call: Call, data: Tensor) -> np.ndarray:
    return np.array(data.shape[call.attribute("start", 0) : call.attribute("end")], np.int64)


for _name, _function in {
    "Dropout": lambda call, data, *rest: data,
    "Identity": lambda call, data: data,
}.items():
    operator(_name)(_function)
