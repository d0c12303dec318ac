"""Settings: parsing, checking, identity."""

import dataclasses
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st

from onnxprune.common.errors import InputError
from onnxprune.models import MODELS
from onnxprune.settings.point import AXES, FIELDS, Point, told
from onnxprune.settings.sweep import Sweep
from onnxprune.settings.vocabulary import TECHNIQUES

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))


def errors_of(values: dict) -> list[str]:
    with pytest.raises(InputError) as caught:
        Sweep.parse(values)
    return str(caught.value).splitlines()


def test_a_sweep_is_all_techniques_at_all_tens_by_default() -> None:
    plan = Sweep.parse({})
    expected = set(itertools.product(TECHNIQUES, range(0, 101, 10)))
    assert {(point.technique, point.sparsity) for point in plan.points} == expected
    assert len(plan.points) == 44


def test_several_values_give_the_product_and_points_of_a_base_follow_each_other() -> None:
    plan = Sweep.parse(
        {"model": "slp,cnn", "batch_size": "32,256", "seeds": 2, "sparsity": "0,50", "technique": ["weight", "neuron"]}
    )
    assert len(plan.points) == 2 * 2 * 2 * 2 * 2
    assert len(set(plan.points)) == len(plan.points)
    bases = [tuple(point.base_settings().items()) for point in plan.points]
    assert len(list(itertools.groupby(bases))) == len(set(bases)) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:100:25", [0, 25, 50, 75, 100]),
        ("50,75,87.5", [50, 75, 87.5]),
        ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("0:95:10", [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
        ("0:20:10,99", [0, 10, 20, 99]),
        (50, [50]),
        ([0, 12.5], [0, 12.5]),
        ("50,50", [50]),
    ],
)
def test_sparsity_takes_lists_and_ranges(text: object, expected: list[float]) -> None:
    plan = Sweep.parse({"technique": "weight", "sparsity": text})
    assert [point.sparsity for point in plan.points] == expected


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, torch.tensor])
def test_values_come_in_whatever_holds_them(kind: Callable[[list[int]], Any]) -> None:
    asked = {"technique": "weight", "sparsity": kind([0, 50]), "batch_size": kind([32]), "seeds": kind([3, 7])}
    expected = {"technique": "weight", "sparsity": [0, 50], "batch_size": [32], "seeds": [3, 7]}
    assert Sweep.parse(asked) == Sweep.parse(expected)
    assert Sweep.parse({"technique": "weight", "sparsity": range(0, 100, 50)}).values["sparsity"] == [0, 50]
    assert Sweep.parse({"schedule": ("adaptive",)}).values["sparsity"] == [100]


def test_paths_are_paths_even_where_data_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "net.py").touch()
    (tmp_path / "w.pt").touch()
    monkeypatch.chdir(tmp_path)
    given = {"dataset": Path("digits"), "model": Path("net.py:Net"), "weights": Path("w.pt"), "technique": "weight"}
    values = Sweep.parse(given).values
    assert (values["dataset"], values["model"], values["weights"]) == (["./digits"], ["net.py:Net"], "w.pt")
    with pytest.raises(InputError, match=r"dataset ./mnist: no such folder"):
        Sweep.parse({"dataset": Path("mnist")})


def test_a_value_is_shown_on_one_line() -> None:
    with pytest.raises(InputError, match=r"expected a number, got 0 +0 1 +50 dtype: int64$"):
        Sweep.parse({"epochs": pd.Series([0, 50])})


def test_names_as_in_the_literature() -> None:
    plan = Sweep.parse({"model": "SLP,CNN,DenseNet-121", "dataset": "MNIST,FMNIST,CIFAR-10", "sparsity": 0})
    assert {point.model for point in plan.points} == {"slp", "cnn", "densenet121"}
    assert {point.dataset for point in plan.points} == {"mnist", "fmnist", "cifar10"}


def test_a_path_that_is_there_may_have_commas(tmp_path: Path) -> None:
    for name in ("a,b.npz", "c.npz"):
        (tmp_path / name).touch()
    (point,) = Sweep.parse({"dataset": f"{tmp_path}/a,b.npz", "technique": "weight", "sparsity": 0}).points
    assert point.dataset == f"{tmp_path}/a,b.npz"
    several = Sweep.parse({"dataset": f"{tmp_path}/c.npz,digits", "sparsity": 0}).points
    assert {point.dataset for point in several} == {f"{tmp_path}/c.npz", "digits"}


