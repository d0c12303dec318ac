"""`deploy`: the choice among a sweep's points, the copy, the card and the index."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from command_line import REPOSITORY, called, small_npz
from made_up import hand_made
from PIL import Image

import onnxprune as package
from onnxprune.common.errors import InputError, OnnxpruneError, RunError
from onnxprune.common.files import locked, write_json
from onnxprune.delivery import deployment, headline, modelcard
from onnxprune.delivery.choice import choose, studies
from onnxprune.delivery.constraints import constraints
from onnxprune.results.tables import result_table
from onnxprune.settings.sweep import Sweep
from onnxprune.settings.vocabulary import TECHNIQUES


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    usual = {
        "model": "cnn",
        "dataset": "fmnist",
        "accuracy_change": -0.5,
        "technique": "structured",
        "criterion": "l1",
        "sparsity": 50.0,
        "accuracy": 90.0,
        "validation_accuracy": 90.0,
        "base_validation_accuracy": 91.0,
        "collapsed": False,
        "macs": 1000,
        "file_bytes": 4000,
        "latency_ms_paired": 0.5,
        "base_latency_ms_median": 1.0,
        "speedup": 2.0,
        "speedup_noise": 0.01,
    }
    return pd.DataFrame(
        [{**usual, "folder": f"point{index}", **change} for index, change in enumerate(changes)]
    ).convert_dtypes()


def chosen(table: pd.DataFrame, **limits: Any) -> str:
    return str(choose(table, constraints(**limits)).row["folder"])


def test_the_fastest_that_satisfies_every_constraint_is_chosen() -> None:
    table = rows(
        {"speedup": 2.0},
        {"speedup": 3.0, "validation_accuracy": 89.9},
        {"speedup": 2.5, "file_bytes": 5000},
        {"speedup": 9.0, "collapsed": True},
    )
    assert chosen(table, max_drop=2) == "point1"
    assert chosen(table, max_drop=1.0) == "point2"  # exactly at the limit
    assert chosen(table, max_drop=1.0, max_bytes=4000) == "point0"
    assert chosen(table, min_accuracy=90) == "point2"
    assert chosen(table, max_drop=2, min_speedup=2.9) == "point1"


def test_a_speedup_beyond_theory_is_not_praised() -> None:
    table = rows({"speedup": 2.0}, {"speedup": 9.0, "speedup_beyond_theory": True}, {"speedup": 3.0})
    assert chosen(table, max_drop=2) == "point2"
    assert chosen(table, max_drop=2, min_speedup=5) == "point1", "it alone is left"


@pytest.mark.parametrize("control", [{"criterion": "random"}, {"control": "random"}, {"control": "scratch"}])
def test_a_control_is_no_answer_unless_nothing_else_was_run(control: dict[str, Any]) -> None:
    faster = {"speedup": 5.0, "validation_accuracy": 91.0, **control}
    choice = choose(rows({"control": "none"}, faster), constraints(max_drop=1))
    assert (choice.row["folder"], choice.candidates, choice.points) == ("point0", 1, 1)
    assert choice.clock == ()
    with pytest.raises(RunError, match=r"none of 1 model .* the nearest is structured l1 50 %"):
        choose(rows({"control": "none"}, faster), constraints(max_drop=1, min_speedup=4))
    assert "Only controls were run" in choose(rows(faster), constraints(max_drop=1)).clock[0]


def test_the_test_accuracy_has_no_say() -> None:
    table = rows({"accuracy": 99.0, "validation_accuracy": 80.0, "speedup": 3}, {"accuracy": 10.0})
    assert chosen(table, max_drop=1) == "point1"


def test_speedups_within_the_noise_are_ties_that_validation_accuracy_breaks() -> None:
    table = rows({"speedup": 3.02}, {"speedup": 3.0, "validation_accuracy": 90.8}, {"speedup": 2.9})
    choice = choose(table, constraints(max_drop=1))
    assert (choice.row["folder"], choice.candidates, choice.points) == ("point1", 3, 3)
    assert choice.clock == ("1 other is as fast within timing noise: the highest validation accuracy decided.",)
    twin = table.assign(network_id=["a", "a", "b"])
    choice = choose(twin, constraints(max_drop=1))
    assert choice.clock == (), "the other is the same network"
    assert (choice.candidates, choice.points) == (2, 2)
    with pytest.raises(RunError, match="none of 2 models"):
        choose(twin, constraints(min_accuracy=99))


@pytest.mark.parametrize(("speedup", "tie"), [(1.06, False), (1.04, True), (0.9, False)])
def test_a_speedup_within_the_noise_is_said_to_be_none(speedup: float, tie: bool) -> None:
    choice = choose(rows({"seed": 0, "speedup": speedup, "speedup_noise": 0.05}), constraints(max_drop=1))
    assert choice.tie is tie
    assert ("Its speedup is within timing noise" in choice.decided_on()) is tie


def test_what_seeds_leave_open_is_a_tie_that_validation_accuracy_breaks() -> None:
    changes = [
        {"technique": technique, "seed": seed, "speedup": speedup, "validation_accuracy": accuracy}
        for technique, accuracy, speedups in (
            ("weight", 90.1, (1.06, 0.93, 2.63)),
            ("structured", 90.8, (1.3, 1.31, 1.3)),
        )
        for seed, speedup in enumerate(speedups)
    ]
    choice = choose(rows(*changes), constraints(max_drop=1))
    assert (choice.row["technique"], choice.candidates) == ("structured", 2)
    assert "1 other is as fast" in choice.decided_on()
    apart = [{**change, "speedup": change["speedup"] + (change["technique"] == "weight")} for change in changes]
    assert choose(rows(*apart), constraints(max_drop=1)).row["technique"] == "weight"


@pytest.mark.parametrize(("slower", "chosen"), [((3.7, 4.1), "structured"), ((3.5, 3.9), "weight")])
def test_a_tie_is_within_the_standard_errors_of_both_means(slower: tuple[float, float], chosen: str) -> None:
    """Of 4.0 and 4.4 the mean is 4.2 ± 0.2; the slower one's, plus its own 0.2, has to reach 4.0."""
    changes = [
        {"technique": technique, "seed": seed, "speedup": speedup, "validation_accuracy": accuracy, "speedup_noise": 0}
        for technique, accuracy, speedups in (("weight", 90.1, (4.0, 4.4)), ("structured", 90.8, slower))
        for seed, speedup in enumerate(speedups)
    ]
    assert choose(rows(*changes), constraints(max_drop=1)).row["technique"] == chosen


