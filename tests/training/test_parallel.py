"""Training by two processes: the same network as by one, but for rounding."""

import time
from pathlib import Path
from typing import Any

import faults
import numpy as np
import psutil
import pytest
import torch
import warm
from networks import SHAPE, build, logits, random_batches, request
from one_call import prune
from torch import Tensor, nn

import onnxprune
from onnxprune.data.dataset import Split
from onnxprune.pruning.regrowth import Regrowth
from onnxprune.settings.sweep import Sweep
from onnxprune.training import parallel
from onnxprune.training.batches import Batches
from onnxprune.training.distillation import Teacher
from onnxprune.training.loop import train
from onnxprune.training.recipe import Recipe

HOW: dict[str, Any] = {
    "epochs": 2, "batch_size": 16, "learning_rate": 0.05, "augmentation": frozenset({"crop", "flip"}),
    "micro_batch": 4, "seed": 0,
}  # fmt: skip


def both(name: str, how: dict[str, Any] = HOW, **arguments: Any) -> tuple[nn.Module, nn.Module]:
    """The network trained by one process and by two."""
    one, two = build(name), build(name)
    costs = [
        train(network, random_batches(), Recipe(**how, devices=devices), **arguments)
        for network, devices in ((one, 1), (two, 2))
    ]
    assert costs[0].images == costs[1].images
    assert costs[0].epoch_losses == pytest.approx(costs[1].epoch_losses, rel=1e-5)
    return one, two


def close(one: nn.Module, two: nn.Module) -> None:
    for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("batch_size", "micro_batch"), [(16, 4), (40, 64), (13, 4)])
@pytest.mark.parametrize("name", ["slp", "cnn"])
def test_two_processes_train_as_one_does(name: str, batch_size: int, micro_batch: int) -> None:
    """Also where a batch is one micro-batch, and where the last batch is a single image."""
    one, two = both(name, {**HOW, "batch_size": batch_size, "micro_batch": micro_batch})
    close(one, two)


def test_gradients_of_the_full_batch_are_equal() -> None:
    gradients: list[list[Tensor]] = []
    for devices in (1, 2):
        network = build("cnn+norm")

        def look(done: int, updates: int, network: nn.Module = network) -> None:
            gradients.append([parameter.grad.clone() for parameter in network.parameters()])

        how = {**HOW, "batch_size": 40, "micro_batch": 10, "epochs": 1}
        train(network, random_batches(), Recipe(**how, devices=devices), regrow=look)
    one, two = gradients
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)
        assert first.any()


def test_with_batch_norm_weights_are_the_same_and_statistics_nearly() -> None:
    one, two = both("cnn+norm", {**HOW, "epochs": 10})
    close(one, two)
    torch.testing.assert_close(one.norm1.running_mean, two.norm1.running_mean, rtol=0.05, atol=0.05)
    torch.testing.assert_close(one.norm1.running_var, two.norm1.running_var, rtol=0.1, atol=0.05)
    assert two.norm1.momentum == 0.1


@pytest.mark.parametrize("devices", [1, 2])
def test_statistics_of_batch_norm_move_by_every_micro_batch_of_all_processes(devices: int) -> None:
    """Of micro-batches that are all alike, by a network that stays as it is: a tenth of the way for each of eight."""
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, *SHAPE), dtype=np.uint8), 32, axis=0)
    batches = Batches(Split(images, np.zeros(32, np.int64)), (0.5,), (0.25,), torch.device("cpu"))
    network = build("cnn+norm")
    before, (image, _) = network.norm1.running_mean.clone(), batches.take(torch.arange(1))
    with torch.no_grad():
        of_all = network.conv1(image).mean((0, 2, 3))
    how = {**HOW, "epochs": 1, "learning_rate": 0.0, "augmentation": frozenset()}
    train(network, batches, Recipe(**how, devices=devices))
    torch.testing.assert_close(network.norm1.running_mean, of_all + 0.9**8 * (before - of_all))


