"""The measured roofline."""

from onnxprune.runtime.roofline import Roofline, measure


def test_what_bounds_a_node_by_hand():
    roof = Roofline("cpu", 1, {"float32": 40e9}, 10e9, None)
    assert roof.ridges == {"float32": 4}
    assert [roof.bound(intensity, "float32") for intensity in (3.9, 4, 0, None)] == ["memory", "compute", None, None]
    assert (roof.bound(9, "int8"), roof.bound(9, None)) == (None, None)


def test_speeds_are_those_of_a_real_machine():
    roof = measure("cpu", 1, ["float32", "bfloat16"], 0.05)
    assert list(roof.macs_per_second) == ["float32"]  # there is no kernel for the other
    # any processor of the last twenty years, and none of the next ten: wrong units would be a thousand off
    assert 1e9 < roof.macs_per_second["float32"] < 2e12
    assert 5e8 < roof.bytes_per_second < 1e12
