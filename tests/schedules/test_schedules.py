"""Schedules: each ends at the sparsity it was asked for, and gets there the way its paper says."""

import dataclasses
import json
import math
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from command_line import small_npz
from torch import nn

import onnxprune
from onnxprune.bridge.measure import Judged
from onnxprune.bridge.start import build_network
from onnxprune.data.dataset import Dataset, load
from onnxprune.models import MODELS
from onnxprune.pruning.regrowth import Regrowth, erdos_renyi_shares, rigl_share, set_interval
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Request
from onnxprune.results import store
from onnxprune.schedules.adaptive import adaptive
from onnxprune.schedules.context import PruningContext
from onnxprune.schedules.gradual import pruning_steps
from onnxprune.schedules.lottery import lottery
from onnxprune.schedules.one_shot import one_shot
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.settings.vocabulary import SCHEDULES, TECHNIQUES
from onnxprune.study.rerun import rerun
from onnxprune.training.loop import train
from onnxprune.training.setup import recipe_of, training_batches

SETTINGS: dict[str, Any] = {
    "model": "slp", "hidden": 64, "batch_size": 32, "epochs": 3, "finetune_epochs": 2, "learning_rate": 0.1,
    "finetune_learning_rate": 0.05, "latency_seconds": 0, "keep_dead": True,
}  # fmt: skip
POSSIBLE = [
    (schedule, technique)
    for schedule, entry in SCHEDULES.items()
    for technique, kind in TECHNIQUES.items()
    if kind.unit in entry.units and schedule != "adaptive"
]
# of single weights, of whole units
ONE_OF_EACH_UNIT = ("unstructured", "structured")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schedules")


@pytest.fixture(scope="module")
def data(folder: Path) -> str:
    return str(small_npz(folder / "squares.npz"))


@pytest.fixture(scope="module")
def dataset(data: str) -> Dataset:
    return load(data)


def settings_of(schedule: str) -> dict[str, Any]:
    reads = SCHEDULES[schedule].settings
    return {name: value for name, value in SETTINGS.items() if not name.startswith("finetune") or name in reads}


def swept(folder: Path, data: str, schedule: str, techniques: list[str], name: str) -> pd.DataFrame:
    return onnxprune.sweep(
        **settings_of(schedule), dataset=data, technique=techniques, schedule=schedule, sparsity=[0, 75, 100],
        out=folder / "runs", name=name, workers=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(folder: Path, data: str) -> pd.DataFrame:
    """All schedules with a technique of each unit that they are for."""
    techniques: dict[str, list[str]] = {}
    for schedule, technique in POSSIBLE:
        if technique in ONE_OF_EACH_UNIT:
            techniques.setdefault(schedule, []).append(technique)
    return pd.concat(swept(folder, data, schedule, chosen, schedule) for schedule, chosen in techniques.items())


def record_of(folder: Path, schedule: str, technique: str, sparsity: int) -> dict[str, Any]:
    (path,) = (folder / "runs" / schedule).glob(f"*-{technique}-*-s{sparsity}-*/{store.METRICS}")
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("schedule", "technique"),
    [
        # a schedule asks for shares of units, whatever ranks them: that is tried in pruning/test_pruning.py
        pytest.param(*both, marks=() if both[1] in ONE_OF_EACH_UNIT else pytest.mark.slow)
        for both in POSSIBLE
    ],
)
def test_the_sparsity_is_the_one_that_was_asked_for(
    table: pd.DataFrame, folder: Path, data: str, schedule: str, technique: str
) -> None:
    if technique not in ONE_OF_EACH_UNIT:
        table = swept(folder, data, schedule, [technique], f"{schedule}-{technique}")
    rows = table[(table["schedule"] == schedule) & (table["technique"] == technique)].set_index("sparsity")
    one = 100 / (64 if TECHNIQUES[technique].unit == "channel" else 144 * 64 + 64 * 3)
    assert rows.loc[0, "achieved_sparsity"] == 0
    assert rows.loc[75, "achieved_sparsity"] == pytest.approx(75, abs=one)
    assert rows.loc[100, "achieved_sparsity"] == 100
    assert rows.loc[100, "collapsed"]
    assert rows.loc[0, "accuracy"] > 90, "it does not learn"
    assert rows["training_images"].gt(0).all()
    if TECHNIQUES[technique].unit == "channel":
        assert rows.loc[75, "macs"] == 144 * 16 + 16 * 3
    else:
        # `achieved` is what masks say; this is what the file has
        zeros = rows.loc[75, "base_nonzero_params"] - rows.loc[75, "nonzero_params"]
        wanted = 0.75 * (144 * 64 + 64 * 3)
        # weights that grew where nothing passes any more have not left zero
        assert wanted - 2 <= zeros <= wanted * (1.01 if schedule in ("set", "rigl") else 1) + 2


