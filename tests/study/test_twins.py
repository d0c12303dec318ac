"""Networks that several points come to are made once."""

from pathlib import Path
from typing import Any

import onnx
import pandas as pd
import pytest
import safetensors.numpy
from command_line import small_npz

import onnxprune
from onnxprune.common.files import read_json
from onnxprune.results import store
from onnxprune.schedules import context
from onnxprune.settings.sweep import Sweep
from onnxprune.study.cleaning import clean, leftovers
from onnxprune.study.controller import run_sweep
from onnxprune.study.twins import noted_makers

SETTINGS: dict[str, Any] = {
    "model": "slp", "hidden": 64, "batch_size": 32, "epochs": 2, "finetune_epochs": 1, "latency_seconds": 0,
}  # fmt: skip
ASKED = {"technique": "weight,neuron,structured", "sparsity": [0, 50, 50.3, 100]}
OF_A_RUN = ("seconds", "per_second", "memory", "timing_", "finished", "same_as", "control_", "images_", "_change")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_npz(tmp_path_factory.mktemp("data") / "squares.npz"))


def own(table: pd.DataFrame) -> pd.DataFrame:
    """What does not depend on the clock, nor on which other rows there are."""
    found = table[[name for name in table if not any(word in name for word in OF_A_RUN)]]
    return found.set_index("folder").sort_index()


def test_equal_networks_are_made_once_and_their_rows_are_as_if_made_alone(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = context.train_checked
    monkeypatch.setattr(context, "train_checked", lambda *args, **how: trained.append(args) or train(*args, **how))
    table = onnxprune.sweep(dataset=data, name="all", out=tmp_path / "runs", workers=1, **ASKED, **SETTINGS)
    assert len(table) == 12
    networks = table["network_id"].nunique()
    assert len(trained) == networks == table["same_as"].isna().sum()
    same = {
        (row["technique"], row["sparsity"]): table.set_index("folder").loc[row["same_as"]][["technique", "sparsity"]]
        for row in table.to_dict("records")
        if not pd.isna(row["same_as"])
    }
    assert {way: tuple(first) for way, first in same.items()} == {
        ("neuron", 0): ("weight", 0),
        ("structured", 0): ("weight", 0),
        ("neuron", 50.3): ("neuron", 50),
        ("structured", 50.3): ("structured", 50),
        ("structured", 100): ("neuron", 100),
    }
    for technique, sparsity in same:
        if sparsity == 50.3 or (technique, sparsity) == ("structured", 0):  # as 0 % of neuron
            continue
        alone = onnxprune.run_experiment(
            dataset=data, technique=technique, sparsity=sparsity, out=tmp_path / technique / str(sparsity), **SETTINGS
        )
        twin = own(table).loc[alone["folder"]]
        pd.testing.assert_frame_equal(twin, own(alone)[twin.columns], check_dtype=False)
        (path,) = (tmp_path / technique / str(sparsity)).glob("slp*/*-s*")
        here = tmp_path / "runs" / "all" / path.name
        for name in (store.MODEL, store.RIGHT):
            assert (here / name).read_bytes() == (path / name).read_bytes()
        properties = {entry.key: entry.value for entry in onnx.load(here / store.MODEL).metadata_props}
        assert (properties["technique"], float(properties["sparsity"])) == (technique, sparsity)
        masks = [safetensors.numpy.load_file(folder / store.MASKS) for folder in (here, path)]
        assert all((masks[0][name] == masks[1][name]).all() for name in masks[0].keys() | masks[1].keys())


def test_a_network_that_is_there_has_its_file_in_8_bits_too(data: str, tmp_path: Path) -> None:
    how = {"dataset": data, "sparsity": 0, "also": "int8", **SETTINGS}
    together = onnxprune.sweep(technique="weight,structured", name="all", out=tmp_path / "runs", workers=1, **how)
    alone = onnxprune.run_experiment(technique="structured", out=tmp_path / "alone", **how)
    twin = own(together).loc[alone["folder"]]
    assert together["same_as"].notna().sum() == 1
    pd.testing.assert_frame_equal(twin, own(alone)[twin.columns], check_dtype=False)
    assert (tmp_path / "runs" / "all" / alone["folder"].item() / store.INT8_MODEL).is_file()


def test_a_network_whose_maker_is_damaged_is_made_again(data: str, tmp_path: Path) -> None:
    how = {"dataset": data, "name": "study", "out": tmp_path, "workers": 1, **SETTINGS}
    first = onnxprune.sweep(technique="weight", sparsity=0, **how)
    maker = tmp_path / "study" / first["folder"].item()
    (maker / store.MODEL).write_bytes(b"")
    plan = Sweep.parse({"technique": "structured", "sparsity": 0, "dataset": data, "name": "study", **SETTINGS})
    table = run_sweep(plan, tmp_path, workers=1, others="keep").table.set_index("technique")
    record = read_json(tmp_path / "study" / table.loc["structured", "folder"] / store.METRICS)
    assert "twin" not in record, "a damaged file was copied"
    assert table.loc["structured", "cross_entropy"] == first["cross_entropy"].item()


def test_what_is_trained_or_timed_in_another_way_is_another_network(data: str, tmp_path: Path) -> None:
    how = {"dataset": data, "technique": "weight", "sparsity": 0, "out": tmp_path, **SETTINGS}
    changes: list[dict[str, Any]] = [{}, {"finetune_epochs": 2}, {"distill": 0.5}, {"seed": 1}, {"control": "scratch"}]
    found = {onnxprune.run_experiment(**{**how, **change})["network_id"].item() for change in changes}
    assert len(found) == len(changes)


def test_what_was_cleaned_is_made_again(data: str, tmp_path: Path) -> None:
    how = {"dataset": data, "name": "study", "out": tmp_path, "workers": 1, **SETTINGS}
    table = onnxprune.sweep(technique="weight", sparsity=[0, 50], **how)
    clean(leftovers(tmp_path / "study", ()))
    assert noted_makers(tmp_path / "study") == {}
    plan = Sweep.parse({"technique": "neuron", "sparsity": 0, "dataset": data, "name": "study", **SETTINGS})
    more = run_sweep(plan, tmp_path, workers=1, others="keep").table.set_index("technique")
    assert more.loc["neuron", "cross_entropy"] == table[table["sparsity"] == 0]["cross_entropy"].item()
    assert (tmp_path / "study" / more.loc["neuron", "folder"] / store.MODEL).is_file()