def test_every_error_is_told_at_once() -> None:
    found = errors_of({"modle": "cnn", "sparsity": 120, "batch_size": 0, "dataset": "imagenet", "epochs": "many"})
    assert len(found) == 5
    assert any("unknown setting 'modle': did you mean 'model'?" in line for line in found)
    assert any(line.startswith("sparsity:") and "120" in line and "0 to 100" in line for line in found)
    assert any("imagenet" in line and "fmnist" in line for line in found)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "resnet"}, ["unknown model 'resnet'", "slp, cnn, densenet121"]),
        ({"technique": "weights"}, ["unknown technique", "Did you mean 'weight'?"]),
        ({"criterion": "l3"}, ["unknown criterion 'l3'", "fpgm"]),
        (
            {"criterion": "fpgm", "technique": "neuron"},
            ["'neuron' does not accept", "taylor, apoz, activation, obs, random"],
        ),
        ({"schedule": "later"}, ["unknown schedule", "at-init"]),
        ({"sparsity": -1}, ["-1"]),
        ({"sparsity": float("nan")}, ["nan"]),
        ({"sparsity": float("inf")}, ["inf"]),
        ({"sparsity": "0:100"}, ["FROM:TO:STEP"]),
        ({"sparsity": "50:0:10"}, ["FROM no greater than TO"]),
        ({"sparsity": "0:100:0"}, ["sparsity"]),
        ({"sparsity": []}, ["at least one value"]),
        ({"batch_size": 2.5}, ["whole number"]),
        ({"batch_size": "1e99"}, ["whole number"]),
        ({"batch_size": True}, ["expected a number"]),
        ({"train_limit": 0}, ["train_limit"]),
        ({"seeds": 0}, ["seeds"]),
        ({"batch_norm": "yes"}, ["true or false"]),
        ({"model": 3}, ["expected a name"]),
        ({"model": "slp", "hidden": 0, "technique": "neuron"}, ["nothing to prune", "--hidden 0", "classifier"]),
        ({"model": "slp", "hidden": 0, "technique": "structured"}, ["nothing to prune"]),
        ({"technique": "structured", "criterion": "slim"}, ["needs BatchNorm", "--batch-norm"]),
        ({"technique": "structured", "granularity": "layer"}, ["'layer' is not for model 'cnn'", "densenet121"]),
        ({"model": "densenet121", "technique": "weight", "granularity": "layer"}, ["not for technique 'weight'"]),
        ({"hidden": 64}, ["hidden", "slp"]),
        ({"name": "../elsewhere"}, ["name"]),
        ({"name": ".hidden"}, ["name"]),
        ({"name": "bases"}, ["'bases'", "another name"]),
        ({"seed": list(range(1000)), "sparsity": "0:100:0.1"}, ["points", "100,000"]),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(values: dict, words: list[str]) -> None:
    message = "\n".join(errors_of(values))
    for word in words:
        assert word in message


def test_a_huge_plan_is_refused_before_it_is_built() -> None:
    axis = {name: list(range(1, 1001)) for name in ("batch_size", "seed")}
    assert "1,000,000,000" in "\n".join(
        errors_of({**axis, "sparsity": [i / 10 for i in range(1000)], "technique": "weight"})
    )


def test_each_technique_gets_its_own_default_criterion() -> None:
    plan = Sweep.parse({"sparsity": 50})
    assert {point.technique: point.criterion for point in plan.points} == {
        name: technique.criteria[0] for name, technique in TECHNIQUES.items()
    }


def test_settings_without_effect_do_not_change_the_identity() -> None:
    (plain,) = Sweep.one_point({"model": "cnn", "technique": "weight"}).points
    assert "hidden" not in plain.settings()
    assert dataclasses.replace(plain, rounds=5).point_id("x") == plain.point_id("x")
    (kept,) = Sweep.one_point({"model": "cnn", "technique": "weight", "keep_dead": True}).points
    assert dataclasses.replace(kept, channel_align=1).point_id("x") == kept.point_id("x")
    assert dataclasses.replace(plain, stem="small").point_id("x") == plain.point_id("x")
    (channels,) = Sweep.one_point({"model": "cnn", "technique": "structured"}).points
    assert dataclasses.replace(channels, channel_align=1).point_id("x") != channels.point_id("x")