@pytest.mark.parametrize(
    ("schedule", "curve"),
    [
        ("agp", lambda step: 75 * (1 - (1 - step / 10) ** 3)),
        ("linear", lambda step: 75 * step / 10),
        ("iterative", lambda step: 100 * (1 - 0.25 ** (step / 3))),
    ],
)
def test_gradual_schedules_follow_their_curve(table: pd.DataFrame, folder: Path, schedule: str, curve: Any) -> None:
    path = [entry["sparsity"] for entry in record_of(folder, schedule, "unstructured", 75)["path"]]
    rounds = SCHEDULES[schedule].rounds
    assert path == pytest.approx([curve(step) for step in range(1, rounds + 1)])


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_gradual_schedules_prune_at_the_times_of_their_paper(rounds: int) -> None:
    """t_0 + dt, t_0 + 2 dt, ... t_0 + n dt, from s_i = 0 at t_0 = 0 (Zhu and Gupta 2017, 1710.01878)."""
    steps = pruning_steps(9_000, rounds)
    ramp = 6_000  # two thirds
    assert list(steps) == [ramp * number // rounds for number in range(1, rounds + 1)]
    for done, time in steps.items():
        assert time == pytest.approx(done / ramp, abs=1e-3)
    assert list(pruning_steps(2, 10).values())[-1] == 1, "nothing is left short where there are few updates"


def test_pruning_while_training_has_nothing_before_training(table: pd.DataFrame) -> None:
    before = table.groupby("schedule")["before_finetuning_accuracy"].count()
    assert {name for name, count in before.items() if count == 0} == {"iterative", "agp", "linear", "movement"}


def test_at_0_percent_fine_tuning_schedules_agree(table: pd.DataFrame) -> None:
    """Nothing is removed, so what they do is train for the same epochs."""
    rows = table[(table["sparsity"] == 0) & (table["technique"] == "unstructured")].set_index("schedule")
    losses = rows.loc[["one-shot", "agp", "linear", "movement"], "cross_entropy"]
    assert losses.nunique() == 1
    assert rows.loc["at-init", "cross_entropy"] == rows.loc["lottery", "cross_entropy"]


def test_finished_points_of_all_schedules_come_out_the_same_again(
    table: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    for schedule in ("agp", "movement", "rigl"):
        (point,) = (folder / "runs" / schedule).glob("*-unstructured-*-s75-*")
        (found,) = rerun(point, tmp_path / schedule)
        assert found.differences == {}


# The parts


def work(dataset: Dataset, **changes: Any) -> PruningContext:
    """A point in the making, with an untrained base."""
    values = {**settings_of(changes.get("schedule", "one-shot")), "dataset": dataset.name + ".npz", **changes}
    (point,) = Sweep.one_point({name: value for name, value in values.items() if value is not None}).points
    listener = SimpleNamespace(training=lambda *_: None, stage=lambda _: None)
    network = build_network(point, dataset)
    batches = training_batches(point, dataset, network)
    request = Request(
        point.technique, point.criterion, point.granularity, point.sparsity, point.channel_align, point.seed
    )
    return PruningContext(point, network, {}, dataset, batches, request, listener)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["one-shot", "at-init", "lottery", "iterative"])
def test_training_of_all_rounds_is_counted(dataset: Dataset, schedule: str) -> None:
    rounds = {"rounds": 2} if SCHEDULES[schedule].rounds else {}
    job = work(dataset, technique="weight", schedule=schedule, sparsity=75, **rounds)
    resolve_name(SCHEDULES[schedule].run)(job)
    images = len(dataset.train)
    wanted = {"one-shot": 2 * images, "at-init": 3 * images, "lottery": 2 * 3 * images, "iterative": 2 * images}
    assert job.cost is not None
    assert job.cost.images == wanted[schedule]
    assert job.flops == wanted[schedule] * (4 * (144 * 64 + 64 * 3) + 2 * 64 * 3)


@pytest.fixture
def untrained_lottery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PruningContext, "train_pruned", lambda self, pruned, training: pruned)


