"""How many of torchvision's classification networks can `onnxprune prune` shrink, and how far, beside onnxsim?

    python benchmarks/coverage.py export FOLDER
    python benchmarks/coverage.py prune FOLDER RESULTS.jsonl
    python benchmarks/coverage.py peer FOLDER RESULTS.jsonl PYTHON
    python benchmarks/coverage.py table RESULTS.jsonl

`export` writes every network with random weights, by the TorchScript and by the dynamo exporter (which needs
onnxscript: `pip install ".[bench]"`), at the smallest image that it takes. `prune` takes half of the units of every
layer by l1, without data and without repair; `peer` lets onnxsim's apply_structured_pruning do the same, in an
interpreter that has onnxsim. What exists is left alone, so that each of them goes on where it was stopped. `table`
writes COVERAGE.md beside this file. `file` prints one result.

The files are compact: float constants of more than 4096 elements have no data, but the seed, the mean and the deviation
of their random numbers. `restore` fills them in.
"""

import argparse
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.common.errors import OnnxpruneError, one_line
from onnxprune.common.torchvision import torchvision_module
from onnxprune.graph.folding import static_names
from onnxprune.graph.macs import OPERATORS, Site
from onnxprune.graph.network import Network, label_of, read
from onnxprune.graph.nodes import operator_type, subgraphs
from onnxprune.reduction.preparation import TOLERANCE, prepare
from onnxprune.runtime.execution import trace

EXPORTERS = {"ts": "TorchScript", "dynamo": "dynamo"}
OURS, PEER = "onnxprune", "onnxsim"
SHARE = 0.4  # of the params of layers that can go, from which on a network counts as shrunk
MOST = 4096  # elements of a constant that is written out
MASK_VALUES = 16  # different values of a constant that is written out at any size
MEMORY = 12 << 30
TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

# simplified: prepared as its authors advise
PEER_CODE = """
import json, sys, time
import onnx, onnxsim
source, target, simplified = sys.argv[1:]
model = onnx.load(source)
start = time.perf_counter()
if simplified == "simplified":
    model, good = onnxsim.simplify(model)
    if not good:
        raise RuntimeError("the simplified model is not equal to the original")
model = onnxsim.apply_structured_pruning(model, 0.5)
seconds = time.perf_counter() - start
large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 1 << 30
onnx.save(model, target, save_as_external_data=large, location="pruned.data" if large else None)
print(json.dumps({"seconds": seconds, "version": onnxsim.__version__.lstrip("v")}))
"""


# ------------------------------------------------------------------------------------------------- compact files


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Initializers and the values of Constant nodes, those of subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (item.t for item in node.attribute if item.name == "value")
        for inner in subgraphs(node):
            yield from tensors(inner)


def compact(model: ModelProto, folder: Path) -> None:
    """Replaces the data of large constants by what `restore` makes them of."""
    for number, tensor in enumerate(tensors(model.graph)):
        array = numpy_helper.to_array(tensor, str(folder))
        if array.size > MOST and tensor.data_type in TYPES and len(np.unique(array)) > MASK_VALUES:
            how = {"seed": number, "scale": float(array.std(dtype=float)), "mean": float(array.mean(dtype=float))}
            for field in ("raw_data", "float_data", "double_data", "int32_data", "external_data", "data_location"):
                tensor.ClearField(field)
            tensor.doc_string = json.dumps(how)
        elif tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def restore(path: Path, target: Path) -> None:
    """Writes the model with its weights: the same at every call."""
    model = onnx.load(path)
    size = 0
    for tensor in tensors(model.graph):
        if tensor.doc_string.startswith('{"seed"'):
            how = json.loads(tensor.doc_string)
            array = np.random.default_rng(how["seed"]).standard_normal(int(np.prod(tensor.dims)), np.float32)
            array = array * np.float32(how["scale"]) + np.float32(how["mean"])
            tensor.raw_data = array.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type), copy=False).tobytes()
            tensor.doc_string = ""
        size += len(tensor.raw_data)
    large = size > 1 << 30
    onnx.save(model, target, save_as_external_data=large, location=f"{target.name}.data" if large else None)


