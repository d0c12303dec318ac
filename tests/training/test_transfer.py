"""Weights from elsewhere: what fits is taken, what does not is refused, a head for other classes is replaced."""

from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from command_line import called, small_npz
from structures import Residual
from torch import nn

import onnxprune
from onnxprune.bridge.coupling import heads
from onnxprune.bridge.start import build_network
from onnxprune.common.torchvision import torchvision_module
from onnxprune.data.dataset import load
from onnxprune.models import MODELS
from onnxprune.settings.sweep import Sweep
from onnxprune.training import transfer
from onnxprune.training.loop import train
from onnxprune.training.setup import recipe_of, training_batches

SHAPE = (1, 8, 8)
CLASSES = ("a", "b", "c", "d")


def head() -> tuple[str, ...]:
    return ("classifier",)


def cnn(classes: int = 4, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    return MODELS["cnn"].build(shape, classes, seed)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_of_both_formats_are_taken(tmp_path: Path, suffix: str) -> None:
    source, target = cnn(seed=1), cnn(seed=2)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(source.state_dict(), path)
    else:
        safetensors.torch.save_file(source.state_dict(), path)
    transfer.load_weights(target, str(path), CLASSES, head)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_forms_in_which_training_scripts_save(key: str, tmp_path: Path) -> None:
    source, target = cnn(seed=1), cnn(seed=2)
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"epoch": 3, "optimizer_state_dict": {"state": {}}, key: state}, tmp_path / "checkpoint.pth")
    transfer.load_weights(target, str(tmp_path / "checkpoint.pth"), CLASSES, head)
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_a_network_that_calls_a_part_of_it_module_takes_its_own_weights(tmp_path: Path) -> None:
    source, target = (nn.Sequential(OrderedDict(module=nn.Linear(4, 4))) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    transfer.load_weights(target, str(tmp_path / "weights.pt"), CLASSES, head)
    assert torch.equal(target[0].weight, source[0].weight)


def test_a_head_for_other_classes_stays_as_it_was(tmp_path: Path) -> None:
    source, target, fresh = cnn(seed=1, classes=7), cnn(seed=2), cnn(seed=2)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    transfer.load_weights(target, str(tmp_path / "w.safetensors"), CLASSES, head)
    assert torch.equal(target.fc.weight, source.fc.weight)
    assert torch.equal(target.classifier.weight, fresh.classifier.weight)
    assert torch.equal(target.classifier.bias, fresh.classifier.bias)


def test_a_head_is_found_whatever_its_name(tmp_path: Path) -> None:
    source, target, fresh = (Residual(1, classes).eval() for classes in (7, 4, 4))
    fresh.load_state_dict(target.state_dict())
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    assert heads(target, SHAPE) == ("head",)
    transfer.load_weights(target, str(tmp_path / "w.safetensors"), CLASSES, lambda: heads(target, SHAPE))
    for name, tensor in target.state_dict().items():
        expected = fresh if name.startswith("head.") else source
        assert torch.equal(tensor, expected.state_dict()[name]), name


def test_a_network_of_which_no_layer_is_the_head_is_refused() -> None:
    class Answers(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.flatten(1)).reshape(-1, 2, 2).mean(2)

    with pytest.raises(onnxprune.InputError, match="its head cannot be found"):
        heads(Answers(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), SHAPE)


def test_a_head_for_as_many_other_classes_stays_too_where_the_file_tells(tmp_path: Path) -> None:
    source, fresh = cnn(seed=1), cnn(seed=2)
    for name, metadata, taken in (
        ("others", {"classes": '["w", "x", "y", "z"]'}, False),
        ("same", {"classes": '["a", "b", "c", "d"]'}, True),
        ("silent", None, True),
    ):
        target = cnn(seed=2)
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(source.state_dict(), path, metadata)
        transfer.load_weights(target, str(path), CLASSES, head)
        assert torch.equal(target.fc.weight, source.fc.weight)
        expected = source if taken else fresh
        assert torch.equal(target.classifier.weight, expected.classifier.weight), name


def test_a_grey_network_answers_as_the_coloured_one_to_grey(tmp_path: Path) -> None:
    source, target = cnn(seed=1, shape=(3, 8, 8)), cnn(seed=2)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    transfer.load_weights(target, str(tmp_path / "w.pt"), CLASSES, head)
    grey = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(target(grey), source(grey.expand(-1, 3, -1, -1)))


class _Unpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"conv1.weight": torch.zeros(2)}, "not the weights of this network: classifier.bias is missing"),
        ([1, 2], "expected a state dict"),
        (_Unpickled(), "neither safetensors nor a PyTorch state dict"),
    ],
)
def test_what_does_not_fit_is_refused(
    content: Any, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pt")
    with pytest.raises(onnxprune.InputError, match=problem):
        transfer.load_weights(cnn(), "w.pt", CLASSES, head)
    assert not Path("exploded").exists()


def test_garbage_and_other_shapes_are_refused(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pt"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(onnxprune.InputError, match="neither safetensors"):
            transfer.load_weights(cnn(), str(tmp_path / name), CLASSES, head)
    safetensors.torch.save_file(cnn(shape=(1, 12, 12)).state_dict(), tmp_path / "large.safetensors")
    with pytest.raises(onnxprune.InputError, match=r"fc.weight is \(128, 576\), expected \(128, 256\)"):
        transfer.load_weights(cnn(), str(tmp_path / "large.safetensors"), CLASSES, head)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": "nowhere.safetensors"}, ["no such file", "imagenet"]),
        ({"weights": "imagenet", "model": "cnn"}, ["densenet121"]),
        ({"weights": "imagenet", "model": "densenet121", "stem": "small"}, ["--stem imagenet"]),
    ],
)
def test_weights_that_cannot_be_are_refused_beforehand(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(onnxprune.InputError) as caught:
        Sweep.parse(settings)
    assert all(word in str(caught.value) for word in words)


def test_torchvisions_densenet_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torchvision_module().models.densenet121(weights=None).eval()
    monkeypatch.setattr(transfer, "_imagenet", source.state_dict)
    target = MODELS["densenet121"].build((3, 32, 32), 1000, 0, stem="imagenet").eval()
    transfer.load_weights(target, "imagenet", CLASSES, head)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(target(images), source(images))


def test_without_a_network_there_is_no_imagenet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(onnxprune.RunError, match=r"cannot be downloaded .*no network.*--weights") as caught:
        transfer.load_weights(MODELS["densenet121"].build((3, 32, 32), 10, 0), "imagenet", CLASSES, head)
    assert "\n" not in str(caught.value)


def test_a_study_that_starts_from_another_base(tmp_path: Path) -> None:
    data = str(small_npz(tmp_path / "squares.npz"))
    settings = {
        "model": "slp", "hidden": 32, "batch_size": 32, "technique": "weight", "sparsity": 50, "latency_seconds": 0,
        "out": tmp_path / "runs", "dataset": data,
    }  # fmt: skip
    first = onnxprune.run_experiment(**settings, epochs=5, learning_rate=0.1).iloc[0]
    checkpoint = tmp_path / "runs" / "bases" / first["base_id"] / "checkpoint.safetensors"
    again = onnxprune.run_experiment(**settings, epochs=0, weights=str(checkpoint)).iloc[0]
    assert again["base_id"] != first["base_id"]
    assert again["base_accuracy"] == first["base_accuracy"]
    assert again["base_cross_entropy"] == first["base_cross_entropy"]
    # content counts, not the name
    moved = checkpoint.with_name("copy.safetensors")
    moved.write_bytes(checkpoint.read_bytes())
    copied = onnxprune.run_experiment(**settings, epochs=0, weights=str(moved)).iloc[0]
    assert copied["base_cross_entropy"] == again["base_cross_entropy"]


def test_frozen_features_do_not_move(tmp_path: Path) -> None:
    data = load(str(small_npz(tmp_path / "squares.npz")))
    values = {"model": "cnn", "batch_norm": True, "dataset": "squares.npz", "freeze_features": True, "epochs": 2}
    (point,) = Sweep.one_point(values).points
    from onnxprune.study.base import _train_base

    network = build_network(point, data)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    how = recipe_of(point, network, data, 2, 0.1)

    class Listener:
        def training(self, *_: Any) -> None:
            pass

    _train_base(network, point, training_batches(point, data, network), how, Listener())  # type: ignore[arg-type]
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert all(parameter.requires_grad for parameter in network.parameters()), "fine-tuning trains all of it"
    network.norm1.requires_grad_(False)
    _train_base(network, point, training_batches(point, data, network), how, Listener())  # type: ignore[arg-type]
    kept = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert kept == {"norm1.weight", "norm1.bias"}, "but for what the user has frozen"
    free = build_network(point, data)
    train(free, training_batches(point, data, free), how)
    assert not torch.equal(free.conv1.weight, before["conv1.weight"])


@pytest.mark.parametrize("content", [{"other": torch.zeros(2)}, [1, 2], _Unpickled(), nn.Linear(2, 2), b"nothing"])
def test_weights_that_do_not_fit_are_one_line_before_anything_starts(content: Any, tmp_path: Path) -> None:
    data, path = small_npz(tmp_path / "squares.npz"), tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    done = called("sweep", "--model", "slp", "--dataset", data, "--weights", path, "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "w.pt" in done.stderr
    assert "weights_only" not in done.stderr and "pickle" not in done.stderr.lower()
    assert not (tmp_path / "runs").exists()
