"""Networks of the user's own code: found, built, told apart, refused."""

import copy
import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import torch
import warm
from command_line import onnxprune
from torch import nn
from torch.nn.utils import weight_norm as former_weight_norm

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.models import MODELS, model_title, reference
from onnxprune.models.copies import make_copyable
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.sweep import Sweep
from onnxprune.study import pool
from onnxprune.study.controller import run_sweep
from onnxprune.study.feasibility import check_prunable
from onnxprune.study.jobs import Job, Materials, perform
from onnxprune.study.rerun import rerun
from onnxprune.training.batches import memory_format

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, classes, width=8):
        super().__init__()
        self.stem = nn.Conv2d(input_shape[0], width, 1, stride=2)
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, 12, 3, padding=1)
        self.answer = nn.Linear(12, classes)

    def forward(self, images):
        images = self.stem(images)
        images = torch.relu(images + self.one(images))
        return self.answer(torch.relu(self.two(images)).mean((2, 3)))


def by_position(shape, count):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], count))


def nothing(num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))


def needs(depth):
    return nn.Identity()


def fails():
    raise ValueError("no luck")


def stops():
    raise SystemExit("enough")


def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 5))


def text():
    return "net"


def wrong_shape():
    return nn.Linear(5, 5)


number = 3
ready = few()
"""
SETTINGS = {"dataset": "digits", "train_limit": 200, "epochs": 1, "finetune_epochs": 1, "latency_seconds": 0}


@pytest.fixture
def code(tmp_path: Path) -> str:
    path = tmp_path / "mynet.py"
    path.write_text(CODE)
    return str(path)


def built(reference: str, **arguments: object) -> nn.Module:
    return MODELS[reference].build((1, 2, 2), 5, 0, model_args=json.dumps(arguments) if arguments else None)


def test_sizes_are_given_as_the_code_takes_them(code: str) -> None:
    net = built(f"{code}:Net", width=6)
    assert (net.stem.in_channels, net.stem.out_channels, net.answer.out_features) == (1, 6, 5)
    assert built(f"{code}:by_position")[1].weight.shape == (5, 4)
    assert built(f"{code}:nothing")[1].out_features == 5
    assert built(f"{code}:nothing", num_classes=7)[1].out_features == 7
    assert isinstance(built("torch.nn:Identity"), nn.Identity)
    assert model_title(f"{code}:Net") == "mynet-Net"


@pytest.mark.parametrize("line", ["torch.rand(3)", "torch.manual_seed(7)"])
def test_what_a_file_draws_when_it_is_run_has_no_say_in_the_weights(line: str, tmp_path: Path) -> None:
    (tmp_path / "draws.py").write_text(f"import torch\nfrom torch import nn\n{line}\n{CODE}")
    model = f"{tmp_path / 'draws.py'}:few"
    first, again, other = (
        built(model)[1].weight,
        built(model)[1].weight,
        MODELS[model].build((1, 2, 2), 5, 1, model_args=None)[1].weight,
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_are_decided_by_the_seed(code: str) -> None:
    first, again, other = (MODELS[f"{code}:Net"].build((1, 4, 4), 3, seed, model_args=None) for seed in (1, 1, 2))
    assert (first.stem.weight == again.stem.weight).all()
    assert not (first.stem.weight == other.stem.weight).all()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("needs", {}, "needs depth: give them with --model-args"),
        ("Net", {"depth": 2}, "takes no 'depth': it takes input_shape, classes, width"),
        ("fails", {}, r"mynet.py, line 33: ValueError: no luck"),
        ("stops", {}, r"mynet.py, line 37: SystemExit: enough"),
        ("text", {}, "makes a str: expected a torch.nn.Module"),
        ("number", {}, "has no class or function 'number'"),
        ("missing", {}, "has no class or function 'missing'"),
        ("ready", {}, "'ready' is a network: expected a class or a function that builds one"),
    ],
)
def test_what_does_not_build_a_network_is_one_line(name: str, arguments: dict[str, int], words: str, code: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        built(f"{code}:{name}", **arguments)
    assert "\n" not in str(caught.value)


def test_files_beside_a_network_come_before_modules_of_their_names_for_it_alone(tmp_path: Path) -> None:
    """Python's own `queue` is imported already, its `cmd` perhaps not; its `time` comes first even for scripts."""
    code = (
        "import cmd\nimport time\nfrom queue import layer\n\nimport helper\nfrom torch import nn\n\ntime.time()\n\n\n"
    )
    code += "def net():\n    return nn.Sequential(layer(), cmd.layer(), helper.layer())\n"
    for folder, width in (("one", 3), ("two", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "nets.py").write_text(code)
        for name in ("queue", "cmd", "helper", "time", "random"):
            beside = f"from torch import nn\n\n\ndef layer():\n    return nn.Linear(4, {width})\n"
            (tmp_path / folder / f"{name}.py").write_text(beside)
    before = {name: sys.modules.get(name) for name in ("queue", "cmd", "random")}
    for folder, width in (("one", 3), ("two", 5), ("one", 3)):
        assert [layer.out_features for layer in built(f"{tmp_path / folder / 'nets.py'}:net")] == [width] * 3
    assert {name: sys.modules.get(name) for name in before} == before
    for name in before:
        assert not hasattr(importlib.import_module(name), "layer")


def test_code_that_python_cannot_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\nclass Net(:\n")
    with pytest.raises(InputError, match=r"bad.py, line 2: invalid syntax"):
        built(f"{tmp_path / 'bad.py'}:Net")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("gone.py:Net", "no such file gone.py"),
        ("no.such.module:Net", "there is no module no.such.module"),
        ("mynet.py", "mynet.py:NAME"),
        ("mynet.py:a-b", r"expected FILE.py:NAME"),
        ("net.onnx", "net.onnx': no such file"),
        ("resnet", r"Your own network: FILE.py:NAME"),
        (lambda shape, classes: None, "^model: expected a class or a function at the top level of a file"),
    ],
)
def test_a_model_that_is_none_is_refused(model: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Sweep.parse({**SETTINGS, "model": model})


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("mynet.py", "model 'mynet.py': which class or function of it builds the network? mynet.py:NAME"),
        ("mynet.py:", "model 'mynet.py:': expected FILE.py:NAME or package.module:NAME"),
        ("gone.py:Net", "model 'gone.py:Net': no such file gone.py"),
        ("gone.onnx", "model 'gone.onnx': no such file"),
        ("", "model: unknown model ''"),
    ],
)
def test_the_model_is_said_once(model: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        Sweep.parse({**SETTINGS, "model": model, "technique": "weight"})
    assert str(caught.value).startswith(line)


def test_settings_of_own_networks(code: str) -> None:
    plan = Sweep.parse({**SETTINGS, "model": f"{code}:Net", "model_args": '{"width" : 4}'})
    assert plan.points[0].model_args == '{"width":4}'
    assert Sweep.parse({**SETTINGS, "model": f"{code}:Net", "model_args": {"width": 4}}).points == plan.points
    with pytest.raises(InputError, match="expected a JSON object"):
        Sweep.parse({**SETTINGS, "model": f"{code}:Net", "model_args": "width=4"})
    with pytest.raises(InputError, match=r"model_args: it is an option of a network of your own"):
        Sweep.parse({**SETTINGS, "model": "cnn", "model_args": "{}"})


def test_a_sweep_of_own_code_and_again_when_it_changed(code: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "model": f"{code}:Net", "technique": "structured,weight", "sparsity": "0,50"}
    plan = Sweep.parse(settings)
    outcome = run_sweep(plan, tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    table = outcome.table.set_index(["technique", "sparsity"])
    assert table.loc[("structured", 50.0), "macs"] < 0.6 * table.loc[("structured", 0.0), "macs"]
    assert table.loc[("weight", 50.0), "achieved_sparsity"] == pytest.approx(50, abs=0.1)
    assert (table["parity_max_abs_diff"] < 1e-4).all()
    assert all(folder.startswith("mynet-Net-digits-") for folder in table["folder"])
    assert len(list((tmp_path / "runs" / "bases").glob("mynet-Net-*"))) == 1
    before = [point.base_id("x") for point in plan.points]
    Path(code).write_text(CODE.replace("width=8", "width=6"))
    assert [point.base_id("x") for point in plan.points] != before
    with pytest.raises(InputError, match="holds 4 points of another study"):
        run_sweep(plan, tmp_path / "runs", workers=1)
    run_sweep(plan, tmp_path / "runs", workers=1, others="replace")
    assert len(list((tmp_path / "runs" / "bases").glob("mynet-Net-*"))) == 2


def test_kept_layers_lose_nothing_and_those_coupled_to_them_neither(code: str, tmp_path: Path) -> None:
    """`stem` and `one` meet in a sum."""
    settings = {**SETTINGS, "model": f"{code}:Net", "technique": "structured", "sparsity": 50, "epochs": 0}
    whole = run_sweep(Sweep.parse({**settings, "finetune_epochs": 0}), tmp_path / "a", workers=1).table
    kept = run_sweep(Sweep.parse({**settings, "finetune_epochs": 0, "keep": "stem"}), tmp_path / "a", workers=1).table
    parts = 8 + 8 * 8 * 9 + 8 * 12 * 9  # of each pixel behind the stride
    pixels = (whole["base_macs"].item() - 12 * 10) / parts
    assert pixels == int(pixels)
    assert kept["macs"].item() == pixels * (8 + 8 * 8 * 9 + 8 * 6 * 9) + 6 * 10
    assert whole["macs"].item() == pixels * (4 + 4 * 4 * 9 + 4 * 6 * 9) + 6 * 10
    weights = run_sweep(
        Sweep.parse({**settings, "finetune_epochs": 0, "technique": "weight", "keep": "stem,answer"}),
        tmp_path / "a",
        workers=1,
    ).table
    assert weights["nonzero_params"].item() == 8 + 8 + 8 * 8 * 9 // 2 + 8 + 8 * 12 * 9 // 2 + 12 + 12 * 10 + 10
    with pytest.raises(InputError, match="there is no layer 'head' to prune: there are stem, one, two, answer"):
        run_sweep(Sweep.parse({**settings, "keep": "head"}), tmp_path / "b", workers=1)
    assert not list((tmp_path / "b").glob("bases/*"))


def test_a_logit_a_class_is_wanted_before_anything_is_trained(code: str, tmp_path: Path) -> None:
    plan = Sweep.parse({**SETTINGS, "model": f"{code}:few", "technique": "weight", "sparsity": 50})
    with pytest.raises(InputError, match=r"gives \(2, 5\) for two images, expected \(2, 10\)"):
        run_sweep(plan, tmp_path, workers=1)
    assert not list(tmp_path.glob("bases/*"))


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"there is no module broken_package.nets .ZeroDivisionError"):
        MODELS.canonical("broken_package.nets:Net")


def test_a_package_in_the_current_folder_is_found_and_a_file_of_it_is_told_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package_here"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "layers.py").write_text("from torch.nn import Linear\n")
    (package / "nets.py").write_text(
        "from torch import nn\n\nfrom .layers import Linear\n\n\n"
        "def net(input_shape, classes):\n    return nn.Sequential(nn.Flatten(), Linear(4, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InputError, match=r"nets.py, line 3: ImportError: .*: give a file of a package as package.mod"):
        built(f"{package / 'nets.py'}:net")
    before = list(sys.path)
    assert isinstance(built("package_here.nets:net"), nn.Module)
    assert sys.path == [*before, str(tmp_path)]


def test_what_a_package_has_is_given_in_python_as_it_is_and_workers_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of a file with relative imports, whose own code is in a decorator's file; the package lies in no
    current folder."""
    package = tmp_path / "elsewhere" / "package_there"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "marks.py").write_text(
        "import functools\n\n\ndef marked(make):\n    @functools.wraps(make)\n    def made(**sizes):\n"
        "        return make(**sizes)\n\n    return made\n"
    )
    (package / "nets.py").write_text(
        "from torch import nn\n\nfrom .marks import marked\n\n\n@marked\ndef net(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))\n"
    )
    elsewhere = list(sys.path)
    monkeypatch.syspath_prepend(package.parent)

    def start(*arguments: Any, **how: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", elsewhere)  # a process that is forked has that of its parent, a fresh one not
            return warm.Fresh(*arguments, **how)

    monkeypatch.setattr(pool, "start", start)
    given = {"model": importlib.import_module("package_there.nets").net, "technique": "weight", "sparsity": "50,60"}
    plan = Sweep.parse({**SETTINGS, **given})
    assert plan.points[0].model == "package_there.nets:net"
    outcome = run_sweep(plan, tmp_path / "runs", workers=2, verbosity=Verbosity.QUIET)
    assert (outcome.failures, len(outcome.table)) == ({}, 2)


def test_a_module_whose_file_changed_is_refused_until_it_is_imported_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python imports a file once: what it was would be told as what it is."""
    code = "from torch import nn\n\n\ndef net(classes):\n    return nn.Linear({}, classes)\n"
    (tmp_path / "module_changed.py").write_text(code.format(3))
    monkeypatch.syspath_prepend(tmp_path)
    name = "module_changed:net"
    assert built(name).in_features == 3
    (tmp_path / "module_changed.py").write_text(code.format(44))
    refused = f"model '{name}': its file changed after it was imported: start Python again, or importlib.reload"
    (point,) = Sweep.one_point({"model": name, "technique": "weight", "sparsity": 50}).points
    with pytest.raises(InputError, match=f"^{re.escape(refused)}"):
        check_prunable([point], Materials(None))
    importlib.reload(sys.modules["module_changed"])
    assert built(name).in_features == built(name).in_features == 44


def test_the_command_refuses_before_it_trains(code: str, tmp_path: Path) -> None:
    done = onnxprune("run", "--model", f"{code}:wrong_shape", "--dataset", "digits", "--out", str(tmp_path / "runs"))
    assert done.returncode == 2, done.stderr
    assert "wrong_shape" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("bases/*"))


def test_a_fault_of_forward_is_told_with_its_line(tmp_path: Path) -> None:
    lines = ["from torch import nn", "class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    lines += [
        "        self.fc = nn.Linear(784, 10)",
        "    def forward(self, images):",
        "        return self.fd(images)",
    ]
    (tmp_path / "faulty.py").write_text("\n".join(lines))
    plan = Sweep.parse({"model": f"{tmp_path / 'faulty.py'}:Net", "technique": "weight", "sparsity": [0]})
    with pytest.raises(InputError, match=r"faulty.py, line 7: AttributeError: 'Net' object has no attribute 'fd'"):
        run_sweep(plan, tmp_path / "runs")


# what a network may do, though it is not as usual as those of the package
UNUSUAL = """
import random

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.rate = torch.linspace(0, 0.4, 3)[1].item()
        self.shift = torch.ones(1)
        self.conv, self.norm = nn.LazyConv2d(6, 3, stride=2), nn.LazyBatchNorm2d()
        self.hidden, self.last = nn.LazyLinear(12), nn.Linear(12, classes)

    def forward(self, images):
        found = self.norm(self.conv(images)).relu() + self.shift + torch.zeros(1)
        found = self.hidden(found.view(images.size(0), -1)).relu()
        if self.training and random.random() < 0.5:
            found = 2 * found
        return self.last(nn.functional.dropout(found, self.rate, self.training))
"""


def test_lazy_layers_views_and_chance_are_studied_and_made_again_bit_for_bit(tmp_path: Path) -> None:
    """A `view` of what a convolution gives wants the usual layout in memory; what a Dropout drops depends on nothing
    that has run before."""
    (tmp_path / "unusual.py").write_text(UNUSUAL)
    settings = {**SETTINGS, "model": f"{tmp_path / 'unusual.py'}:Net", "technique": "structured,weight", "sparsity": 50}
    outcome = run_sweep(Sweep.parse({**settings, "batch_size": 50}), tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    for folder in outcome.table["folder"]:
        (found,) = rerun(outcome.folder / folder, tmp_path / "again" / folder)
        assert found.differences == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("return found, images", "while it trains the network gives a tuple for 2 images, expected a tensor"),
        ("return {'logits': found}", "while it trains the network gives a dict"),
        ("return found.softmax(1)", "gives probabilities, expected logits: leave out the softmax"),
        ("return found + torch.rand(10)", "in evaluation mode the network draws random numbers"),
        ("return found.reshape(int(images.shape[0]), 10)", r"takes no 3 images at a time: .* int\(x.shape\[0\]\)"),
        ("return found if found.sum() > 0 else -found", r"odd.py, line 9: .* choose by torch.where, not by `if`"),
        ("return found - found.mean(0, keepdim=True)", "its answer to an image depends on the other images of a batch"),
        (
            "return found.squeeze()",
            r"it gives \(30,\) for 3 images one by one, \(3, 10\) for all at once: a squeeze\(\)",
        ),
        ("return found * float('nan')", "the network's answers are no finite numbers"),
        ("return found.detach()", "nothing of the network can be trained: no parameter that its answers depend on"),
        ("return (found.bfloat16() @ torch.eye(10).bfloat16()).float()", "its exported file does not run: .*not find"),
    ],
)
def test_what_a_file_cannot_express_is_one_line_before_anything_is_trained(
    line: str, words: str, tmp_path: Path
) -> None:
    lines = ["import torch", "from torch import nn", "class Net(nn.Module):", "    def __init__(self):"]
    lines += ["        super().__init__()", "        self.fc = nn.Linear(784, 10)", "    def forward(self, images):"]
    lines += ["        found = self.fc(images.flatten(1))", f"        {line}"]
    (tmp_path / "odd.py").write_text("\n".join(lines))
    plan = Sweep.parse({"model": f"{tmp_path / 'odd.py'}:Net", "technique": "weight", "sparsity": [0]})
    with pytest.raises(InputError, match=words) as caught:
        run_sweep(plan, tmp_path / "runs")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_network_without_parameters_is_refused_with_that_reason(tmp_path: Path) -> None:
    lines = ["from torch import nn", "class Net(nn.Module):", "    def forward(self, images):"]
    (tmp_path / "none.py").write_text("\n".join([*lines, "        return images.flatten(1)[:, :10]"]))
    plan = Sweep.parse({"model": f"{tmp_path / 'none.py'}:Net", "technique": "weight", "sparsity": [0]})
    with pytest.raises(InputError, match="the network has no parameters: there is nothing to train"):
        run_sweep(plan, tmp_path / "runs")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("torch.jit.script(layers)", "the network is made by torch.jit: give the module that it was made from"),
        ("nn.Sequential(layers[0], torch.jit.script(layers[1]))", "1 is made by torch.jit: give the module"),
        ("torch.compile(layers)", "the network is made by torch.compile: give the module"),
        ("torch.ao.quantization.quantize_dynamic(layers)", "its state has '1.*quantised layers"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_made_of_a_module_is_refused_for_it(made: str, words: str, tmp_path: Path) -> None:
    code = f"layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\ndef build():\n    return {made}\n"
    (tmp_path / "made.py").write_text(f"import torch\nfrom torch import nn\n{code}")
    with pytest.raises(InputError, match=words):
        reference.build(f"{tmp_path / 'made.py'}:build", (1, 28, 28), 10, {})


NAMED = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.hidden, self.last = nn.Linear(784, 12), nn.Linear(12, classes)

    def forward(self, images, *, mask=None, scale=2.0):
        return scale * self.last(self.hidden(images.flatten(1)).relu())
"""


def test_a_way_forward_may_take_more_by_name(tmp_path: Path) -> None:
    (tmp_path / "named.py").write_text(NAMED)
    settings = {**SETTINGS, "model": f"{tmp_path / 'named.py'}:Net", "technique": "structured", "sparsity": 50}
    outcome = run_sweep(Sweep.parse(settings), tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    assert set(outcome.table["macs"]) == {784 * 6 + 6 * 10}


# what PyTorch allows, and what came out only once networks were trained
LATE = """
import os

import torch
from torch import nn
from torch.nn.utils import weight_norm

os.chdir("/")
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=4, dtype=torch.float32)
        self.deep = nn.Conv3d(1, 12, (1, 9, 9), dtype=torch.float32)
        self.normed = weight_norm(nn.Linear(8 * 7 * 7, 12, dtype=torch.float32))
        self.aside, self.last = (nn.Linear(size, classes, dtype=torch.float32) for size in (8 * 7 * 7, 12))

    def forward(self, images):
        found = self.conv(images).relu()
        deep = self.deep(images.unsqueeze(1)).mean((2, 3, 4))
        answers = self.last(self.normed(found.flatten(1)).relu() + deep)
        return answers + self.aside(found.view(len(found), -1)) if self.training else answers