# ------------------------------------------------------------------------------------------------- export


def image_sizes(name: str) -> tuple[int, ...]:
    """Sizes of the image, to be tried in this order; at the smallest, some networks lack what makes them hard."""
    if name == "vit_h_14":
        return (28,)
    if name.startswith("vit"):
        return (32,) if name.endswith("16") else (64,)
    if name.startswith("swin"):
        return (64,)  # at 32 no window is shifted
    if name.startswith(("alexnet", "maxvit", "vgg")):
        return (224,)
    return (96, 128, 299) if name == "inception_v3" else (32, 64, 96, 128, 160, 224, 299)


def network(name: str, size: int) -> Any:
    """A torchvision network with random weights, and statistics by which its activations neither vanish nor grow."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    settings: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": False}
    net = torchvision_module().models.get_model(name, weights=None, **settings).eval()
    done: set[int] = set()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, norms):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                gain = 2 if isinstance(module, nn.Conv2d) else 1
                module.weight.normal_(0, (gain / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1)
            else:
                continue
            done.update(id(weight) for weight in module.parameters(recurse=False))
        for key, weight in net.named_parameters():
            if id(weight) in done:
                continue
            if "layer_scale" in key:
                weight.uniform_(0.1, 1.0)
            elif key.endswith("logit_scale"):
                weight.mul_(torch.empty_like(weight).uniform_(0.8, 1.2))
            else:
                weight.normal_(0, weight.shape[1] ** -0.5 if key.endswith("in_proj_weight") else 0.1)

        def settle(module: Any, inputs: Any) -> None:
            scale = inputs[0].square().mean().sqrt()
            module.running_mean.normal_(0, 0.1).mul_(scale)
            module.running_var.uniform_(0.5, 1.5).mul_(scale**2)

        hooks = [item.register_forward_pre_hook(settle) for item in net.modules() if isinstance(item, norms[0])]
        net(torch.randn(2, 3, size, size))
        for hook in hooks:
            hook.remove()
    return net


def export_one(name: str, exporter: str, target: Path) -> None:
    """Writes one compact file, at the first size that can be exported.

    Raises:
        RuntimeError: none can.
    """
    torchvision_module()
    import torch

    problems = []
    for size in image_sizes(name):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            net, image = network(name, size), torch.randn(2, 3, size, size)
            names: dict[str, Any] = {"input_names": ["input"], "output_names": ["logits"]}
            try:
                if exporter == "ts":
                    axes = {key: {0: "batch"} for key in ("input", "logits")}
                    torch.onnx.export(net, (image,), path, dynamo=False, opset_version=18, dynamic_axes=axes, **names)
                else:
                    shapes = ({0: torch.export.Dim("batch")},)
                    torch.onnx.export(net, (image,), path, dynamo=True, dynamic_shapes=shapes, **names)
                macs(path)  # runs it with a batch of another size
            except Exception as error:  # the exporters' errors share no base class
                problems.append(f"{size}: {one_line(error)}")
                continue
            model = onnx.load(path, load_external_data=False)
            compact(model, Path(folder))
            onnx.helper.set_model_props(model, {"image_size": str(size), "exporter": exporter})
            part = target.with_suffix(".part")
            onnx.save(model, part)
            part.replace(target)
            return
    raise RuntimeError("; ".join(problems))


def export(folder: Path, limit: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    models = torchvision_module().models
    for name in models.list_models(module=models):
        for exporter in EXPORTERS:
            target = folder / f"{name}.{exporter}.onnx"
            if not target.exists():
                _, problem = child(["export-one", name, exporter, str(target)], limit)
                say(f"{target.name}: {problem or 'written'}")


# ------------------------------------------------------------------------------------------------- measuring


def macs(path: Path) -> int:
    """MACs of one sample, from the shapes of a real run: of what depends on the input, so no weights being computed."""
    whole = read(path)
    feed = {}
    for value in whole.model.graph.input:
        _, *rest = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
        feed[value.name] = np.random.default_rng(0).standard_normal((1, *rest), np.float32)
    found = trace(whole, feed, [])
    static = static_names(whole)
    total = 0
    for node in whole.nodes:
        kind = operator_type(node)
        if kind in OPERATORS and not all(name in static for name in node.output if name):
            shapes = [[found.shapes.get(name) for name in names] for names in (node.input, node.output)]
            total += sum(product.macs for product in OPERATORS[kind].products(Site(node, *shapes)))
    return total


def params(whole: Network, nodes: set[str] | None = None) -> int:
    """Floating-point numbers stored; of these nodes alone where they are given."""
    names = {name for node in whole.nodes if nodes is None or label_of(node) in nodes for name in node.input}
    return sum(value.size for name, value in whole.weights.items() if name in names and value.dtype.kind == "f")


def ours(path: Path, folder: Path) -> dict[str, Any]:
    """What `onnxprune prune --sparsity 50` makes of a file."""
    source, target = folder / "model.onnx", folder / "pruned.onnx"
    restore(path, source)
    row: dict[str, Any] = {"macs_before": macs(source), "params_before": params(read(source))}
    start = sum(os.times()[:4])  # of the processor, children's too
    report = onnxprune.prune(
        source, sparsity=50, criterion="l1", channel_align=1, recovery=(), latency=False, output=target
    )
    row["seconds"] = sum(os.times()[:4]) - start
    free = {name for group in report.groups if group.frozen is None for name in group.producers}
    pruned = read(target)
    frozen = [group for group in report.groups if group.frozen]
    return row | {
        "macs": macs(target),
        "params": params(pruned),
        "prunable_before": params(prepare(source).graph.network, free),
        "prunable": params(pruned, free),
        "check": report.check,
        "groups": len(report.groups),
        "reasons": Counter(group.frozen for group in frozen),
        "frozen": {group.producers[0]: [group.units, group.frozen, group.frozen_by] for group in frozen},
        "version": onnxprune.__version__,
    }


def peers(path: Path, folder: Path, python: str, limit: float) -> dict[str, Any]:
    """What onnxsim makes of a file as it is, or simplified before: whichever leaves fewer MACs."""
    source, target = folder / "model.onnx", folder / "pruned.onnx"
    restore(path, source)
    row: dict[str, Any] = {"macs_before": macs(source), "params_before": params(read(source))}
    found, problems = [], []
    for how in ("plain", "simplified"):
        try:
            done = subprocess.run(
                [python, "-c", PEER_CODE, str(source), str(target), how], capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            problems.append(f"{how}: over {limit:g} s")
            continue
        if done.returncode:
            problems.append(f"{how}: {last_line(done.stderr)}")
            continue
        try:
            left = {"macs": macs(target), "params": params(read(target))}
        except OnnxpruneError as error:
            problems.append(f"{how}: its result cannot be run: {one_line(error)}")
            continue
        found.append({"how": how, **json.loads(done.stdout.splitlines()[-1]), **left})
    if not found:
        return row | {"error": "; ".join(problems)}
    return row | min(found, key=lambda item: item["macs"]) | {"problems": problems}


def one_file(path: Path, python: str | None, limit: float) -> dict[str, Any]:
    """The row of one file."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = ours(path, Path(folder)) if python is None else peers(path, Path(folder), python, limit)
        except OnnxpruneError as error:
            row = {"error": one_line(error)}
    name, exporter, _ = path.name.rsplit(".", 2)
    about = {"model": name, "exporter": exporter, "tool": OURS if python is None else PEER}
    return about | row | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


