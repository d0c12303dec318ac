"""Studies of a file that is no classifier, on images without labels: the unpruned file's answers are right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import trained
from command_line import called

import onnxprune
from onnxprune.analysis.classifier import open_classifier
from onnxprune.common.errors import InputError
from onnxprune.common.progress import Verbosity
from onnxprune.results import store
from onnxprune.settings.sweep import Sweep
from onnxprune.study.search import search
from onnxprune.study.sensitivity import sensitivity

PIXELS = ("--mean", "0", "--std", "1")
QUICK = {"batch_size": 64, "channel_align": 1, "latency_seconds": 0.0, "mean": "0", "std": "1"}


def two_answers(path: Path) -> Path:
    """A network of two outputs of unlike size: ten numbers, and eight that are a thousand times as large."""
    trained.mlp(path)
    model = onnx.load(path)
    scale = np.random.default_rng(0).normal(0, 1000, (32, 8)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(scale, "scale"))
    model.graph.node.append(onnx.helper.make_node("MatMul", ["r2", "scale"], ["boxes"]))
    shape = ["n", 8]
    model.graph.output.append(onnx.helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, shape))
    onnx.helper.set_model_props(model, {"accuracy": "97.5", "author": "somebody"})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("unlabelled")
    two_answers(found / "two.onnx")
    trained.without_labels(found / "images.npz")
    return found


@pytest.fixture(scope="module")
def study(folder: Path) -> tuple[Path, pd.DataFrame]:
    table = onnxprune.sweep(
        model=str(folder / "two.onnx"),
        dataset=str(folder / "images.npz"),
        technique=["structured", "neuron", "weight"],
        sparsity=[0, 50, 100],
        finetune_epochs=2,
        also="int8",
        name="study",
        out=folder / "runs",
        workers=1,
        **{**QUICK, "latency_seconds": 0.02},
    )
    return folder / "runs/study", table


def answers(path: Path, pictures: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["scores", "boxes"], {"pixels": pictures.reshape(-1, 64).astype(np.float32) / 255})


def test_fidelity_is_what_the_answers_say(folder: Path, study: tuple[Path, pd.DataFrame]) -> None:
    sweep, table = study
    with np.load(folder / "images.npz") as file:
        pictures = file["x_test"]
    rows = table.set_index(["technique", "sparsity"])
    for way in (("structured", 50), ("weight", 50), ("weight", 0)):
        row = rows.loc[way]
        files = (folder / "two.onnx", sweep / row["folder"] / store.MODEL)
        pairs = list(zip(*(answers(path, pictures) for path in files), strict=True))
        shares = [np.square(before - after).sum() / np.square(before).sum() for before, after in pairs]
        error = np.sqrt(np.mean(shares))  # not of all numbers together, of which the larger would be nearly all
        assert row["relative_error"] == pytest.approx(error, rel=1e-3, abs=1e-6)
        assert row["fidelity"] == pytest.approx(100 * (1 - error), abs=1e-2)
        before, after = (np.concatenate(both, 1).astype(float) for both in zip(*pairs, strict=True))
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        assert row["cosine"] == pytest.approx(((before * after).sum(1) / norms).mean(), rel=1e-4)
        same = (pairs[0][0].argmax(1) == pairs[0][1].argmax(1)).mean()
        assert row["agreement"] == pytest.approx(100 * same)
        assert row["validation_fidelity"] != row["fidelity"] or way[1] == 0


def test_there_is_no_accuracy(study: tuple[Path, pd.DataFrame]) -> None:
    sweep, table = study
    assert table[["accuracy", "base_accuracy", "validation_accuracy", "cross_entropy"]].isna().all(axis=None)
    assert (table["base_fidelity"] == 100).all()
    assert not list(sweep.glob("*/right.npy"))
    properties = {
        entry.key: entry.value for entry in onnx.load(sweep / table["folder"][0] / store.MODEL).metadata_props
    }
    assert "accuracy" not in properties, "that of the source is no longer true"
    assert properties["author"] == "somebody"
    assert float(properties["fidelity"]) == pytest.approx(table["fidelity"][0])


def test_pruning_costs_fidelity_and_training_wins_some_back(study: tuple[Path, pd.DataFrame]) -> None:
    rows = study[1].set_index(["technique", "sparsity"])
    assert rows.loc[("weight", 0), "before_finetuning_fidelity"] == 100
    half = rows.loc[("structured", 50)]
    assert half["before_finetuning_fidelity"] < half["fidelity"] < 95
    assert half["teacher_flops"] > 0, "the unpruned file answered to every image"
    assert 0 < half["int8_fidelity"] < 100
    assert rows.loc[("weight", 50), "fidelity"] > half["fidelity"]
    assert rows.loc[("weight", 100), "collapsed"]
    assert not rows.loc[("weight", 50), "collapsed"]
    assert rows.loc[("structured", 50), "same_as"] == rows.loc[("neuron", 50), "folder"] or (
        rows.loc[("neuron", 50), "same_as"] == half["folder"]
    )


def test_the_table_the_page_and_the_figure_are_of_fidelity(study: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    sweep, _ = study
    text = called("results", str(sweep)).stdout
    assert "fidelity" in text and "100 % less the relative error" in text
    assert "acc " not in text and "accuracy" not in text
    called("report", str(sweep), "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "Fidelity and sparsity" in page and "test fidelity (%)" in page
    assert "test accuracy" not in page and "0 % control" not in page
    figure = called("plot", str(sweep), "--out", str(tmp_path / "figure.svg"))
    assert "fidelity (%)" in Path(figure.stdout.strip()).read_text()


def test_what_is_shipped_is_chosen_by_fidelity(study: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    sweep, _ = study
    missed = called("deploy", str(sweep), "--max-drop", "0", "--min-speedup", "50", "--out", str(tmp_path))
    assert missed.returncode == 1
    assert "points below the base's" in missed.stderr and "validation fidelity" in missed.stderr
    done = called("deploy", str(sweep), "--min-accuracy", "70", "--layout", "triton", "--out", str(tmp_path), "--json")
    (entry,) = json.loads(done.stdout)
    assert entry["validation_fidelity"] >= 70
    assert entry["accuracy"] is None
    card = (tmp_path / entry["card"]).read_text()
    for words in ("fidelity to the unpruned file", "`scores`, float (batch, 10)", "`boxes`, float (batch, 8)"):
        assert words in card
    assert "classif" not in card
    triton = (tmp_path / entry["name"] / "config.pbtxt").read_text()
    assert 'name: "boxes"' in triton and "dims: [ 8 ]" in triton and "labels.txt" not in triton
    refused = called("deploy", str(sweep), "--bake", "--out", str(tmp_path))
    assert refused.returncode == 2
    assert "--bake puts the preprocessing and a softmax into the graph of a classifier" in refused.stderr


def test_search_adaptive_and_sensitivity_look_at_the_validation_images(
    folder: Path, study: tuple[Path, pd.DataFrame]
) -> None:
    given = {"model": str(folder / "two.onnx"), "dataset": str(folder / "images.npz"), "finetune_epochs": 0, **QUICK}
    plan = Sweep.parse({**given, "technique": "weight", "sparsity": 50})
    (found,) = search(plan, 20.0, folder / "runs", step=20, verbosity=Verbosity.QUIET, workers=1)
    best = max(trial.sparsity for trial in found.trials if trial.accepted)
    assert found.sparsity == best > 0
    assert found.metrics["base_validation_fidelity"] - found.metrics["validation_fidelity"] <= 20
    layers = sensitivity(plan, folder / "runs", verbosity=Verbosity.QUIET)
    assert all(entry.accuracy is None and entry.fidelity is not None for entry in layers)
    assert all(entry.drop == pytest.approx(100 - (entry.fidelity or 0)) for entry in layers)
    adaptive = onnxprune.run_experiment(
        **given | {"finetune_epochs": 2}, technique="weight", schedule="adaptive", max_drop=10, sparsity=90, rounds=3,
        out=folder / "runs",
    )  # fmt: skip
    (found,) = adaptive.to_dict("records")
    assert found["validation_fidelity"] >= 88, "it stops near what may be lost"
    assert found["achieved_sparsity"] > 0


def test_a_schedule_that_prunes_while_it_trains_has_nothing_before(folder: Path) -> None:
    sweep = (
        "sweep", "--model", folder / "two.onnx", "--dataset", folder / "images.npz", *PIXELS, "--technique=structured",
        "--sparsity=50", "--schedule=agp", "--control=random", "--latency-seconds=0", "--out", folder / "gradual",
    )  # fmt: skip
    done = called(*sweep, "--workers=1", "--name=agp")
    assert done.returncode == 0, done.stderr
    assert "structured" in done.stdout
    page = (folder / "gradual/agp/report.html").read_text()
    assert "test fidelity (%)" in page


@pytest.mark.parametrize(
    ("settings", "words"),
    {
        "an untrained network": ({"model": "slp", "mean": None, "std": None}, "is trained with labels"),
        "taylor": ({"technique": "unstructured", "criterion": "taylor"}, "criterion 'taylor' needs labels; l1"),
        "epochs": ({"epochs": 2}, "leave --epochs and --updates out"),
        "half a teacher": ({"distill": 0.5}, "leave --distill out, or give 1"),
        "no normalisation": ({"mean": None, "std": None}, "give the --mean and --std"),
    }.values(),
)
def test_what_needs_labels_is_refused_before_anything_is_run(
    settings: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    given = {"model": str(folder / "two.onnx"), "dataset": str(folder / "images.npz"), "technique": "weight", **QUICK}
    chosen = {name: value for name, value in {**given, **settings}.items() if value is not None}
    with pytest.raises(InputError, match="labels") as refused:
        onnxprune.sweep(**chosen, sparsity=50, out=tmp_path / "runs", workers=1)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


def _turned(model: onnx.ModelProto) -> None:
    """How many rows there are has nothing to do with the images, as after non-maximum suppression."""
    model.graph.node.append(onnx.helper.make_node("Transpose", ["boxes"], ["turned"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("turned", onnx.TensorProto.FLOAT, [8, "n"]))


def _of_whole_numbers(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["scores"], ["best"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, ["n", 1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [(_turned, "expected an entry for each image"), (_of_whole_numbers, "none of its outputs is of floating-point")],
)
def test_answers_that_cannot_be_compared_are_refused(
    change: Callable[[onnx.ModelProto], None], words: str, folder: Path, tmp_path: Path
) -> None:
    model = onnx.load(folder / "two.onnx")
    change(model)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=words):
        onnxprune.sweep(
            model=str(tmp_path / "other.onnx"), dataset=str(folder / "images.npz"), technique="weight", sparsity=50,
            out=tmp_path / "runs", workers=1, **QUICK,
        )  # fmt: skip


def test_accuracy_is_not_told_of_data_without_labels(folder: Path, tmp_path: Path) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx")
    assert open_classifier(path).output_name == "scores"
    refused = called("evaluate", str(path), "--dataset", str(folder / "images.npz"), *PIXELS)
    assert refused.returncode == 2
    assert "images has no labels" in refused.stderr


def test_data_with_and_without_labels_may_be_in_one_sweep(folder: Path, tmp_path: Path) -> None:
    model, labelled = trained.mlp(tmp_path / "mlp.onnx"), trained.dataset(tmp_path / "digits8.npz")
    done = called(
        "sweep", "--model", model, "--dataset", f"{labelled},{folder / 'images.npz'}", *PIXELS, "--technique=weight",
        "--sparsity=0,50", "--finetune-epochs=0", "--latency-seconds=0.02", "--also=int8", "--out", tmp_path / "runs",
        "--name=both", "--workers=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "acc: top-1 accuracy" in done.stdout and "fidelity: how close" in done.stdout
    both = tmp_path / "runs/both"
    page = (both / "report.html").read_text()
    assert "within 1 point of accuracy or fidelity" in page
    for figure in ((), ("--y", "fidelity")):
        assert called("plot", both, "--out", tmp_path / "f.png", *figure).returncode == 0
    entries = json.loads(called("deploy", both, "--max-drop=20", "--out", tmp_path / "out", "--json").stdout)
    assert [entry["accuracy"] is None for entry in entries] == [False, True]
    assert called("results", both, "--latex").returncode == 0