"""


def test_former_weight_norms_other_convolutions_and_ways_that_only_training_takes(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    settings = {**SETTINGS, "model": f"{tmp_path / 'late.py'}:Net", "technique": "structured,weight", "sparsity": 50}
    before = Path.cwd(), torch.get_default_dtype()
    outcome = run_sweep(Sweep.parse(settings), tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    assert (Path.cwd(), torch.get_default_dtype()) == before and torch.is_grad_enabled()
    assert len(outcome.table) == 2


VERSIONED = """
from torch import nn


class Net(nn.Sequential):  # as torchvision's MNASNet
    _version = 2

    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, classes))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != self._version:
            raise ValueError("version should be set to 2")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
"""


def test_networks_that_ask_for_the_version_of_their_state(tmp_path: Path) -> None:
    (tmp_path / "versioned.py").write_text(VERSIONED)
    settings = {**SETTINGS, "model": f"{tmp_path / 'versioned.py'}:Net", "technique": "structured", "sparsity": 50}
    outcome = run_sweep(Sweep.parse(settings), tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    (weights,) = (tmp_path / "runs").glob("bases/*/checkpoint.safetensors")
    again = {**settings, "weights": str(weights), "epochs": 0, "name": "again"}
    table = run_sweep(Sweep.parse(again), tmp_path / "runs", workers=1).table
    assert table["base_accuracy"].tolist() == outcome.table["base_accuracy"].tolist()


SPECTRAL = """
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.present = nn.Conv2d(1, 8, 3, stride=4), parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))
        self.former, self.last = spectral_norm(nn.Linear(8 * 5 * 5, 12)), nn.Linear(12, classes)

    def forward(self, images):
        return self.last(self.former(self.present(self.conv(images).relu()).relu().flatten(1)).relu())