@pytest.mark.usefixtures("untrained_lottery")
@pytest.mark.parametrize("rounds", [1, 2])
def test_lottery_rewinds_to_initial_weights(dataset: Dataset, rounds: int) -> None:
    job = work(dataset, technique="weight", schedule="lottery", sparsity=75, rounds=rounds)
    first = {name: tensor.clone() for name, tensor in build_network(job.point, dataset).state_dict().items()}
    train(job.base, job.batches, recipe_of(job.point, job.base, dataset, 3, 0.1))
    pruned = lottery(job)
    magnitudes = job.base.hidden.weight.detach().abs()
    for name, tensor in pruned.network.state_dict().items():
        assert torch.equal(tensor, first[name] * pruned.held.get(name, 1))
    if rounds == 1:  # the trained weights decide, not the initial ones
        mask = pruned.unit_masks["hidden"].bool()
        assert magnitudes[~mask].max() <= magnitudes[mask].min()


@pytest.mark.usefixtures("untrained_lottery")
def test_lottery_rewinds_to_the_weights_of_an_early_epoch(dataset: Dataset) -> None:
    job = work(dataset, technique="weight", schedule="lottery", sparsity=0, rewind_epoch=1)
    pruned = lottery(job)
    network = build_network(job.point, dataset)
    how = recipe_of(job.point, network, dataset, 3, 0.1)
    seen = {}

    def look(done: int, updates: int) -> None:
        if done == updates // 3:
            seen.update({name: tensor.clone() for name, tensor in network.state_dict().items()})

    train(network, job.batches, how, remask=look)
    for name, tensor in pruned.network.state_dict().items():
        assert torch.equal(tensor, seen[name])


@pytest.mark.parametrize("rounds", [1, 2])
def test_lottery_trains_what_it_rewound_from_that_epoch_to_the_end(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """From epoch k to T, with the learning rates of then (Frankle et al. 2020, 1912.05671), every time."""
    how: list[dict[str, Any]] = []

    def watched(self: PruningContext, network: nn.Module, recipe: Any, **arguments: Any) -> None:
        how.append({"epochs": recipe.epochs, **{name: arguments.get(name) for name in ("start_at", "stop_after")}})

    monkeypatch.setattr(PruningContext, "train", watched)
    job = work(dataset, technique="weight", schedule="lottery", sparsity=50, rewind_epoch=2, rounds=rounds)
    lottery(job)
    begin = 2 * 7  # updates of two epochs, 216 images in batches of 32
    again = {"epochs": 3, "start_at": begin, "stop_after": None}
    assert how == [{"epochs": 3, "start_at": None, "stop_after": begin}, *[again] * rounds]


def test_units_that_are_gone_stay_gone(dataset: Dataset) -> None:
    for technique in TECHNIQUES:
        job = work(dataset, technique=technique, sparsity=50)
        other = build_network(dataclasses.replace(job.point, seed=7), dataset)
        early = job.decide(job.base, 40)
        late = job.decide(other, 80, early)
        for layer, mask in early.items():
            assert not (late[layer].bool() & ~mask.bool()).any(), technique
        assert sum(int(mask.sum()) for mask in late.values()) < sum(int(mask.sum()) for mask in early.values())


FROZEN = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8).requires_grad_(False), nn.ReLU(), nn.Flatten(),
            nn.Linear(800, classes).requires_grad_(False), nn.Linear(classes, classes),
        )
