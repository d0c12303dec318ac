"""The datasets that have a name: a file and a line here each, or an entry point of another package."""

from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry
from onnxprune.data import cifar, digits, idx
from onnxprune.data.source import DatasetInfo

DATASETS: Registry[DatasetInfo] = Registry(
    "dataset",
    {
        "digits": digits.DIGITS,
        "mnist": idx.MNIST,
        "fmnist": idx.FASHION_MNIST,
        "cifar10": cifar.CIFAR10,
        "cifar100": cifar.CIFAR100,
    },
    aliases={"fashion-mnist": "fmnist"},
    group="onnxprune.datasets",
)


def canonical_name(name: str) -> str:
    """A dataset's canonical name; the path of an .npz file as it is.

    Raises:
        InputError: no dataset has that name.
    """
    if name.endswith(".npz"):
        return name
    try:
        return DATASETS.canonical(name)
    except InputError as error:
        raise InputError(f"{error} Your own data: FILE.npz.") from None