"""


def test_weights_that_spectral_norm_computes_stay(tmp_path: Path) -> None:
    (tmp_path / "spectral.py").write_text(SPECTRAL)
    settings = {**SETTINGS, "model": f"{tmp_path / 'spectral.py'}:Net", "technique": "structured", "sparsity": 50}
    outcome = run_sweep(Sweep.parse(settings), tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    (record,) = (store.finished_record(outcome.folder / folder) or {} for folder in outcome.table["folder"])
    assert record["layers"] == {"conv": {"units": 8, "kept": 4}}


def test_a_way_that_only_training_takes_may_want_the_usual_layout() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.conv(images)
            answers: torch.Tensor = self.last(found.mean((2, 3)))
            return answers + found.view(len(found), -1)[:, :3] if self.training else answers

    network, state = Net().train(), torch.get_rng_state()
    assert memory_format(network, (1, 8, 8)) == torch.channels_last
    assert memory_format(network, (1, 8, 8), trains=True) == torch.contiguous_format
    assert network.training and all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert memory_format(nn.Sequential(nn.Conv3d(1, 1, 1)), (1, 8, 8)) == torch.contiguous_format


TALKS = """
import logging
import os
import warnings

from torch import nn

print("CHATTER of the file")
os.system("echo CHATTER of another program")
logging.basicConfig(level=logging.INFO)
logging.info("CHATTER in a log")


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        print("CHATTER of the network")
        warnings.warn("CHATTER as a warning")
        logging.warning("CHATTER in a log")
        self.last = nn.Linear(784, classes)

    def forward(self, images):
        print("CHATTER of its way forward")
        logging.getLogger("own").warning("CHATTER in a log")
        return self.last(images.flatten(1))