# ------------------------------------------------------------------------------------------------- all files


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def child(arguments: list[str], limit: float) -> tuple[str, str | None]:
    """What this script prints with these arguments, and what went wrong: in a process with limits."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=limited
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "", f"over {limit:g} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return output, last_line(errors) if process.returncode else None


def rows(results: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The last row of every file and tool."""
    found = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {(row["model"], row["exporter"], row["tool"]): row for row in found}


def measure(folder: Path, results: Path, python: str | None, limit: float, again: str | None) -> None:
    """Adds the rows that are missing, and those of the files whose names match `again`."""
    known = rows(results)
    for path in sorted(folder.glob("*.onnx")):
        name, exporter, _ = path.name.rsplit(".", 2)
        tool = OURS if python is None else PEER
        if (name, exporter, tool) in known and not (again and re.search(again, path.name)):
            continue
        peer = [] if python is None else ["--peer", python]
        output, problem = child(["file", str(path), "--limit", str(limit), *peer], (1 if python is None else 3) * limit)
        row = json.loads(output) if problem is None else {"error": problem}
        row = {"model": name, "exporter": exporter, "tool": tool} | row
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        left = "" if "error" in row else f" MACs left {row['macs'] / row['macs_before']:.3f}"
        say(f"{path.name} {tool}:{left} {row.get('error', '')}")