@pytest.mark.parametrize(
    "change",
    [
        {"sparsity": 60.0},
        {"seed": 1},
        {"epochs": 9},
        {"finetune_epochs": 9},
        {"train_limit": 9},
        {"learning_rate": 0.3},
    ],
)
def test_what_decides_the_result_changes_the_identity(change: dict) -> None:
    (point,) = Sweep.one_point({"technique": "weight"}).points
    other = dataclasses.replace(point, **change)
    assert other.point_id("x") != point.point_id("x")
    shares_base = next(iter(change)) in ("sparsity", "finetune_epochs")
    assert (other.base_id("x") == point.base_id("x")) == shares_base


def test_other_data_are_another_identity() -> None:
    (point,) = Sweep.one_point({}).points
    assert point.point_id("a") != point.point_id("b")
    assert point.base_id("a") != point.base_id("b")


def test_the_content_of_a_file_of_weights_is_part_of_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    (point,) = Sweep.one_point({"weights": _written(path, b"first", 1)}).points
    identities = []
    for number, content in enumerate((b"first", b"other", b"first"), start=2):
        _written(path, content, number)
        identities.append((point.base_id("x"), point.point_id("x")))
    assert identities[0] == identities[2]
    assert not set(identities[0]) & set(identities[1])


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder, whose content settings do not look at."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    return "photos"


@pytest.mark.parametrize("given", [32, 32.0, "32", "32x32", "32X32", " 32 x 32 "])
def test_an_image_size_is_written_in_one_form(pictures: str, given: object) -> None:
    (point,) = Sweep.one_point({"dataset": pictures, "image_size": given}).points
    assert (point.image_size, point.picture_size) == ("32x32", (32, 32))


def test_an_image_size_is_height_and_width_and_part_of_the_identity_where_given(pictures: str) -> None:
    sizes = (None, "32x48", "48x32")
    points = [Sweep.one_point({"dataset": pictures, "image_size": size}).points[0] for size in sizes]
    assert [point.picture_size for point in points] == [None, (32, 48), (48, 32)]
    for identity in (Point.base_id, Point.point_id):
        assert len({identity(point, "x") for point in points}) == 3
    assert points[0].base_id("x").startswith("cnn-photos-b256-seed0-")
    assert "image_size" not in told(points[0].settings())


@pytest.mark.parametrize("size", [0, -1, 1.5, 10_001, "32x", "x", "1x2x3", "nan", True, [32], "32x-1"])
def test_an_image_size_that_is_none_is_refused(pictures: str, size: object) -> None:
    (line,) = errors_of({"dataset": pictures, "image_size": size})
    assert line.startswith("image_size: expected HEIGHTxWIDTH in pixels such as 32x48, or one number, got ")


@pytest.mark.parametrize("dataset", ["digits", "mine.npz"])
def test_an_image_size_is_for_folders(dataset: str) -> None:
    assert f"image_size: it is for a folder of pictures, which {dataset} is not" in errors_of(
        {"dataset": dataset, "image_size": 32}
    )


def test_a_folder_may_be_given_as_a_path(pictures: str) -> None:
    assert Sweep.parse({"dataset": Path(pictures).absolute()}).values["dataset"] == [str(Path(pictures).absolute())]
    plan = Sweep.parse({"dataset": [Path(pictures), "digits"], "model": "slp"})
    assert {point.dataset for point in plan.points} == {"photos", "digits"}
    assert plan.name.startswith("slp-photos_digits-")


def _written(path: Path, content: bytes, seconds: int) -> str:
    """Writes a file that was changed so many seconds after the epoch."""
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))
    return str(path)


@pytest.mark.parametrize(
    ("settings", "base", "point", "sweep"),
    [
        ({"model": "cnn", "technique": "structured"}, "26ddac5b", "c26b9697", "e6bc0d2d"),
        ({"model": "cnn", "technique": "weight"}, "26ddac5b", "f9ca236b", "36a5248b"),
        (
            {"model": "slp", "technique": "neuron", "hidden": 64, "control": "random", "train_limit": 100},
            *("48c71d5e", "3ee5edb3", "1c71256b"),
        ),
        (
            {
                "model": "densenet121",
                "technique": "structured",
                "granularity": "layer",
                "dataset": "cifar10",
                "stem": "small",
            },
            *("44e8bc15", "f676c14d", "a43fc125"),
        ),
        (
            {
                "model": "cnn",
                "batch_norm": True,
                "technique": "unstructured",
                "schedule": "lottery",
                "rewind_epoch": 1,
            },
            *("3b774d59", "6b331863", "ce83929d"),
        ),
        (
            {"model": "cnn", "technique": "weight", "schedule": "movement", "distill": 0.5},
            *("26ddac5b", "e36bd882", "3989d891"),
        ),
        (
            {"model": "slp", "technique": "weight", "schedule": "set", "keep_dead": True},
            *("7624a255", "17ca2314", "42459c3f"),
        ),
        (
            {"model": "slp", "technique": "weight", "schedule": "adaptive", "max_drop": 2.0},
            *("7624a255", "604d350e", "ae3a52f0"),
        ),
    ],
)
def test_identities_stay_what_they_are(settings: dict, base: str, point: str, sweep: str) -> None:
    """Folders of finished work are found again only as long as this holds; raise SCHEMA when it must change."""
    plan = Sweep.one_point(settings)
    (planned,) = plan.points
    assert planned.base_id("checksum").endswith(f"-seed0-{base}")
    assert planned.point_id("checksum").endswith(f"-s50-seed0-{point}")
    assert plan.name.endswith(f"-{sweep}")