"""


@pytest.mark.usefixtures("brief_probe")
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--workers", "2"]])
def test_what_code_prints_and_logs_does_not_reach_the_terminal(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(TALKS)
    command = ["sweep", "--model", "talks.py:Net", "--dataset", "digits", "--technique", "weight"]
    command += ["--sparsity", "0,50,70", "--train-limit", "100", "--epochs", "1", "--finetune-epochs", "0"]
    done = onnxprune(*command, "--latency-seconds", "0", "--out", "runs", "--json", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert "CHATTER" not in done.stderr and "INFO" not in done.stderr
    if not more:
        assert "CHATTER of its way forward" in "".join(path.read_text() for path in tmp_path.glob("runs/*/*/log.txt"))


def test_layers_that_keep_all_of_their_units_are_named(tmp_path: Path) -> None:
    (tmp_path / "norms.py").write_text(
        "from torch import nn\n\n\ndef net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32),"
        " nn.LayerNorm(32), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, classes))\n"
    )
    (point,) = Sweep.one_point({"model": f"{tmp_path / 'norms.py'}:net", "technique": "structured"}).points
    materials = Materials(None)
    check_prunable([point, dataclasses.replace(point, technique="weight")], materials)
    (note,) = materials.notes
    assert note.endswith("layers that keep all of their units: 1 (LayerNormalization looks across them)")


def test_layers_of_kinds_that_are_not_pruned_are_named(tmp_path: Path) -> None:
    (tmp_path / "kinds.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, classes):\n"
        "        super().__init__()\n        self.front, self.other = nn.Conv1d(28, 30, 1), nn.Conv1d(30, 28, 1)\n"
        "        self.rows, self.last = nn.LSTM(28, 20), nn.Linear(20, classes)\n\n    def forward(self, images):\n"
        "        found, _ = self.rows(self.other(self.front(images[:, 0])).transpose(1, 2).transpose(0, 1))\n"
        "        return self.last(found[-1])\n"
    )
    (point,) = Sweep.one_point({"model": f"{tmp_path / 'kinds.py'}:Net", "technique": "weight", "sparsity": 50}).points
    materials = Materials(None)
    check_prunable([point], materials)
    (note,) = materials.notes
    numbers = (28 * 30 + 30) + (30 * 28 + 28) + 4 * 20 * (28 + 20 + 2)
    share = f"{100 * numbers / (numbers + 20 * 10 + 10):.0f} % of the parameters"
    assert note.endswith(f"layers of kinds that are not pruned, with {share}: front, other (Conv1d); rows (LSTM)")


# weights that are not simply those of a layer of PyTorch's own class
WEIGHTS = """
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Own(nn.Linear):
    pass


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.frozen, self.own = nn.Linear(784, 10).requires_grad_(False), Own(10, 12)
        self.one, self.other, self.last = nn.Linear(12, 12), nn.Linear(12, 12), weight_norm(nn.Linear(12, classes))
        self.other.weight = self.one.weight

    def forward(self, images):
        found = torch.sigmoid(self.own(torch.sigmoid(self.frozen(images.flatten(1)))))
        return self.last(torch.relu(self.one(found)) + self.other(found))