def test_where_the_noise_says_nothing_the_fewest_macs_decide() -> None:
    noisy = {"speedup_noise": 0.9}
    table = rows(
        {"seed": 0, "sparsity": 0.0, "speedup": 0.7, "validation_accuracy": 91.0, **noisy},
        {"seed": 0, "sparsity": 50.0, "speedup": 1.1, "macs": 500, **noisy},
    )
    choice = choose(table, constraints(max_drop=1))
    assert (choice.row["sparsity"], choice.by) == (50.0, "macs")
    assert "Timing noise of ±90 % says nothing of which is the fastest" in choice.decided_on()
    table["macs_missing"] = "Loop 'x'"
    with pytest.raises(RunError, match=r"timing noise is ±90 %, and not all MACs .* by `onnxprune retime`"):
        choose(table, constraints(max_drop=1))


def test_what_is_left_out_as_beyond_theory_is_said() -> None:
    table = rows(
        {"seed": 0, "speedup": 2.0}, {"seed": 0, "speedup": 9.0, "speedup_beyond_theory": True, "sparsity": 80.0}
    )
    choice = choose(table, constraints(max_drop=1))
    assert choice.row["speedup"] == 2.0
    assert "Left out: 1 whose measured speedup is beyond what MACs and noise explain" in choice.decided_on()
    twins = table.loc[[0, 1, 1]].assign(network_id=["a", "b", "b"], technique=["weight", "weight", "structured"])
    assert "Left out: 1 whose" in choose(twins.reset_index(), constraints(max_drop=1)).decided_on()
    assert choose(table[:1], constraints(max_drop=1)).clock == ()


def test_the_noise_of_the_study_stands_for_that_of_a_part_of_it() -> None:
    part = rows({"speedup": 1.05}, {"speedup": 1.02, "validation_accuracy": 90.8})
    assert choose(part, constraints(max_drop=1)).row["folder"] == "point0"
    assert choose(part, constraints(max_drop=1), floor=0.04).row["folder"] == "point1"


