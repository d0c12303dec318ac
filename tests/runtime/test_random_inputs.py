import graphs
import numpy as np
import pytest

from onnxprune.common.errors import InputError
from onnxprune.runtime.random_inputs import random_inputs
from onnxprune.runtime.session import open_session


def session(tmp_path, *types: str):
    inputs = ", ".join(f"{kind}[n, 3] x{index}" for index, kind in enumerate(types))
    outputs = ", ".join(f"{kind}[n, 3] y{index}" for index, kind in enumerate(types))
    nodes = "\n".join(f"y{index} = Identity (x{index})" for index in range(len(types)))
    return open_session(graphs.write(tmp_path / "model.onnx", f"g ({inputs}) => ({outputs}) {{ {nodes} }}"))


def test_every_input_gets_its_type_and_shape_and_the_session_takes_them(tmp_path):
    kinds = [
        "float",
        "double",
        "float16",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    ]
    opened = session(tmp_path, *kinds)
    feed = random_inputs(opened, {f"x{index}": (2, 3) for index in range(len(kinds))})
    names = {"float": "float32", "double": "float64"}
    assert [array.dtype.name for array in feed.values()] == [names.get(kind, kind) for kind in kinds]
    for found, array in zip(opened.run(None, feed), feed.values(), strict=True):
        np.testing.assert_array_equal(found, array)
    assert np.std(feed["x0"]) > 0
    assert (feed["x7"] == 1).all()  # a valid index, and a mask that keeps everything


def test_values_and_limits(tmp_path):
    opened = session(tmp_path, "int64", "int8", "float")
    shapes = {f"x{index}": (50, 3) for index in range(3)}
    given = np.full((50, 3), 7, np.float32)
    feed = random_inputs(opened, shapes, values={"x2": given}, limits={"x0": 4, "x1": 1000})
    assert set(feed["x0"].ravel()) == {0, 1, 2, 3}
    assert feed["x1"].min() >= 0
    assert feed["x1"].max() > 4
    assert feed["x2"] is given


def test_equal_seeds_give_equal_values(tmp_path):
    opened = session(tmp_path, "float")
    first, second, other = (random_inputs(opened, {"x0": (4, 3)}, seed)["x0"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_an_input_without_a_shape_of_strings_or_too_large_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no shape is known for input 'x0'"):
        random_inputs(session(tmp_path, "float"), {})
    with pytest.raises(InputError, match=r"'x0', which is tensor\(string\)"):
        random_inputs(session(tmp_path, "string"), {"x0": (1, 3)})
    with pytest.raises(InputError, match="30,000,000,000 elements"):
        random_inputs(session(tmp_path, "float"), {"x0": (10**10, 3)})