"""


def test_derived_frozen_shared_and_computed_weights(tmp_path: Path) -> None:
    """The shared ones are counted once; what is computed stays. A sigmoid makes something of a unit that is zero."""
    (tmp_path / "weights.py").write_text(WEIGHTS)
    settings = {**SETTINGS, "model": f"{tmp_path / 'weights.py'}:Net", "sparsity": 50}
    settings |= {"technique": "neuron,unstructured", "criterion": "taylor"}
    outcome = run_sweep(Sweep.parse(settings), tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    table = outcome.table.set_index("technique")
    assert table.loc["unstructured", "achieved_sparsity"] == 50
    weights = 784 * 10 + 10 * 12 + 12 * 12
    masks = safetensors.numpy.load_file(outcome.folder / table.loc["unstructured", "folder"] / "masks.safetensors")
    assert {name: mask.size for name, mask in masks.items()} == {"frozen": 7840, "own": 120, "one": 144}
    assert sum(int(mask.sum()) for mask in masks.values()) == weights // 2
    assert table.loc["neuron", "macs"] == 784 * 5 + 5 * 6 + 6 * 6 * 2 + 6 * 10


def test_two_processes_train_a_network_of_own_code(code: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "model": f"{code}:Net", "technique": "structured", "sparsity": 50, "devices": 2}
    assert run_sweep(Sweep.parse(settings), tmp_path / "runs", workers=1).failures == {}


def test_code_that_changes_while_its_study_runs_is_told_as_that(code: str, tmp_path: Path) -> None:
    (point,) = Sweep.one_point({"model": f"{code}:Net", "technique": "weight", "sparsity": 0.0}).points
    materials = Materials(None)
    folder = tmp_path / point.point_id(materials.dataset(point).checksum)
    with Path(code).open("a") as file:
        file.write("# another\n")
    with pytest.raises(RunError, match=r"or the file of model .* changed while the study ran"):
        perform(Job(folder, point, tmp_path, None, RetryPolicy()), materials, Reporter(1, Verbosity.QUIET))


def test_former_weight_norms_keep_what_they_have_and_what_is_frozen() -> None:
    network = nn.Sequential(former_weight_norm(nn.Linear(8, 4)), former_weight_norm(nn.Linear(4, 4)))
    network[0].weight_g.requires_grad_(False)
    network[0].weight_v.data *= 3
    nn.init.zeros_(network[1].weight_g)
    images = torch.rand(3, 8)
    before = network(images)
    make_copyable(network)
    assert torch.equal(network(images), before)
    parts = [network[0].parametrizations.weight.original0, network[0].parametrizations.weight.original1]
    assert [part.requires_grad for part in parts] == [False, True]
    copy.deepcopy(network)


def test_what_is_kept_back_of_the_output_does_not_come_later(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import ctypes\nimport sys\n\nfrom torch import nn\n\nsys.__stdout__.write('LATE')\n"
        "ctypes.CDLL(None).printf(b'LATE')\n\n\n"
        "def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))\n"
    )
    command = ["run", "--model", "late.py:net", "--dataset", "digits", "--technique", "weight", "--json", "--dry-run"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune", *command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["points"]


def test_a_network_that_cannot_be_sent_is_refused_before_two_processes_train_it(tmp_path: Path) -> None:
    (tmp_path / "normed.py").write_text(
        "from torch import nn\nfrom torch.nn.utils.parametrizations import weight_norm\n\n\ndef net(classes):\n"
        "    return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(784, 16)), nn.ReLU(), nn.Linear(16, classes))\n"
    )
    settings = {**SETTINGS, "model": f"{tmp_path / 'normed.py'}:net", "technique": "weight", "sparsity": 50}
    with pytest.raises(InputError, match=r"cannot be sent to other processes: .*; expected --devices 1"):
        run_sweep(Sweep.parse({**settings, "devices": 2}), tmp_path / "runs", workers=1)
    assert not (tmp_path / "runs").exists()


# the head: a layer before a log-softmax, and none that is called
HEADS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.last = nn.Linear(784, 8), nn.Linear(8, classes)

    def forward(self, images):
        return self.last(torch.relu(self.first(images.flatten(1)))).log_softmax(1)


class Headless(Net):
    def forward(self, images):
        return torch.einsum("nc,kc->nk", torch.relu(self.first(images.flatten(1))), self.last.weight)
"""