def test_a_new_setting_renames_only_what_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Sweep.one_point({"technique": "weight"})
    (old,) = before.points

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(Point):
        momentum: float = 0.9
        noise: float = 0.0

        def base_settings(self) -> dict:
            return super().base_settings() | {"momentum": self.momentum}

        def settings(self) -> dict:
            return super().settings() | {"noise": self.noise}

    for field in dataclasses.fields(Later)[-2:]:
        monkeypatch.setitem(FIELDS, field.name, field)
    values = dataclasses.asdict(old)
    same, trained, noisy = Later(**values), Later(**values, momentum=0.5), Later(**values, noise=0.5)
    assert (same.base_id("x"), same.point_id("x")) == (old.base_id("x"), old.point_id("x"))
    assert trained.base_id("x") != old.base_id("x") == noisy.base_id("x")
    assert len({point.point_id("x") for point in (old, trained, noisy)}) == 3


def test_a_spec_written_and_read_is_the_same(tmp_path: Path) -> None:
    plan = Sweep.parse({"model": "slp,cnn", "sparsity": "0:100:50", "seeds": 2, "batch_norm": True, "epochs": 3})
    path = tmp_path / "spec.toml"
    path.write_text(plan.to_toml())
    again = Sweep.read(path)
    assert again.points == plan.points
    assert again.name == plan.name


def test_options_override_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('model = "slp"\nseeds = 3\nsparsity = [0, 50]\ntechnique = "weight"\n')
    plan = Sweep.read(path, {"seed": "7", "sparsity": "10"})
    assert [(point.model, point.seed, point.sparsity) for point in plan.points] == [("slp", 7, 10.0)]


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        ("adaptive = true", {"schedule": "one-shot"}, {"schedule": "one-shot", "sparsity": 50}),
        ('schedule = "agp"', {"adaptive": True}, {"schedule": "adaptive"}),
        ('controls = "random"', {"control": "scratch"}, {"control": "scratch"}),
        ("epochs = 5", {"updates": 300}, {"epochs": None, "updates": 300}),
    ],
)
def test_options_override_what_says_the_same_in_a_spec(
    spec: str, options: dict, expected: dict, tmp_path: Path
) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(f'technique = "weight"\nsparsity = 50\n{spec}\n')
    (point,) = Sweep.read(path, options).points
    assert {name: getattr(point, name) for name in expected} == expected


def test_what_cannot_be_together_is_said_once() -> None:
    assert errors_of({"controls": "random", "control": "scratch"}) == [
        "controls: expected either controls or control, got both"
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [("model = ", "not a TOML file"), ('modle = "cnn"', "did you mean 'model'"), ("sparsity = 120", "120")],
)
def test_a_bad_spec_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        Sweep.read(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_spec_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        Sweep.read(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_specs_are_valid(path: Path) -> None:
    assert Sweep.read(path).points


def test_the_full_matrix_is_the_seed_study() -> None:
    plan = Sweep.read(Path(__file__).parents[2] / "experiments" / "full-matrix.toml")
    assert len(plan.points) == 1584
    assert {point.batch_size for point in plan.points} == {32, 256, 4000, 60000}


def test_every_setting_has_help_and_a_valid_default() -> None:
    for name, field in FIELDS.items():
        assert field.metadata["help"], name
        assert field.default is None or field.metadata["parse"](field.default) == field.default, name
    assert set(AXES) >= {"model", "dataset", "batch_size", "technique", "criterion", "sparsity", "seed"}


def test_options_of_models_are_settings() -> None:
    names = {field.name for field in dataclasses.fields(Point)}
    for name, model in MODELS.items():
        assert set(model.options) <= names, name


PROPERTY = hypothesis.settings(deadline=None, derandomize=True, database=None)
# settings as they come: mostly ones that exist, with values of their kind, of another, or extreme
WORDS = ["slp,cnn", "densenet121", "digits", "weight", "neuron,structured", "l1", "slim", "at-init", "layer", "flip"]
WORDS += ["0:100:10", "0:1:1e-9", "cuda", "small", "", ",", "nan", "1e999", "-1", "../x", "a\nb", "1,2,3", "x.npz"]
WORDS += ["\x00.npz"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=20), st.just(10**400)
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))
SETTINGS = st.dictionaries(st.sampled_from([*FIELDS, "seeds", "name"]) | st.text(max_size=8), VALUES, max_size=5)