# ------------------------------------------------------------------------------------------------- table


def left(row: dict[str, Any], what: str) -> float:
    """Share of MACs or params that is left; 1 where nothing was made."""
    return float(row[what] / row[f"{what}_before"]) if what in row else 1.0


def gone(row: dict[str, Any]) -> float:
    """Share of the params of layers that can go that went."""
    return 1 - row["prunable"] / row["prunable_before"] if row.get("prunable_before") else 0.0


def shrinks(row: dict[str, Any]) -> bool:
    return "error" not in row and gone(row) >= SHARE and row["check"] <= TOLERANCE


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def reasons(row: dict[str, Any]) -> str:
    """What is frozen: reasons without names, and how many groups stay for each."""
    counts: Counter[str] = Counter()
    for reason, number in row["reasons"].items():
        counts[re.sub(r" '[^']*'", " ...", reason).removesuffix(" ...")] += number
    return "; ".join(f"{reason} ({number})" for reason, number in counts.most_common())


def markdown(headings: list[str], lines: Iterable[Iterable[str]]) -> str:
    """A table whose first two columns, and the last one, are words."""
    rule = [" --- " if place in (0, 1, len(headings) - 1) else " ---: " for place in range(len(headings))]
    return "\n".join(["| " + " | ".join(line) + " |" for line in (headings, *lines)]).replace(
        "\n", "\n|" + "|".join(rule) + "|\n", 1
    )


def named(names: Iterable[str]) -> str:
    """How many they are, and which."""
    names = sorted(names)
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def summary(own: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]], every: Iterable[str]) -> list[str]:
    """What came of the files of one exporter, by network; `every`: the names of all networks."""
    good = [name for name, row in own.items() if shrinks(row)]
    whole = [name for name, row in other.items() if left(row, "macs") == 1]
    both = [name for name, row in own.items() if name in other and name not in whole and left(row, "macs") < 1]
    worse = [name for name in both if own[name]["macs"] > other[name]["macs"]]
    lines = [
        f"- {len(good)} of {len(own)} shrink and equal the masked original; do not: {named(own.keys() - set(good))}.",
        f"- Not tried: {named(set(every) - own.keys())}.",
        f"- {PEER} shrinks {len(other) - len(whole)} of {len(other)}, and leaves whole: {named(whole)}.",
    ]
    if both:
        means = [percent(float(np.mean([left(part[name], "macs") for name in both]))) for part in (own, other)]
        lines.append(
            f"- Of the {len(both)} that both shrink, {OURS} leaves {means[0]} % of the MACs on average and {PEER} "
            f"{means[1]} %; {OURS} leaves more of: {named(worse)}."
        )
    return lines


def row_of(name: str, exporter: str, own: dict[str, Any], other: dict[str, Any]) -> list[str]:
    if "error" in own or not own:
        return [name, exporter, *(["-"] * 7), own.get("error", "not tried")]
    sizes = [percent(left(row, what)) if row else "-" for what in ("params", "macs") for row in (own, other)]
    return [name, exporter, *sizes, percent(gone(own)), f"{own['check']:.0e}", f"{own['seconds']:.1f}", reasons(own)]