def test_the_head_alone_is_trained_before_a_log_softmax_or_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "heads.py").write_text(HEADS)
    settings = {**SETTINGS, "technique": "structured", "sparsity": 50, "freeze_features": True, "epochs": 2}
    outcome = run_sweep(
        Sweep.parse({**settings, "model": f"{tmp_path / 'heads.py'}:Net"}), tmp_path / "runs", workers=1
    )
    assert outcome.failures == {}
    (checkpoint,) = tmp_path.glob("runs/bases/*/checkpoint.safetensors")
    trained = safetensors.numpy.load_file(checkpoint)
    untrained = MODELS[f"{tmp_path / 'heads.py'}:Net"].build((1, 28, 28), 10, 0, model_args=None).state_dict()
    assert (trained["first.weight"] == untrained["first.weight"].numpy()).all()
    assert (trained["last.weight"] != untrained["last.weight"].numpy()).any()
    headless = Sweep.one_point({**settings, "model": f"{tmp_path / 'heads.py'}:Headless"}).points
    with pytest.raises(InputError, match=r"no layer gives the outputs of the network: its head cannot be found"):
        check_prunable(headless, Materials(None))
    weights = tmp_path / "five.safetensors"
    safetensors.numpy.save_file({**trained, "last.weight": trained["last.weight"][:5]}, weights)
    other = Sweep.one_point({**settings, "model": f"{tmp_path / 'heads.py'}:Headless", "weights": str(weights)}).points
    with pytest.raises(InputError, match=r"no layer gives the outputs of the network: its head cannot be found"):
        check_prunable(other, Materials(None))