@PROPERTY
@hypothesis.given(SETTINGS)
def test_settings_are_a_plan_or_a_list_of_errors_whatever_they_are(settings: dict) -> None:
    try:
        plan = Sweep.parse(settings)
    except InputError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(line.isprintable() and len(line) < 2000 for line in lines)
    else:
        assert 0 < len(plan.points) <= 100_000
        assert "/" not in plan.name


FILES = st.text("aZ. é'\"\\😀/", max_size=9).map(lambda text: f"{text}.npz")
AXIS = {
    "model": st.sampled_from(list(MODELS)),
    "dataset": st.sampled_from(["digits", "mnist"]) | FILES,
    "batch_size": st.integers(1, 10**9),
    "sparsity": st.floats(0, 100),
    "seed": st.integers(0, 10**9),
}


@PROPERTY
@hypothesis.given(
    st.fixed_dictionaries(
        {},
        optional={name: st.lists(values, min_size=1, max_size=3) for name, values in AXIS.items()}
        | {"epochs": st.integers(0, 100_000), "learning_rate": st.floats(1e-9, 1e6), "train_limit": st.none()},
    )
)
def test_every_plan_is_read_again_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, settings: dict) -> None:
    plan = Sweep.parse({"technique": "weight", **settings})
    path = tmp_path_factory.getbasetemp() / "spec.toml"
    path.write_text(plan.to_toml(), encoding="utf-8")
    assert Sweep.read(path) == dataclasses.replace(plan, values={k: v for k, v in plan.values.items() if v is not None})


def test_a_long_file_name_makes_names_that_file_systems_take() -> None:
    (point,) = Sweep.one_point({"dataset": f"{'é' * 120}.npz"}).points
    assert max(len(name.encode()) for name in (point.base_id("x"), point.point_id("x"))) < 250
    assert len(Sweep.one_point({"dataset": f"{'a' * 240}.npz"}).name) <= 100


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 100_000, "a = " + "9" * 5_000, "#" * 2_000_000], ids=["deep", "digits", "large"]
)
def test_a_spec_that_would_exhaust_the_reader_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"spec\.toml"):
        Sweep.read(path)


@pytest.mark.parametrize(("batch_norm", "share"), [(False, 1.0), (True, 0.5)])
def test_rates_left_open_are_the_models_lower_where_it_normalises(batch_norm: bool, share: float) -> None:
    settings = {"model": "cnn", "batch_norm": batch_norm, "technique": "weight", "sparsity": 50}
    recipe = MODELS["cnn"].recipe
    (point,) = Sweep.parse(settings).points
    assert point.learning_rate == share * recipe.learning_rate
    assert point.finetune_learning_rate == share * recipe.finetune_learning_rate
    (point,) = Sweep.parse({**settings, "learning_rate": 0.3}).points
    assert (point.learning_rate, point.finetune_learning_rate) == (0.3, share * recipe.finetune_learning_rate)


def test_a_spec_is_a_file(tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="expected a file"):
            Sweep.read(path)


def test_a_plan_of_a_thousand_million_points_takes_neither_memory_nor_time() -> None:
    found = errors_of({"sparsity": ",".join(["0:100:0.001"] * 1_000), "seeds": 10_000, "batch_size": "1,2"})
    assert "100,000" in found[0]


@pytest.mark.parametrize("setting", ["finetune_epochs", "finetune_learning_rate"])
def test_fine_tuning_is_refused_where_nothing_is_fine_tuned(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting}: it is read by .*one-shot.*, which at-init is not"):
        Sweep.parse({"model": "slp", "schedule": "at-init", "technique": "weight", "sparsity": 50, setting: 1})
