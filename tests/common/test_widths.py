"""Widths: rounded so that the network's total is what was asked for, and in the steps that convolutions have."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.common.widths import Prunable, kept_units, least_width

PERCENT = [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 97, 98, 99]


def cnn(percent: float) -> list[Prunable]:
    share = percent / 100
    return [Prunable(32, share), Prunable(64, share), Prunable(128, share, dense=True)]


def test_the_cnn_at_13_percentages_is_13_networks() -> None:
    kept = {percent: kept_units(cnn(percent), 8) for percent in PERCENT}
    assert len({tuple(widths) for widths in kept.values()}) == len(PERCENT)
    for percent, widths in kept.items():
        assert 100 * (1 - sum(widths) / 224) == pytest.approx(percent, abs=0.4), percent
        for width in widths[:2]:
            assert width % 8 == 0 or width in (1, 2, 4), "a convolution between two steps"


@pytest.mark.parametrize(
    ("percent", "kept"),
    [
        # of 28.8, 57.6, 115.2: 24 and 56 lack 6.4, and the first gets its 8; the dense layer loses the 1.6 too many
        (10, [32, 56, 114]),
        (70, [8, 24, 35]),  # of 9.6, 19.2, 38.4: 8 and 16 lack 4.8, and the second is nearer to its next
        (0, [32, 64, 128]),
        (99.9, [1, 1, 1]),  # no layer can be empty
    ],
)
def test_the_largest_remainder_goes_up_and_dense_layers_take_the_rest(percent: float, kept: list[int]) -> None:
    assert kept_units(cnn(percent), 8) == kept


def test_dense_and_narrow_layers_have_any_width() -> None:
    for percent in range(5, 100, 5):
        for layer in (Prunable(128, percent / 100, dense=True), Prunable(31, percent / 100)):
            (kept,) = kept_units([layer], 16)
            assert abs(kept - layer.exact) <= 0.5


@pytest.mark.parametrize(
    ("layer", "step", "widths"),
    [
        (Prunable(64, 0.5), 8, [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]),
        (Prunable(36, 0.5), 16, [1, 2, 4, 8, 16, 32, 36]),  # all of them, though no multiple
        (Prunable(16, 0.5, width=4), 8, [1, 2, 4, 6, 8, 10, 12, 14, 16]),  # two units are eight channels
        (Prunable(64, 0.5, gone=20), 16, [1, 2, 4, 8, 16, 32, 44]),
        (Prunable(3, 0.5, dense=True), 8, [1, 2, 3]),
        (Prunable(40, 0.5), 1, list(range(1, 41))),
    ],
)
def test_widths_that_there_are(layer: Prunable, step: int, widths: list[int]) -> None:
    assert layer.widths(step) == widths


def test_layers_that_lose_nothing_keep_their_width_and_others_their_own_share() -> None:
    """As where one layer alone is pruned, or each by a share of its own."""
    for share, width in ((0.5, 32), (0.3, 48)):  # exactly as asked, and rounded
        layers = [Prunable(100, 0.0), Prunable(64, share), Prunable(50, 0.0, dense=True)]
        assert kept_units(layers, 8) == [100, width, 50]


def test_what_is_gone_stays_gone_and_the_others_make_up_for_it() -> None:
    layers = [Prunable(64, 0.5, gone=48), Prunable(64, 0.5, dense=True)]
    assert kept_units(layers, 8) == [16, 48]
    layers = [Prunable(64, 0.4), Prunable(64, 0.4, dense=True, gone=30)]
    assert sum(kept_units(layers, 8)) == pytest.approx(2 * 64 * 0.6, abs=4.5)


def test_units_count_as_often_as_layers_make_them() -> None:
    """Three coupled layers against one dense: the total is of all outputs."""
    kept = kept_units([Prunable(32, 0.3, weight=3), Prunable(128, 0.3, dense=True)], 8)
    assert 3 * kept[0] + kept[1] == pytest.approx(0.7 * (3 * 32 + 128), abs=0.5)


@given(
    st.lists(
        st.builds(
            Prunable,
            units=st.integers(1, 300),
            share=st.floats(0, 1),
            width=st.sampled_from([1, 2, 4]),
            dense=st.booleans(),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([1, 4, 8, 16, 24]),
)
def test_every_width_is_one_there_is_and_the_total_is_near(layers: list[Prunable], step: int) -> None:
    kept = kept_units(layers, step)
    for layer, width in zip(layers, kept, strict=True):
        assert width in layer.widths(step) if layer.share else width == layer.units
    # no more off than one layer's step, and the unit that every layer keeps
    assert abs(sum(kept) - sum(layer.exact for layer in layers)) <= step + len(layers)


@pytest.mark.parametrize(
    ("units", "left", "step", "width"), [(64, 33, 16, 48), (64, 3, 8, 4), (64, 0, 8, 1), (36, 33, 16, 36), (9, 3, 8, 3)]
)
def test_room_for_what_is_left(units: int, left: int, step: int, width: int) -> None:
    assert least_width(units, left, step) == width


@pytest.mark.parametrize("units", [(48, 96), (32, 64, 64), (64, 64, 128, 256)])
def test_where_no_layer_can_make_up_for_it_the_total_is_nearest_all_the_same(units: tuple[int, ...]) -> None:
    for percent in range(1, 100):
        layers = [Prunable(count, percent / 100) for count in units]
        exact = sum(layer.exact for layer in layers)
        around = [
            {
                max((width for width in widths if width <= layer.exact), default=1),
                min(w for w in widths if w >= layer.exact),
            }
            for layer, widths in ((layer, layer.widths(8)) for layer in layers)
        ]
        nearest = min(abs(sum(ways) - exact) for ways in itertools.product(*around))
        assert abs(sum(kept_units(layers, 8)) - exact) == pytest.approx(nearest), percent
    assert kept_units([Prunable(48, 0.93), Prunable(96, 0.93)], 8) == [2, 8]