def test_a_limit_that_validation_cannot_tell_is_said() -> None:
    few = rows({"seed": 0, "validation_images": 143, "base_validation_accuracy": 94.4, "validation_accuracy": 94.0})
    choice = choose(few, constraints(max_drop=1))
    said = "A limit of 1 point is within the standard error, 1.9 points, of the base's 94.40 % of 143 validation images"
    assert f" {said}: chance decides in part; " in choice.decided_on()
    assert choose(few, constraints(max_drop=2)).blunt is None
    assert choose(few, constraints(min_accuracy=90)).blunt is None
    assert choose(rows({"validation_images": 5_000}), constraints(max_drop=1)).blunt is None


def test_without_timing_the_fewest_macs_decide() -> None:
    untimed = {"speedup": None, "speedup_noise": None, "latency_ms_paired": None}
    table = rows(
        {"macs": 500, **untimed},
        {"macs": 400, "validation_accuracy": 90.1, **untimed},
        {"macs": 400, "validation_accuracy": 90.2, **untimed},
    )
    choice = choose(table, constraints(max_drop=1))
    assert (choice.row["folder"], choice.by) == ("point2", "macs")


def test_an_incomplete_count_is_not_the_fewest_macs() -> None:
    untimed = {"speedup": None, "speedup_noise": None, "latency_ms_paired": None}
    table = rows({"macs": 500, **untimed}, {"macs": 400, "macs_missing": "Loop 'x'", **untimed})
    assert choose(table, constraints(max_drop=1)).row["folder"] == "point0"
    controls = rows({"control": "random", "macs_missing": "Loop 'x'", **untimed})
    with pytest.raises(RunError, match=r"nothing was timed, and not all MACs.*--latency-seconds"):
        choose(controls, constraints(max_drop=1))
    with pytest.raises(RunError, match=r"not all MACs.*--latency-seconds"):
        choose(table.iloc[1:], constraints(max_drop=1))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_drop": 1, "min_speedup": 4}, ["structured l1 80 %", "speedup 3.00", "speedup at least 4"]),
        ({"max_drop": 0.5}, ["structured l1 50 %", "1.00 points below", "at most 0.5"]),
        ({"max_bytes": 3000}, ["structured l1 50 %", "4,000 bytes", "at most 3,000 bytes"]),
        ({"max_latency_ms": 0.1}, ["latency 0.500 ms", "at most 0.1 ms"]),
        ({"min_accuracy": 95}, ["validation accuracy 90.00 %", "at least 95 %"]),
    ],
)
def test_without_a_candidate_the_nearest_miss_is_named(limits: dict[str, Any], words: list[str]) -> None:
    table = rows({}, {"sparsity": 80.0, "speedup": 3.0, "validation_accuracy": 89.9, "file_bytes": 9000})
    with pytest.raises(RunError) as caught:
        chosen(table, **limits)
    assert "\n" not in str(caught.value)
    for word in ["cnn on fmnist", "none of 2 models", *words]:
        assert word in str(caught.value)


def test_seeds_are_decided_on_by_their_means() -> None:
    table = rows(
        {"technique": "weight", "seed": 0, "speedup": 5.0},
        {"technique": "weight", "seed": 1, "speedup": 1.0},
        {"technique": "neuron", "seed": 0, "speedup": 4.0},
        {"technique": "neuron", "seed": 1, "speedup": 3.0, "validation_accuracy": 90.8, "accuracy": 92.0},
        {"technique": "structured", "seed": 0, "speedup": 9.0},
        {"technique": "structured", "seed": 1, "speedup": 9.0, "collapsed": True},
    )
    choice = choose(table, constraints(max_drop=1))
    assert choice.row["folder"] == "point3", "the one of the highest validation accuracy of the best on average"
    assert (choice.candidates, choice.points, len(choice.seeds)) == (2, 3, 2)
    assert choice.over_seeds("speedup") == (3.5, pytest.approx(0.5**0.5))
    assert choice.over_seeds("accuracy") == (91.0, pytest.approx(2**0.5))
    text = choice.decided_on()
    assert "means over 2 seeds; this file is of seed 1" in text
    assert "accuracy 91.00 ± 1.41 %" in text
    assert "speedup 3.50 ± 0.71" in text
    # on average within the limit, but what is shipped has to be so itself
    assert choose(table, constraints(max_drop=1, min_speedup=3.5)).row["folder"] == "point2"
    one = rows({"seed": 0, "speedup": 2.0, "file_bytes": 10}, {"seed": 1, "speedup": 4.0, "file_bytes": 30})
    with pytest.raises(RunError, match="none of its files does"):
        choose(one, constraints(min_speedup=3, max_bytes=20))


