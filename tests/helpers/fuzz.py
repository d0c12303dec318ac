"""Damaged ONNX files, and running many of them through onnxprune in a process of their own."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.defs
from onnx import AttributeProto, ModelProto, TensorProto, helper

REPOSITORY = Path(__file__).parents[2]
BACKEND = Path(onnx.__file__).parent / "backend/test/data"
SECONDS = 5
MEMORY = 3 * 2**30


def foreign_files() -> list[Path]:
    """The models that the onnx package carries."""
    return sorted(BACKEND.rglob("*.onnx"))


_WHOLE = [-1, 0, 1, 2, 7, 255, 10**6, 2**31 - 1, 2**31, 10**18, -(2**63), 2**63 - 1]
_ABSURD: dict[str, list[Any]] = {
    "int": _WHOLE,
    "float": [float("nan"), float("inf"), -1.0, 1e30],
    "str": ["", "x", "y" * 100_000, "Conv", "Loop", "Reshape"],
    "bytes": [b"", b"\x00", bytes(1000), b"\xff" * 64],
}
_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})
_PROPERTIES = ["classes", "mean", "std", "input_shape", "normalisation", "dataset", "sparsity", "accuracy", "base"]
_TEXTS = ["", "[]", "{}", "null", "[0]", "[NaN]", "[1e400]", "-1", "[[[[", "[1, 12, 12]", "9" * 400, '["a"]', "\x1b[2J"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One damage: bytes changed, cut, inserted, a field of the protobuf set to something absurd, or one to three
    changes of structure, after which it is still a protobuf."""
    kind = rng.choice(["flip", "cut", "insert", *3 * ["field"], *4 * ["structure"]])
    at = rng.randrange(len(data))
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice([1, 3, 10])):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(changed)
    if kind == "cut":
        return data[:at] + data[at + rng.randrange(1, len(data)) :]
    if kind == "insert":
        return data[:at] + rng.randbytes(rng.randrange(1, 50)) + data[at:]
    model = onnx.load_from_string(data)
    if kind == "field":
        _edit(model, rng)
    else:
        for _ in range(rng.randrange(1, 4)):
            rng.choice(_CHANGES)(model, rng)
    return model.SerializeToString()


def _edit(model: ModelProto, rng: random.Random) -> None:
    """Changes one field of a message found by walking down at random."""
    message = model.graph
    while True:
        field, value = rng.choice(message.ListFields())
        if field.message_type is None:
            break
        inner = rng.choice(list(value)) if field.is_repeated else value
        if not inner.ListFields():
            return
        if field.is_repeated and rng.random() < 0.1:
            getattr(message, field.name).append(inner)
            return
        message = inner
    sample = value[0] if field.is_repeated else value
    while True:
        new = rng.choice(_ABSURD[type(sample).__name__])
        try:
            if field.is_repeated:
                getattr(message, field.name)[rng.randrange(len(value))] = new
            else:
                setattr(message, field.name, new)
            return
        except ValueError:  # out of the field's range
            continue


def _node(model: ModelProto, rng: random.Random) -> Any:
    return rng.choice(model.graph.node) if model.graph.node else onnx.NodeProto()


def _tensor(model: ModelProto, rng: random.Random) -> Any:
    return rng.choice(model.graph.initializer) if model.graph.initializer else TensorProto()


def _value(model: ModelProto, rng: random.Random) -> str:
    """Name of anything there is."""
    named = [*model.graph.input, *model.graph.initializer, *model.graph.output]
    return rng.choice([value.name for value in named] + [name for node in model.graph.node for name in node.output])


def _remove_node(model: ModelProto, rng: random.Random) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def _repeat_node(model: ModelProto, rng: random.Random) -> None:
    node = onnx.NodeProto()
    node.CopyFrom(_node(model, rng))
    if node.output and rng.random() < 0.5:
        node.output[0] = _value(model, rng) + "_again"
    model.graph.node.insert(rng.randrange(len(model.graph.node) + 1), node)


def _move_node(model: ModelProto, rng: random.Random) -> None:
    if model.graph.node:
        node = model.graph.node.pop(rng.randrange(len(model.graph.node)))
        model.graph.node.insert(rng.randrange(len(model.graph.node) + 1), node)


def _other_operator(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).op_type = rng.choice([_node(model, rng).op_type, rng.choice(_OPERATORS)])