def table(results: Path, target: Path) -> None:
    found = rows(results)
    versions = {tool: row["version"] for (*_, tool), row in found.items() if "version" in row}
    models = torchvision_module().models
    every = models.list_models(module=models)
    both = {name for (name, _, tool), row in found.items() if tool == OURS and shrinks(row)}
    sections = [f"By one exporter or both, {len(both)} of {len(every)} networks shrink and equal the masked original."]
    for exporter, title in EXPORTERS.items():
        own, other = (
            {name: row for (name, how, made_by), row in found.items() if (how, made_by) == (exporter, tool)}
            for tool in (OURS, PEER)
        )
        sections += [f"## {title} exporter", "\n".join(summary(own, other, every))]
    names = sorted({key[:2] for key in found}, key=lambda key: (key[0], list(EXPORTERS).index(key[1])))
    lines = [row_of(*name, found.get((*name, OURS), {}), found.get((*name, PEER), {})) for name in names]
    headings = f"network, exporter, params left, {PEER}, MACs left, {PEER}, gone, check, seconds, frozen".split(", ")
    sections += ["## Networks", markdown(headings, lines)]
    head = f"""# Coverage: torchvision's classification networks

Every network that torchvision has a constructor for, with random weights, exported to ONNX by both exporters and pruned
by onnxprune {versions.get(OURS, "")} and by `apply_structured_pruning` of onnxsim {versions.get(PEER, "")}:
half of the units of every layer, by their norm, without data and without repair. Made by `coverage.py`, which says how.

A network shrinks if at least {100 * SHARE:.0f} % of the params of the layers that can go are gone: column *gone*. All
shares are in percent. MACs are those of one sample, counted from the shapes of a real run, for both tools alike; for
onnxsim, of the file as it is or simplified, whichever leaves fewer. *Check* is the largest difference between the
shrunk network and the original with the removed units masked, relative to the largest value; over {TOLERANCE:.0e}
nothing is written. *Seconds* are those of the processor for the whole command. *Frozen* says why groups of units stay,
and how many do. What is *not tried*, for want of memory or time, nothing is known of.

Made on {platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}, onnx {onnx.__version__},
onnxruntime {onnxruntime.__version__}:

```sh
python benchmarks/coverage.py export files
python benchmarks/coverage.py prune files results.jsonl
python benchmarks/coverage.py peer files results.jsonl PYTHON
python benchmarks/coverage.py table results.jsonl
```"""
    target.write_text("\n\n".join([head, *sections]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    limits = argparse.ArgumentParser(add_help=False)
    limits.add_argument("--limit", type=float, default=900, help="seconds for a file")
    again = argparse.ArgumentParser(add_help=False)
    again.add_argument("--again", help="regular expression: files that are measured again")
    parts.add_parser("export", parents=[limits]).add_argument("folder", type=Path)
    one = parts.add_parser("export-one")
    one.add_argument("name")
    one.add_argument("exporter", choices=EXPORTERS)
    one.add_argument("target", type=Path)
    for name in ("prune", "peer"):
        part = parts.add_parser(name, parents=[limits, again])
        part.add_argument("folder", type=Path)
        part.add_argument("results", type=Path)
        if name == "peer":
            part.add_argument("python", help="an interpreter that has onnxsim")
    single = parts.add_parser("file", parents=[limits])
    single.add_argument("path", type=Path)
    single.add_argument("--peer", help="an interpreter that has onnxsim")
    parts.add_parser("table").add_argument("results", type=Path)
    options = parser.parse_args()
    if options.part == "export":
        export(options.folder, options.limit)
    elif options.part == "export-one":
        export_one(options.name, options.exporter, options.target)
    elif options.part == "file":
        say(json.dumps(one_file(options.path, options.peer, options.limit)))
    elif options.part == "table":
        table(options.results, Path(__file__).parent / "COVERAGE.md")
    else:
        measure(options.folder, options.results, getattr(options, "python", None), options.limit, options.again)


if __name__ == "__main__":
    main()