def test_batch_sizes_are_studies_of_their_own(tmp_path: Path) -> None:
    folder = hand_made(tmp_path, "study", technique="structured", sparsity="0,50", batch_size="32,256")
    assert [sorted(rows["batch_size"].unique()) for rows in studies(folder, [])] == [[32], [256]]


def test_a_sweep_of_collapsed_networks_has_none() -> None:
    with pytest.raises(RunError, match="collapsed"):
        chosen(rows({"collapsed": True}), max_drop=100)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one: two sparsities of an MLP on small pictures."""
    folder = tmp_path_factory.mktemp("study")
    data = small_npz(folder / "my squares.npz")
    package.sweep(
        model="slp", hidden=64, dataset=str(data), batch_size=32, epochs=4, finetune_epochs=1, latency_seconds=0.02,
        technique="structured", sparsity=[0, 50, 100], name="study", out=folder / "runs",
    )  # fmt: skip
    return folder / "runs" / "study"


NAME = "slp-my_squares-structured-l1-50"
ASK = ("--max-drop", "100", "--max-bytes", "30000")  # only the one of 50 % is so small and has not collapsed


@pytest.fixture(scope="module")
def models(sweep: Path) -> Path:
    out = sweep.parents[1] / "models"
    done = called("deploy", sweep, *ASK, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # by which of the two depends on how calm the machine was
    assert re.search(rf"^{NAME}: the (fastest|one of the fewest MACs) of the 1 of 3 models", done.stdout, re.MULTILINE)
    return out


def test_the_copy_is_the_model_that_was_measured(models: Path, sweep: Path) -> None:
    (entry,) = json.loads((models / "index.json").read_text())
    row = result_table(sweep).set_index("sparsity").loc[50]
    assert sorted(path.name for path in models.iterdir()) == ["index.json", f"{NAME}.md", f"{NAME}.onnx"]
    content = (models / entry["file"]).read_bytes()
    assert content == (sweep / row["folder"] / "model.onnx").read_bytes()
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert entry["bytes"] == row["file_bytes"]
    for column in ("accuracy", "base_accuracy", "validation_accuracy", "macs", "speedup", "seed"):
        assert entry[column] == row[column]


def test_the_lines_of_the_card_predict_what_predict_does(models: Path) -> None:
    card = (models / f"{NAME}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(code.split("\n\n")[1].splitlines()) == 4, "as short as that"
    images = np.load(models.parent / "my squares.npz")["x_test"][:20]
    np.save(models.parent / "images.npy", images[:, None])
    shutil.copy(models / f"{NAME}.onnx", models.parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=models.parent, capture_output=True, text=True, check=True)
    paths = [models.parent / f"{index}.png" for index in range(20)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    found = json.loads(called("predict", models / f"{NAME}.onnx", *paths, "--json").stdout)
    assert done.stdout.strip("[]\n").split() == [entry["class"] for entry in found]
    assert len({entry["class"] for entry in found}) > 1


def test_card_and_command_tell_the_change_against_the_control_with_the_base_beside_it(
    models: Path, sweep: Path, tmp_path: Path
) -> None:
    row = result_table(sweep).set_index("sparsity").loc[50]
    control = f"{row['accuracy_change']:+.2f} against the 0 % control's {row['control_accuracy']:.2f} % ("
    base = f"base {row['base_accuracy']:.2f} %, {row['accuracy'] - row['base_accuracy']:+.2f} including fine-tuning"
    card, shown = (models / f"{NAME}.md").read_text(), called("deploy", sweep, *ASK, "--out", tmp_path).stdout
    for text in (card, shown):
        assert control in text
        assert re.search(rf"{row['images_lost']} images? lost, {row['images_gained']} gained; 95 % interval ", text)
        assert base in text
        assert f"95 % interval {row['accuracy_low']:.2f} to {row['accuracy_high']:.2f}" in text
        assert "One seed (0): how much results differ between seeds was not measured." in text
    assert "50 % removed" in card


def test_what_was_removed_names_the_file() -> None:
    row = {"model": "cnn", "dataset": "digits", "technique": "neuron", "criterion": "l1", "sparsity": 70.0}
    row["variant"] = "float32"
    assert deployment._name({**row, "achieved_sparsity": 75.02}, {}) == "cnn-digits-neuron-l1-75"
    scratch = {**row, "achieved_sparsity": 75.0, "control": "scratch"}
    assert deployment._name(scratch, {}) == "cnn-digits-neuron-l1-75-scratch"
    assert headline.way(scratch) == "neuron l1 (scratch)"
    assert headline.removed({**row, "achieved_sparsity": 75.02}) == "75 % removed (70 % asked)"
    assert headline.removed({**row, "achieved_sparsity": 70.0}) == "70 % removed"


def test_the_card_tells_what_chose_the_units_and_what_the_images_were_for() -> None:
    row = {
        "model": "trained.onnx", "dataset": "digits", "technique": "neuron", "criterion": "obs", "schedule": "one-shot",
        "sparsity": 50.0, "achieved_sparsity": 50.0, "control": "none", "variant": "float32", "accuracy": 90.0,
        "base_accuracy": 91.0, "train_images": 200, "training_images": 400, "test_images": 360,
    }  # fmt: skip
    assert "schedule `one-shot`, then fine-tuned for 2 epochs)" in modelcard._summary(row, 1)
    by_chance = modelcard._summary({**row, "control": "random"}, 1)
    assert "control `random`: as many units, chosen at random, then fine-tuned for 2 epochs)" in by_chance
    scratch = modelcard._summary({**row, "control": "scratch"}, 1)
    assert "trained from new random weights for all epochs)" in scratch and "fine-tuned" not in scratch
    weights = {**row, "technique": "weight", "criterion": "l1"}
    gone = "Pruning removed single weights, which are stored as zeros; units that had none left are gone"
    assert gone in modelcard._summary(weights, 1)
    assert "are gone" not in modelcard._summary({**weights, "keep_dead": True}, 1)
    layers = modelcard._summary({**row, "technique": "structured", "granularity": "layer"}, 1)
    assert "Pruning removed whole layers, so the network is smaller" in layers
    assert "It was made of a trained file with 200 images and tested on 360." in modelcard._limits(row)[0]
    assert "It was trained on 200 images and tested on 360." in modelcard._limits({**row, "model": "cnn"})[0]


@pytest.mark.parametrize(
    ("schedule", "sparsity", "achieved", "said"),
    [
        ("one-shot", 50.0, 50.0, "50 % removed"),
        ("one-shot", 90.0, 89.3, "89.3 % removed (90 % asked)"),
        ("adaptive", 100.0, 94.5, "94.5 % removed (at most 100 % asked)"),
        ("adaptive", 0.0, 1.0, "1 % removed (0 % asked)"),
    ],
)
def test_what_was_removed_is_told_with_what_was_asked(
    schedule: str, sparsity: float, achieved: float, said: str
) -> None:
    row = {"schedule": schedule, "sparsity": sparsity, "achieved_sparsity": achieved}
    assert headline.removed(row) == said


def test_another_schedule_than_the_usual_one_is_part_of_the_name() -> None:
    row = {"technique": "weight", "criterion": "l1", "schedule": "one-shot", "control": "none"}
    assert headline.way(row) == "weight l1"
    assert headline.way({**row, "schedule": "agp"}) == "weight l1 agp"
    assert headline.way({**row, "schedule": "agp", "control": "random"}) == "weight l1 agp (random)"


def test_the_remark_on_the_base_is_of_rows_that_are_trained_alike() -> None:
    table = rows(
        {"schedule": "one-shot", "sparsity": 0.0, "accuracy": 90.0},
        {"schedule": "iterative", "sparsity": 0.0, "accuracy": 99.0},
        {"schedule": "iterative", "sparsity": 50.0, "accuracy": 95.0},
    ).assign(base_id="base", base_accuracy=90.0, control="none", test_images=1_000)
    remarks = [deployment._remarks(table, row) for row in table.to_dict("records")]
    assert remarks[0] == ()
    assert remarks[1] == remarks[2] and "9.00 points better" in remarks[1][0]


def test_the_remark_on_fine_tuning_is_of_the_row_itself() -> None:
    before = {"schedule": "one-shot", "before_finetuning_accuracy": 90.0}
    table = rows({**before, "sparsity": 50.0, "accuracy": 90.0}, {**before, "sparsity": 90.0, "accuracy": 80.0})
    table = table.assign(base_id="base", base_accuracy=90.0, control="none", test_images=1_000)
    sound, harmed = (deployment._remarks(table, row) for row in table.to_dict("records"))
    assert sound == ()
    assert len(harmed) == 1 and "10.00 points worse" in harmed[0]


def test_without_a_control_nothing_is_told_of_what_pruning_cost() -> None:
    row = {"accuracy": 97.2, "base_accuracy": 97.0, "accuracy_change": None}
    assert headline.change(row).startswith(
        "base 97.00 %, +0.20 including fine-tuning; what pruning alone cost is not known"
    )


def test_one_image_is_one_image() -> None:
    row = {"accuracy": 97.2, "base_accuracy": 97.0, "accuracy_change": 0.1, "control_accuracy": 97.1}
    assert "(1 image lost, 3 gained)" in headline.change({**row, "images_lost": 1, "images_gained": 3})
    assert "(1,200 images lost, 3 gained)" in headline.change({**row, "images_lost": 1200, "images_gained": 3})


def test_evaluate_gives_the_accuracy_of_the_card(models: Path) -> None:
    data = models.parent / "my squares.npz"
    done = called("evaluate", models / f"{NAME}.onnx", "--dataset", data, "--json")
    accuracy = json.loads(done.stdout)["accuracy"]
    assert f"| accuracy, 60 test images, % | {accuracy:.2f} |" in (models / f"{NAME}.md").read_text()


def test_the_command_of_the_card_is_the_point(models: Path, sweep: Path) -> None:
    (line,) = re.findall(r"```sh\nonnxprune run (.*)\n```", (models / f"{NAME}.md").read_text())
    words = shlex.split(line)
    options = {flag[2:].replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    row = result_table(sweep).set_index("sparsity").loc[50]
    assert Sweep.one_point(options).points[0].point_id(row["data_checksum"]) == row["folder"]


def test_what_qualifies_the_numbers_is_below_their_table(sweep: Path) -> None:
    row = result_table(sweep).astype(object).set_index("sparsity").loc[50].to_dict()
    shipped = modelcard.Shipped("m.onnx", "", None, (0.5, 1.0), "", None, "2026-01-31")
    remark = {"base_dead_units": 7, "remarks": ("far from trained out", "harmed")}
    lines = modelcard._numbers({**row, **remark, "macs_missing": "Loop 'x'"}, shipped)
    below = lines.index("")
    assert all(line.startswith("|") for line in lines[:below])
    assert "| dead units of the base | | 7 |" in lines[:below]
    said = [line for line in lines[below:] if line]
    assert [line.split()[0] for line in said] == ["Note:", "Note:", "Not"]
    assert said[:2] == ["Note: far from trained out.", "Note: harmed."]
    assert said[2:] == ["Not all MACs are counted, so they cannot be compared: Loop 'x'."]
    assert not [
        line for line in modelcard._numbers({**row, "base_dead_units": 0}, shipped) if "not all counted" in line
    ]


def test_deploying_again_replaces_and_another_model_is_added(models: Path, sweep: Path) -> None:
    again = called("deploy", sweep, *ASK, "--out", models, "--json")
    assert json.loads(again.stdout) == json.loads((models / "index.json").read_text())
    out = models.parent / "two"
    shutil.copytree(models, out)
    (dense,) = json.loads(called("deploy", sweep, "--max-drop", 0, "--out", out, "--json").stdout)
    names = [entry["name"] for entry in json.loads((out / "index.json").read_text())]
    assert names == sorted({NAME, dense["name"]})


def test_another_point_of_the_same_name_gets_its_hash(models: Path, sweep: Path) -> None:
    out = models.parent / "taken"
    out.mkdir()
    (entry,) = json.loads((models / "index.json").read_text())
    write_json(out / "index.json", [{**entry, "point": "another"}])
    (added,) = json.loads(called("deploy", sweep, *ASK, "--out", out, "--json").stdout)
    assert added["name"] == f"{NAME}-{added['point'].rsplit('-', 1)[1]}"
    assert len(json.loads((out / "index.json").read_text())) == 2


def test_the_layout_of_triton(models: Path, sweep: Path) -> None:
    out = models.parent / "triton"
    done = called("deploy", sweep, *ASK, "--out", out, "--layout", "triton")
    assert done.returncode == 0, done.stderr
    folder = out / NAME
    assert (folder / "1" / "model.onnx").read_bytes() == (models / f"{NAME}.onnx").read_bytes()
    assert (folder / "labels.txt").read_text() == "0\n1\n2\n"
    text = "".join(line for line in (folder / "config.pbtxt").read_text().splitlines() if not line.startswith("#"))
    assert "".join(text.split()) == (
        f'name:"{NAME}"platform:"onnxruntime_onnx"max_batch_size:32'
        'input[{name:"input"data_type:TYPE_FP32dims:[1,12,12]}]'
        'output[{name:"logits"data_type:TYPE_FP32dims:[3]label_filename:"labels.txt"}]'
    )


def test_nothing_satisfies_is_one_line_and_exit_code_1(sweep: Path, tmp_path: Path) -> None:
    done = called("deploy", sweep, "--min-speedup", 1000, "--out", tmp_path / "models")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "asked: speedup at least 1000" in done.stderr
    assert not (tmp_path / "models").exists()


def test_neither_pytorch_nor_nni_is_imported(sweep: Path, tmp_path: Path) -> None:
    arguments = ["deploy", str(sweep), *ASK, "--out", str(tmp_path), "--json"]
    code = (
        "import sys, onnxprune.cli, onnxprune.delivery.deployment as deployment\n"
        "deployment._TIMING_SECONDS = 0.02\n"
        f"onnxprune.cli.cli.main({arguments!r}, standalone_mode=False)\n"
        "print(sorted({'torch', 'nni', 'torchvision'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def deployed(sweep: Path, out: Path) -> None:
    wanted = constraints(max_drop=100, max_bytes=30_000)
    for table in studies(sweep, wanted):
        deployment.deploy(choose(table, wanted), sweep, out, "plain")


def test_a_model_that_is_not_the_measured_one_is_refused(sweep: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(sweep, copy)
    dense, half = (next(copy.glob(f"*-s{percent}-*")) / "model.onnx" for percent in (0, 50))
    ((table,), wanted) = (studies(copy, []), constraints(max_drop=100, max_bytes=30_000))
    choice = choose(table, wanted)
    shutil.copy(dense, half)
    with pytest.raises(RunError, match="not the file that was measured"):
        deployment.deploy(choice, copy, tmp_path / "models", "plain")
    half.unlink()
    with pytest.raises(RunError, match="not there any more"):
        deployment.deploy(choice, copy, tmp_path / "models", "plain")
    assert not (tmp_path / "models").exists()


def test_a_changed_weight_is_told_by_its_checksum_and_the_point_is_left_out(sweep: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(sweep, copy)
    (path,) = copy.glob("*-s50-*/model.onnx")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF  # in the middle of the weights: the file keeps its size and its metadata
    path.write_bytes(content)
    done = called("deploy", copy, "--max-drop", 100, "--max-bytes", 40_000, "--out", tmp_path / "models", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{path.parent.name} is left out: model.onnx is not what was measured; run the sweep again\n"
    (entry,) = json.loads(done.stdout)
    assert entry["sparsity"] == 100 or entry["sparsity"] == 0
    for command in (("evaluate", path, "--dataset", "digits"), ("predict", path, "a.png"), ("compare", path, path)):
        done = called(*command)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert f"{path} is not the file that was measured: its SHA-256" in done.stderr


def test_what_cannot_be_used_or_written_is_said(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[{")
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / f"{NAME}.onnx").mkdir()
    for out, words in (("", "index"), ("file", "cannot create"), ("taken", "cannot deploy")):
        with pytest.raises(OnnxpruneError, match=words):
            deployed(sweep, tmp_path / out)


def test_sweeps_that_lack_what_decides_are_refused(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the folder of a sweep"):
        studies(tmp_path, [])
    copy = tmp_path / "study"
    shutil.copytree(sweep, copy)
    for path in copy.glob("*/metrics.json"):
        record = json.loads(path.read_text())
        record["metrics"].update(speedup=None, latency_ms_median=None)
        write_json(path, record)
    assert len(studies(copy, constraints(max_drop=1))) == 1
    done = called("deploy", copy, *ASK, "--out", tmp_path / "models")
    assert f"{NAME}: the one of the fewest MACs" in done.stdout, done.stderr
    assert "latency was not timed" in (tmp_path / "models" / f"{NAME}.md").read_text()
    with pytest.raises(InputError, match="was not timed"):
        studies(copy, constraints(min_speedup=2))
    for path in copy.glob("*/metrics.json"):
        record = json.loads(path.read_text())
        del record["metrics"]["base_validation_accuracy"]
        write_json(path, record)
    with pytest.raises(InputError, match=r"no finished point that can be used.*lacks base_validation_accuracy"):
        studies(copy, [])
    for path in copy.glob("*/metrics.json"):
        path.unlink()
    with pytest.raises(InputError, match="no finished point"):
        studies(copy, [])


def test_the_baked_file_answers_to_pictures_as_predict_does(models: Path, sweep: Path) -> None:
    out = models.parent / "baked"
    done = called("deploy", sweep, *ASK, "--out", out, "--bake", "--license", "mit", "--json")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert (entry["baked"], entry["license"]) == (f"{NAME}-baked.onnx", "mit")
    card = (out / f"{NAME}.md").read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)  # of another size, coloured, transparent
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    Image.fromarray(noise).save(out / "picture.png", exif=exif)
    shown = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=True).stdout
    (expected,) = json.loads(called("predict", out / f"{NAME}.onnx", out / "picture.png", "--json").stdout)
    label, probability = shown.split()
    assert label == expected["class"]
    assert float(probability) == pytest.approx(expected["probability"], abs=0.02)  # Pillow rounds in between
    for words in ("```cpp", "```js", "channels last", 'license: "mit"', "Licence: mit", "latency of one image"):
        assert words in card
    refused = called("predict", out / f"{NAME}-baked.onnx", out / "picture.png")
    assert refused.returncode == 2
    assert "expected the plain file" in refused.stderr


def test_the_card_says_how_to_compare_and_the_command_works(models: Path, sweep: Path) -> None:
    card = (models / f"{NAME}.md").read_text()
    (line,) = re.findall(r"```sh\nonnxprune (compare .*)\n```", card)
    done = called(*shlex.split(line), "--seconds", 0.01)
    assert done.returncode == 0, done.stderr
    assert f"{NAME}.onnx" in done.stdout


def test_a_card_names_classes_that_have_names_and_leaks_no_listing(models: Path) -> None:
    assert modelcard._classes(("0", "1", "2")) == "the numbers 0 to 2."
    assert modelcard._classes(("cat", "1")) == "0 cat, 1 1"
    card = (models / f"{NAME}.md").read_text()
    assert "Classes, in order: the numbers 0 to 2." in card
    assert not any(entry.summary in card for _, entry in TECHNIQUES.items())
    assert modelcard._data_title({"dataset": "digits"}) == "scikit-learn's handwritten digits"


def test_the_head_of_the_card_is_yaml(models: Path) -> None:
    head = (models / f"{NAME}.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"


def test_one_at_a_time_changes_an_index(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = []
    real = deployment._read_index
    locks = {deployment._lock_of(tmp_path / str(number)) for number in range(1000)}
    assert len(locks) == 16, "they stay for ever"

    def looked_at(path: Path) -> dict[str, dict[str, Any]]:
        for lock in locks:
            with locked(lock, wait=False) as ours:
                alone.append(ours)
        return real(path)

    monkeypatch.setattr(deployment, "_read_index", looked_at)
    table = result_table(sweep)
    deployment.deploy(choose(table, constraints(max_drop=100)), sweep, tmp_path / "models", "plain")
    assert sorted(alone) == [False, *[True] * 15], "most other folders are free"


def test_a_seed_that_was_not_timed_tells_nothing_of_the_spread() -> None:
    table = rows(
        {"seed": 0, "speedup": 2.0}, {"seed": 1, "speedup": None}, {"technique": "weight", "seed": 0, "speedup": 1.5},
        {"technique": "weight", "seed": 1, "speedup": 1.6},
    )  # fmt: skip
    assert choose(table, constraints(max_drop=1)).row["technique"] == "structured"