# networks that keep what they compute
KEEPS = """
import torch
from torch import nn
from torch.nn.utils import spectral_norm


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, classes)

    def forward(self, images):
        found = torch.relu(self.first(images))
        self.attention = torch.sigmoid(found)
        self.second.seen = {"input": [found * self.attention]}
        return self.last(torch.relu(self.second(*self.second.seen["input"])).mean((2, 3)))


class Running(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.register_buffer("mean", torch.zeros(classes))

    def forward(self, images):
        answers = super().forward(images)
        self.mean = 0.9 * self.mean + answers.mean(0)
        return answers


class Spectral(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.second, self.last = spectral_norm(self.second), spectral_norm(self.last)


class View(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.first.rows = self.first.weight.view(8, 9)


class Box:
    pass


class Boxed(Net):
    def forward(self, images):
        self.first.box = Box()
        self.first.box.answers = super().forward(images)
        return self.first.box.answers
"""


def test_networks_that_keep_what_they_compute_are_copied_and_pruned(tmp_path: Path) -> None:
    (tmp_path / "keeps.py").write_text(KEEPS)
    models = [f"{tmp_path / 'keeps.py'}:{name}" for name in ("Net", "Spectral", "Running")]
    for model in models:
        network = MODELS[model].build((1, 8, 8), 4, 0, model_args=None).eval()
        images = torch.rand(2, 1, 8, 8)
        expected = network(images)
        copied = copy.deepcopy(network)
        assert torch.equal(copied(images), expected)
        network(images).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    settings = {**SETTINGS, "model": models[:2], "technique": "structured,unstructured", "sparsity": 50}
    outcome = run_sweep(Sweep.parse({**settings, "schedule": "one-shot,linear"}), tmp_path / "runs", workers=1)
    assert outcome.failures == {}
    table = outcome.table.set_index(["model", "technique"])
    filters = 26 * 26 * 4 * 9 + 24 * 24 * 4 * 4 * 9 + 4 * 10  # 4 of 8 are left; of a normalised layer all
    assert set(table.loc[(models[0], "structured"), "macs"]) == {filters}
    assert set(table["achieved_sparsity"]) == {50}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("View", "attribute 'first.rows' is computed from parameters when the network is built"),
        ("Boxed", "attribute 'first.box', a Box, cannot be copied with the network"),
    ],
)
def test_what_cannot_be_copied_is_refused_by_its_name(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "keeps.py").write_text(KEEPS)
    points = Sweep.one_point({**SETTINGS, "model": f"{tmp_path / 'keeps.py'}:{name}", "technique": "structured"}).points
    with pytest.raises(InputError, match=words) as caught:
        check_prunable(points, Materials(None))
    assert "\n" not in str(caught.value)


