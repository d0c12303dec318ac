"""Looking names up as people write them."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from onnxprune.common import registry as registry_module
from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry
from onnxprune.models import MODELS
from onnxprune.settings.vocabulary import CRITERIA, GRANULARITIES, SCHEDULES, TECHNIQUES

REGISTRIES = [MODELS, TECHNIQUES, CRITERIA, SCHEDULES, GRANULARITIES]
ENTRIES = [pytest.param(registry, name, id=f"{registry.kind}-{name}") for registry in REGISTRIES for name in registry]


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("SLP", "slp"),
        ("CNN", "cnn"),
        ("DenseNet-121", "densenet121"),
        ("densenet_121", "densenet121"),
        (" DenseNet 121 ", "densenet121"),
    ],
)
def test_models_go_by_their_names_in_the_literature(written: str, canonical: str) -> None:
    assert MODELS.canonical(written) == canonical
    assert MODELS[written] is MODELS[canonical]


@pytest.mark.parametrize("name", list(MODELS))
def test_the_title_of_a_model_finds_it(name: str) -> None:
    assert MODELS.canonical(MODELS[name].title) == name


@pytest.mark.parametrize(("registry", "name"), ENTRIES)
def test_case_and_punctuation_are_ignored(registry: Registry, name: str) -> None:
    assert registry.canonical(name) == name
    for written in (name.upper(), name.replace("-", "_"), "-".join(name), f" {name}."):
        assert registry.canonical(written) == name
        assert registry[written] is registry[name]


def test_an_alias_finds_its_entry_and_is_not_listed() -> None:
    assert CRITERIA.canonical("Magnitude") == "l1"
    assert CRITERIA["magnitude"] is CRITERIA["l1"]
    assert "magnitude" not in list(CRITERIA)


def test_entries_are_listed_in_the_order_given() -> None:
    registry = Registry("fruit", {"pear": 1, "apple": 2, "fig": 3})
    assert list(registry) == ["pear", "apple", "fig"]
    assert registry.items() == [("pear", 1), ("apple", 2), ("fig", 3)]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_an_unknown_name_is_refused_with_all_that_are_known(registry: Registry) -> None:
    with pytest.raises(InputError) as caught:
        registry["zzzzqqqq"]
    message = str(caught.value)
    assert f"unknown {registry.kind} 'zzzzqqqq'" in message
    for name in registry:
        assert name in message
    assert "Did you mean" not in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("registry", "written", "meant"),
    [
        (MODELS, "DenseNet-112", "densenet121"),
        (TECHNIQUES, "strutured", "structured"),
        (CRITERIA, "tailor", "taylor"),
        (CRITERIA, "magnitud", "l1"),  # an alias misspelt: the hint is the name it stands for
        (SCHEDULES, "oneshoot", "one-shot"),
    ],
)
def test_a_misspelt_name_gets_a_hint(registry: Registry, written: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"unknown .* '{written}'.* Did you mean '{meant}'\\?"):
        registry.canonical(written)


@pytest.mark.parametrize("written", ["", "---"])
def test_a_name_without_letters_is_refused(written: str) -> None:
    with pytest.raises(InputError, match=f"unknown model '{written}'"):
        MODELS.canonical(written)


def test_other_packages_cannot_take_a_name_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Pear", "fig", "plum", "PLUM"]
    points = EntryPoints(EntryPoint(name, f"somewhere:{name}", "onnxprune.fruits") for name in names)
    monkeypatch.setattr(registry_module, "_installed", lambda: points)
    registry = Registry("fruit", {"pear": 1, "fig": 2}, group="onnxprune.fruits")
    assert list(registry) == ["pear", "fig", "plum"]
    assert registry["Pear"] == 1
    assert registry._added["plum"].value == "somewhere:plum"