"""


@pytest.mark.parametrize("schedule", ["one-shot", "agp", "iterative", "movement"])
def test_layers_that_a_user_has_frozen_do_not_move(dataset: Dataset, schedule: str, tmp_path: Path) -> None:
    """Weights, biases and the statistics of a BatchNorm: what is pruned meanwhile does not thaw them."""
    (tmp_path / "frozen.py").write_text(FROZEN)
    job = work(
        dataset, model=f"{tmp_path / 'frozen.py'}:Net", hidden=None, technique="unstructured", schedule=schedule,
        sparsity=20,
    )  # fmt: skip
    before = job.base.state_dict()
    pruned: Pruned = resolve_name(SCHEDULES[schedule].run)(job)
    after = pruned.network.state_dict()
    for name in ("1.running_mean", "1.running_var", "1.weight", "1.bias", "4.bias"):
        assert torch.equal(after[name], before[name]), name
    left = after["4.weight"] != 0
    assert torch.equal(after["4.weight"][left], before["4.weight"][left])
    assert not torch.equal(after["5.bias"], before["5.bias"])


class _Layer(nn.Module):
    def __init__(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(*reversed(weight.shape), bias=False)
        self.layer.weight.data = weight
        self.layer.weight.grad = gradient


def test_rigl_moves_the_share_of_its_paper_every_100_updates() -> None:
    """alpha / 2 * (1 + cos(t * pi / T_end)), where t is a multiple of 100 below T_end (Evci et al. 2020)."""
    updates = 32_000
    shares = {done: rigl_share(done, updates) for done in range(updates)}
    steps = [done for done, share in shares.items() if share]
    assert steps == list(range(100, 24_000, 100))
    for done in steps:
        assert shares[done] == pytest.approx(0.3 / 2 * (1 + math.cos(done * math.pi / 24_000)))
    assert not any(rigl_share(done, 100) for done in range(100)), "weights have to grow before they are judged"


def test_set_moves_once_an_epoch_and_not_before_100_updates() -> None:
    assert [set_interval(each) for each in (600, 100, 99, 40, 1)] == [600, 100, 198, 120, 100]


def test_rigl_drops_the_smallest_and_grows_where_the_gradient_is_largest() -> None:
    mask = torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 1, 1, 1], [0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    weight = torch.tensor([[0.5, -0.1, 0.6, 0.2, 0.7, 0.9, 0.8, 0.3, 1, 1], [0.0] * 10])
    gradient = torch.zeros(2, 10)
    gradient[0] = 9  # neither where weights are nor where they just were gradients matter
    gradient[1, 4], gradient[1, 7] = -3, 2
    growth = Regrowth({"layer": mask}, seed=0)
    now = growth.by_gradient(_Layer(weight, gradient), 0.29)["layer.weight"]
    assert (now - mask)[0].tolist() == [0, -1, 0, -1, 0, 0, 0, 0, 0, 0]
    assert now[1].nonzero().flatten().tolist() == [4, 7]


def test_set_drops_the_smallest_of_each_sign_and_grows_anywhere() -> None:
    """A share zeta = 0.3 of the positive and of the negative weights nearest to zero (Mocanu et al. 2018)."""
    positive = [0.5, 0.01, 0.6, 0.02, 0.7, 0.9, 0.8, 0.03, 1, 1]
    negative = [-5.0, -1, -6, -2, -7, -9, -8, -3, -10, -10]
    mask = torch.cat([torch.ones(2, 10), torch.zeros(3, 10)])
    weight = torch.cat([torch.tensor([positive, negative]), torch.zeros(3, 10)])
    grown = []
    for seed in range(2):
        growth = Regrowth({"layer": mask}, seed)
        now = growth.by_chance(_Layer(weight, torch.zeros(5, 10)))["layer.weight"]
        for row in (0, 1):
            assert (mask - now)[row].nonzero().flatten().tolist() == [1, 3, 7]
        assert now.sum() == mask.sum()
        grown.append(now[2:])
    assert not torch.equal(*grown)


def test_no_more_is_dropped_than_can_grow() -> None:
    mask = torch.ones(1, 10)
    mask[0, 9] = 0
    weight = torch.tensor([[5.0, 4, 3, 2, 1, 6, 7, 8, 9, 0]])
    by_gradient, by_chance = Regrowth({"layer": mask}, 0), Regrowth({"layer": mask}, 0)
    for now in (
        by_gradient.by_gradient(_Layer(weight, torch.ones(1, 10)), 0.9),
        by_chance.by_chance(_Layer(weight, torch.ones(1, 10))),
    ):
        assert now["layer.weight"][0].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1, 1]


def test_where_there_is_room_for_few_the_smallest_of_both_signs_are_dropped() -> None:
    mask = torch.cat([torch.ones(2, 10), torch.tensor([[0.0, 0, *[1] * 8]])])
    weight = torch.cat([1 + torch.arange(10.0).view(1, 10), -0.1 - torch.arange(10.0).view(1, 10), mask[2:] * 50])
    now = Regrowth({"layer": mask}, 0).by_chance(_Layer(weight, torch.zeros(3, 10)))["layer.weight"]
    assert (mask - now)[:2].nonzero().tolist() == [[0, 0], [1, 0]]  # 1.0 and -0.1: 2.0 and -1.1 find no room
    weight[0] += 5
    now = Regrowth({"layer": mask}, 0).by_chance(_Layer(weight, torch.zeros(3, 10)))["layer.weight"]
    assert (mask - now)[:2].nonzero().tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(("schedule", "steps"), [("set", [105, 210]), ("rigl", [100, 200])])
def test_sparse_training_moves_weights_and_keeps_their_number(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, schedule: str, steps: list[int]
) -> None:
    counts, places, calls = set(), [], []
    held = Regrowth._held

    def watched(self: Regrowth) -> Any:
        masks = held(self)
        counts.add(tuple(int(mask.sum()) for mask in masks.values()))
        places.append(torch.cat([mask.flatten() for mask in masks.values()]))
        calls.append(len(seen))
        return masks

    seen: list[int] = []
    monkeypatch.setattr(Regrowth, "_held", watched)
    job = work(dataset, technique="unstructured", schedule=schedule, sparsity=80, epochs=40)
    job.listener.training = lambda done, *_: seen.append(done)
    pruned: Pruned = resolve_name(SCHEDULES[schedule].run)(job)
    assert calls == steps  # of 280 updates, 7 an epoch
    assert len(counts) == 1
    (count,) = counts
    assert sum(count) == pytest.approx(0.2 * (144 * 64 + 64 * 3), abs=2)
    assert not torch.equal(places[0], places[-1])
    for name, mask in pruned.unit_masks.items():
        weight = pruned.network.get_submodule(name).weight
        assert not weight[mask == 0].any()
        grown = weight[mask == 1]
        assert grown.count_nonzero() > 0.9 * len(grown), "what grew has learnt nothing, but where a unit is silent"


def test_erdos_renyi_shares_by_hand() -> None:
    shapes = {"wide": (300, 784), "narrow": (10, 300)}
    shares = erdos_renyi_shares(shapes, 0.9)
    sizes = {name: rows * columns for name, (rows, columns) in shapes.items()}
    kept = {name: (1 - shares[name]) * sizes[name] for name in shapes}
    assert sum(kept.values()) == pytest.approx(0.1 * sum(sizes.values()))
    # what is left is proportional to the sum of the dimensions
    assert kept["wide"] / kept["narrow"] == pytest.approx((300 + 784) / (10 + 300)) or shares["narrow"] == 0
    assert erdos_renyi_shares(shapes, 0.0) == {"wide": 0.0, "narrow": 0.0}
    assert all(share == pytest.approx(1) for share in erdos_renyi_shares(shapes, 1.0).values())
    dense = erdos_renyi_shares({"large": (1000, 1000), "small": (10, 10)}, 0.5)
    assert dense["small"] == 0
    assert (1 - dense["large"]) * 1e6 == pytest.approx(0.5 * (1e6 + 100) - 100)


def test_movement_removes_what_training_moves_to_zero_and_not_what_is_small(table: pd.DataFrame, folder: Path) -> None:
    (one_shot,) = (folder / "runs" / "one-shot").glob("*-unstructured-*-s75-*")
    (movement,) = (folder / "runs" / "movement").glob("*-unstructured-*-s75-*")
    masks = [safetensors.torch.load_file(path / store.MASKS) for path in (one_shot, movement)]
    agreed = sum(int((masks[0][name] == masks[1][name]).sum()) for name in masks[0])
    units = sum(mask.numel() for mask in masks[0].values())
    assert 0.3 < agreed / units < 0.9


# Adaptive


@pytest.fixture(scope="module")
def adapted(folder: Path, data: str) -> pd.DataFrame:
    return onnxprune.sweep(
        **{**SETTINGS, "finetune_epochs": 6}, dataset=data, adaptive=True, max_drop=3, out=folder / "runs",
        name="adaptive", workers=1,
    )  # fmt: skip


@pytest.mark.parametrize("technique", list(TECHNIQUES))
def test_adaptive_goes_as_far_as_validation_allows(adapted: pd.DataFrame, folder: Path, technique: str) -> None:
    row = adapted[adapted["technique"] == technique].iloc[0]
    path = record_of(folder, "adaptive", technique, 100)["path"]
    accepted = [entry for entry in path if entry["accepted"]]
    assert accepted
    assert [entry["round"] for entry in path] == list(range(1, len(path) + 1))
    sparsities = [entry["sparsity"] for entry in accepted]
    assert sparsities == sorted(sparsities)
    for entry in path:
        assert entry["accepted"] == (entry["validation_accuracy"] >= entry["limit"])
    # what was too much is taken back
    assert row["achieved_sparsity"] == pytest.approx(sparsities[-1])
    assert row["validation_accuracy"] == pytest.approx(accepted[-1]["validation_accuracy"], abs=1e-6)
    assert row["base_validation_accuracy"] - row["validation_accuracy"] <= 3
    assert row["achieved_sparsity"] > 20


def test_adaptive_goes_no_further_than_asked(data: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "dataset": data, "technique": "weight", "out": tmp_path, "workers": 1}
    row = onnxprune.sweep(**settings, adaptive=True, max_drop=100, sparsity=40).iloc[0]
    assert row["achieved_sparsity"] == pytest.approx(40, abs=0.05)
    stopped = onnxprune.sweep(**{**settings, "finetune_epochs": 0}, adaptive=True, max_drop=0, rounds=2).iloc[0]
    assert stopped["validation_accuracy"] >= stopped["base_validation_accuracy"]


def test_adaptives_control_is_fine_tuned_with_nothing_removed(data: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "dataset": data, "technique": "unstructured", "out": tmp_path / "runs", "workers": 1}
    row = onnxprune.sweep(**{**settings, "finetune_epochs": 2}, adaptive=True, sparsity=0, rounds=2).iloc[0]
    assert row["achieved_sparsity"] == 0
    assert row["training_images"] == 2 * row["train_images"]


def accurate(percent: float, collapsed: bool = False) -> Judged:
    return Judged({"accuracy": percent}, collapsed, None, np.array([], bool))


def test_adaptive_spares_the_layer_that_is_sensitive(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    job = work(dataset, technique="weight", schedule="adaptive", sparsity=100, max_drop=100, rounds=2)

    def found(_: PruningContext, network: nn.Module, images: int | None = None) -> Judged:
        return accurate(50.0 if (network.classifier.weight == 0).float().mean() > 0.4 else 90.0)

    monkeypatch.setattr(PruningContext, "judged", found)
    adaptive(job)
    first, second = (entry["layers"] for entry in job.path)
    assert first["hidden"] == pytest.approx(20)
    assert 0 < first["classifier"] < first["hidden"] / 2
    assert second["classifier"] > first["classifier"]


@pytest.mark.parametrize("too_far", [accurate(89.0), accurate(90.0, collapsed=True)])
def test_adaptive_takes_back_what_costs_too_much_or_collapses_and_then_goes_slower(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, too_far: Judged
) -> None:
    job = work(dataset, technique="unstructured", schedule="adaptive", sparsity=100, max_drop=1, rounds=20)

    def found(_: PruningContext, network: nn.Module, images: int | None = None) -> Judged:
        return too_far if (network.hidden.weight == 0).float().mean() > 0.55 else accurate(90.0)

    monkeypatch.setattr(PruningContext, "judged", found)
    job.point = dataclasses.replace(job.point, max_drop=0.5)
    pruned = adaptive(job)
    removed, units = pruned.removed
    accepted = [entry["accepted"] for entry in job.path]
    assert False in accepted
    assert accepted[: accepted.index(False)] == [True] * accepted.index(False)
    assert True in accepted[accepted.index(False) :], "it did not go on after the first rejection"
    last = [entry["sparsity"] for entry in job.path if entry["accepted"]][-1]
    assert 100 * removed / units == pytest.approx(last)
    assert 50 < last <= 56


# Controls


@pytest.fixture(scope="module")
def controlled(folder: Path, data: str) -> pd.DataFrame:
    return onnxprune.sweep(
        **SETTINGS, dataset=data, technique=["unstructured", "structured"], sparsity=75,
        controls="random,layerwise-random,scratch", out=folder / "runs", name="controls", workers=1,
    )  # fmt: skip


def test_controls_are_of_the_same_size(controlled: pd.DataFrame) -> None:
    assert list(controlled["control"].unique()) == ["none", "random", "layerwise-random", "scratch"]
    for _, rows in controlled.groupby("technique"):
        assert rows["achieved_sparsity"].nunique() == 1
        assert rows["macs"].nunique() == 1
        assert rows["cross_entropy"].nunique() == 4, "two are the same network"


def test_controls_differ_in_what_they_keep(controlled: pd.DataFrame, folder: Path) -> None:
    def masks(control: str) -> dict[str, torch.Tensor]:
        name = controlled[(controlled["control"] == control) & (controlled["technique"] == "unstructured")]
        (path,) = (folder / "runs" / "controls").glob(f"*-{name['spec_hash'].item()}")
        return safetensors.torch.load_file(path / store.MASKS)

    own, anywhere, in_layer, scratch = (masks(name) for name in ("none", "random", "layerwise-random", "scratch"))

    def shares(of: dict[str, torch.Tensor]) -> list[int]:
        return [int(mask.sum()) for mask in of.values()]

    assert shares(in_layer) == shares(own)
    assert shares(anywhere) != shares(own)
    assert any((in_layer[name] != own[name]).any() for name in own)
    assert all(torch.equal(scratch[name], own[name]) for name in own)


def test_the_scratch_control_has_the_whole_budget(controlled: pd.DataFrame) -> None:
    images = controlled[controlled["technique"] == "structured"].set_index("control")["training_images"]
    assert images["scratch"] == (3 + 2) * 216
    assert images["none"] == images["random"] == 2 * 216


def test_the_scratch_control_starts_from_weights_of_its_own(dataset: Dataset) -> None:
    points = Sweep.parse({**SETTINGS, "dataset": dataset.name + ".npz", "technique": "weight", "controls": "scratch"})
    (scratch,) = [point for point in points.points if point.control == "scratch" and point.sparsity == 0]
    job = work(dataset, technique="weight", control="scratch", sparsity=0, epochs=0, finetune_epochs=0)
    assert (scratch.epochs, scratch.finetune_epochs) == (3, 2)
    network = one_shot(job).network
    assert not torch.equal(network.hidden.weight, job.base.hidden.weight)


# What makes no sense

LAYERS = {"model": "densenet121", "dataset": "cifar10", "technique": "structured", "granularity": "layer"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "rigl", "technique": "structured"}, ["rigl", "single weights", "weight, unstructured"]),
        ({"schedule": "set", "technique": "weight", "criterion": "taylor"}, ["set", "accepts l1"]),
        ({"schedule": "agp", "model": "densenet121", "technique": "structured", "granularity": "layer"}, ["whole"]),
        ({"schedule": "movement", "technique": "weight", "finetune_epochs": 0}, ["movement", "above 0"]),
        ({"schedule": "movement", "technique": "weight", "criterion": "l1"}, ["accepts movement"]),
        ({"schedule": "movement", "technique": "weight", "precision": "fp16"}, ["fp16"]),
        ({"criterion": "movement", "technique": "weight"}, ["does not accept", "movement"]),
        ({"schedule": "agp", "control": "layerwise-random", "technique": "weight"}, ["decides several times"]),
        ({"schedule": "agp", "control": "scratch", "technique": "weight"}, ["one-shot"]),
        ({"schedule": "rigl", "control": "random", "technique": "weight"}, ["its own criterion"]),
        ({"schedule": "lottery", "technique": "weight", "epochs": 2, "rewind_epoch": 3}, ["at most the 2 epochs"]),
        ({"rounds": 3, "technique": "weight"}, ["rounds", "iterative, agp, linear", "one-shot is not"]),
        ({"max_drop": 3, "technique": "weight", "schedule": "agp"}, ["max_drop", "adaptive"]),
        ({"rewind_epoch": 1, "technique": "weight"}, ["rewind_epoch", "lottery"]),
        ({"compensate": True, "technique": "neuron", "schedule": "agp"}, ["compensate", "one-shot"]),
        ({"compensate": True, "technique": "weight"}, ["compensate", "neuron and structured"]),
        ({**LAYERS, "compensate": True}, ["compensate", "neuron and structured"]),
        ({**LAYERS, "schedule": "lottery", "rounds": 2}, ["lottery", "in one round", "--rounds 1"]),
        ({**LAYERS, "control": "layerwise-random"}, ["layerwise-random", "as a whole"]),
        ({"distill": 0.5, "technique": "weight", "schedule": "at-init"}, ["distill", "at-init is not"]),
        ({"distill": 1.5}, ["distill", "from 0 to 1"]),
        ({"adaptive": True, "schedule": "agp"}, ["either adaptive or schedule"]),
        ({"adaptive": True, "controls": "random"}, ["control 'random'", "another number of units"]),
        ({"controls": "random", "control": "random"}, ["either controls or control"]),
        ({"controls": "chance"}, ["controls", "scratch"]),
    ],
)
def test_combinations_without_sense_are_refused_with_the_reason(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(onnxprune.InputError) as caught:
        Sweep.parse(settings)
    for word in words:
        assert word in str(caught.value)


def test_every_schedule_has_a_function_and_a_line_in_the_help() -> None:
    help_text = {field.name: field.metadata["help"] for field in dataclasses.fields(Point)}["schedule"]
    for name, entry in SCHEDULES.items():
        assert callable(resolve_name(entry.run))
        assert name in help_text
    assert MODELS["slp"].recipe.finetune_epochs > 0