# what is written past Python's streams: by the exporter, where it cannot go on, and by a way forward
PAST = """
import os
import sys

from torch import nn


class Turned(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.last = nn.Linear(784, classes)

    def forward(self, images):
        return self.last(images.mT.flatten(1))


class Writes(Turned):
    def forward(self, images):
        os.write(1, b"PAST Python\\n")
        sys.__stdout__.write("PAST its redirection\\n")
        print("PRINTED")
        return self.last(images.flatten(1))
"""


@pytest.mark.usefixtures("brief_probe")
def test_what_is_written_past_python_does_not_reach_stdout(tmp_path: Path) -> None:
    (tmp_path / "past.py").write_text(PAST)
    command = ["sweep", "--dataset", "digits", "--technique", "weight", "--sparsity", "50", "--train-limit", "100"]
    command += ["--epochs", "1", "--finetune-epochs", "0", "--latency-seconds", "0", "--out", "runs", "--json"]
    refused = onnxprune(*command, "--model", "past.py:Turned", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "past.py:Turned" in refused.stderr and "not supported" in refused.stderr
    assert refused.stderr.count("\n") == 1
    done = onnxprune(*command, "--model", "past.py:Writes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    written = "".join(path.read_text() for path in tmp_path.glob("runs/*/*/log.txt"))
    assert "PAST Python" in written and "PAST its redirection" in written and "PRINTED" in written
    layers = ["sensitivity", "--dataset", "digits", "--train-limit", "100", "--epochs", "1", "--sparsity", "50"]
    layers += ["--images", "50", "--out", "runs", "--json", "--model", "past.py:Writes"]
    done = onnxprune(*layers, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["layer"] for row in json.loads(done.stdout)] == ["last"]


@pytest.mark.parametrize("where", ["True", "self.training", "torch.jit.is_tracing()"])
def test_a_way_forward_that_ends_python_is_told_with_its_line(where: str, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(
        "import sys\n\nimport torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self, classes):\n        super().__init__()\n        self.last = nn.Linear(784, classes)\n\n"
        f"    def forward(self, images):\n        if {where}:\n            sys.exit(0)\n"
        "        return self.last(images.flatten(1))\n"
    )
    command = ["sweep", "--model", "ends.py:Net", "--dataset", "digits", "--technique", "weight", "--sparsity", "50"]
    done = onnxprune(*command, "--epochs", "1", "--out", "runs", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ends.py, line 14: SystemExit: 0" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_file_that_runs_a_study_of_its_own_class_is_told_what_to_do(tmp_path: Path) -> None:
    """It would be run again wherever the class is imported."""
    script = tmp_path / "script.py"
    text = (
        "import onnxprune\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self, classes=10):\n        super().__init__(nn.Flatten(), nn.Linear(784, classes))\n\n\n{}"
        "onnxprune.sweep(model=Net, dataset='digits', technique='weight', sparsity=50, epochs=0, finetune_epochs=0,\n"
        "                latency_seconds=0, workers=1)\n"
    )
    guard = 'if __name__ == "__main__":\n    '
    for written, told in ((text.format(""), True), (text.format(guard), False)):
        script.write_text(written)
        done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) is told, done.stderr
        assert (
            'its file runs a study where it is imported: put that below `if __name__ == "__main__":`' in done.stderr
        ) is told