def test_masks_that_one_decides_hold_for_both() -> None:
    masks = {"hidden": (torch.rand(128, 64, generator=torch.Generator().manual_seed(0)) < 0.3).float()}
    networks = []
    for devices in (1, 2):
        network = build("slp")
        growth = Regrowth(masks, seed=0)
        held = {"hidden.weight": masks["hidden"]}
        how = Recipe(**{**HOW, "epochs": 30}, devices=devices)
        train(
            network, random_batches(), how, masks=held,
            regrow=lambda done, _, network=network, growth=growth: (
                growth.by_gradient(network, 0.3) if done % 5 == 4 else None
            ),
        )  # fmt: skip
        assert not torch.equal(growth.masks["hidden"], masks["hidden"])
        assert not network.hidden.weight[growth.masks["hidden"] == 0].any()
        networks.append(network)
    torch.testing.assert_close(logits(networks[0]), logits(networks[1]), rtol=1e-2, atol=1e-2)


def test_a_shrunk_network_a_teacher_and_masks() -> None:
    small = prune(build("cnn+norm"), request("structured", sparsity=100), random_batches(), SHAPE)
    assert small.held
    teacher = Teacher(build("cnn+norm", seed=3), 0.5)
    trained = []
    for devices in (1, 2):
        network = prune(build("cnn+norm"), request("structured", sparsity=100), random_batches(), SHAPE).network
        how = Recipe(**HOW, devices=devices)
        train(network, random_batches(), how, masks=small.held, teacher=teacher, stop_after=4)
        trained.append(network)
    close(*trained)


def test_a_helper_that_dies_is_one_clear_line_and_the_next_training_works(monkeypatch: pytest.MonkeyPatch) -> None:
    both("slp")
    monkeypatch.setattr(parallel, "start", warm.Fresh)  # the next one; those above were of a fresh process
    (helper,) = parallel._helpers[1]._processes  # type: ignore[index]

    def kill(done: int, *_: Any) -> None:
        if done == 2:
            helper.kill()
            helper.wait()

    with pytest.raises(onnxprune.RunError, match="--devices") as caught:
        train(build("slp"), random_batches(), Recipe(**HOW, devices=2), on_update=kill)
    assert "\n" not in str(caught.value)
    assert torch.get_num_threads() >= 1
    close(*both("slp"))


@pytest.mark.slow  # test_pool.py tells it of the other kind of process
def test_helpers_end_with_their_caller(tmp_path: Path) -> None:
    settings = {"model": "slp", "hidden": 8, "dataset": "digits", "train_limit": 100, "epochs": 10_000, "devices": 2}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    caller = faults.start(["run", "--technique=weight", "--sparsity=50", *words, f"--out={tmp_path}"], tmp_path / "log")
    while not any(helper.net_connections() for helper in psutil.Process(caller.pid).children()):  # they have met
        time.sleep(0.05)
        assert caller.is_alive(), (tmp_path / "log").read_text()
    (helper,) = (process.pid for process in psutil.Process(caller.pid).children())
    caller.kill()
    caller.join()
    end = time.monotonic() + 20
    while psutil.pid_exists(helper) and psutil.Process(helper).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "it lives on"
        time.sleep(0.1)


def test_a_study_by_two_processes(tmp_path: Path) -> None:
    settings = {
        "model": "slp", "hidden": 32, "dataset": "digits", "train_limit": 200, "epochs": 2, "batch_size": 64,
        "technique": ["neuron", "unstructured"], "sparsity": 50, "latency_seconds": 0, "workers": 1,
    }  # fmt: skip
    one = onnxprune.sweep(**settings, out=tmp_path / "one")
    two = onnxprune.sweep(**settings, out=tmp_path / "two", devices=2)
    for column in ("macs", "achieved_sparsity", "training_images"):
        assert (one[column] == two[column]).all()
    assert one["accuracy"].to_numpy(float) == pytest.approx(two["accuracy"].to_numpy(float), abs=1)
    assert one["cross_entropy"].to_numpy(float) == pytest.approx(two["cross_entropy"].to_numpy(float), rel=0.01)


def test_movement_is_for_one_process() -> None:
    with pytest.raises(onnxprune.InputError, match="--devices 1"):
        Sweep.parse({"schedule": "movement", "technique": "weight", "devices": 2})