def _rewire(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([_value(model, rng), ""])


def _more_inputs(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input and rng.random() < 0.5:
        del node.input[-1]
    else:
        node.input.append(_value(model, rng))


def _rename(model: ModelProto, rng: random.Random) -> None:
    rng.choice([_node(model, rng), _tensor(model, rng), *model.graph.input, *model.graph.output]).name = _value(
        model, rng
    )


def _other_type(model: ModelProto, rng: random.Random) -> None:
    kind = rng.randrange(24)
    if rng.random() < 0.5:
        _tensor(model, rng).data_type = kind
    else:
        rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.elem_type = kind


def _other_sizes(model: ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    if rng.random() < 0.5 and tensor.dims:
        where = rng.randrange(len(tensor.dims))
        tensor.dims[where] = rng.choice([*_WHOLE, tensor.dims[where] * 2])
        if rng.random() < 0.3:
            tensor.dims.append(1)
    else:
        shape = rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.shape
        size = rng.choice(shape.dim) if shape.dim and rng.random() < 0.8 else shape.dim.add()
        size.dim_value = rng.choice(_WHOLE)


def _other_attribute(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.attribute and rng.random() < 0.3:
        del node.attribute[rng.randrange(len(node.attribute))]
        return
    names = [attribute.name for attribute in node.attribute] + ["axis", "axes", "pads", "group", "perm", "to", "body"]
    name = rng.choice(names)
    for place, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[place]
            break
    whole = [rng.choice(_WHOLE) for _ in range(rng.randrange(5))]
    values = [rng.choice(_WHOLE), rng.choice(_ABSURD["float"]), "same", _tensor(model, rng)]
    if whole:
        values += [whole, whole]
    try:
        node.attribute.append(helper.make_attribute(name, rng.choice(values)))
    except (TypeError, ValueError):
        node.attribute.append(AttributeProto(name=name))


def _other_ends(model: ModelProto, rng: random.Random) -> None:
    ends = rng.choice([model.graph.input, model.graph.output])
    if ends and rng.random() < 0.3:
        del ends[rng.randrange(len(ends))]
    else:
        ends.append(helper.make_tensor_value_info(_value(model, rng), rng.choice([1, 7, 8, 9]), [2, "n"]))


def _other_property(model: ModelProto, rng: random.Random) -> None:
    known = [entry.key for entry in model.metadata_props]
    key, value = rng.choice([*known, *_PROPERTIES]), rng.choice(_TEXTS)
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)


def _other_version(model: ModelProto, rng: random.Random) -> None:
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice([1, 6, 9, 11, 13, 17, 20, 23, *_WHOLE])


_CHANGES: list[Callable[[ModelProto, random.Random], None]] = [
    _remove_node, _repeat_node, _move_node, _other_operator, _rewire, _more_inputs, _rename, _other_type, _other_sizes,
    _other_attribute, _other_attribute, _other_ends, _other_property, _other_version,
]  # fmt: skip


def outcomes(paths: list[Path], check: str) -> Iterator[tuple[Path, str, str, float]]:
    """Of each file: "ok", "refused" (InputError), "failed" (another exception) or "crashed"; the message; seconds.

    Args:
        check: "profile" (all but latency), "probe", or "prune" (half of it, beside the file).
    """
    left = list(paths)
    while left:
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), check, *map(str, left)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        for path, (outcome, message, seconds) in zip(left, rows, strict=False):
            yield path, outcome, message, seconds
        left = left[len(rows) :]
        if left:
            yield left.pop(0), "crashed", f"{done.returncode}: {done.stderr[-500:]}", 0


def _main(check: str, paths: list[str]) -> None:
    import signal

    from onnxprune.analysis.profiling import profile
    from onnxprune.common.errors import InputError
    from onnxprune.reduction.prune import prune
    from onnxprune.runtime import ahead
    from onnxprune.runtime.probe import probe

    ahead.start = lambda function, **how: ahead.Forked()  # type: ignore[assignment,return-value]
    checks = {
        "profile": lambda path: profile(path, latency=False),
        "probe": probe,
        "prune": lambda path: prune(path, sparsity=50, latency=False),
    }
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for path in map(Path, paths):
        start = time.monotonic()
        signal.alarm((12 if check == "prune" else 2) * SECONDS)  # kills the process, which counts as a crash
        try:
            checks[check](path)
            row = ["ok", ""]
        except InputError as error:
            row = ["refused", str(error)]
        except Exception as error:
            row = ["failed", f"{type(error).__name__}: {error}"[:1000]]
        signal.alarm(0)
        print(json.dumps([*row, time.monotonic() - start]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
