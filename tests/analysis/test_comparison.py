"""`onnxprune compare`: the command, the verdicts, and the statistics behind them."""

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys

import graphs
import numpy as np
import pytest
from command_line import called

from onnxprune.analysis.comparison import compare
from onnxprune.analysis.facts import confidence_interval
from onnxprune.analysis.quantised import Quantised, quantised
from onnxprune.analysis.verdict import Facts, judge
from onnxprune.common.errors import InputError
from onnxprune.graph.counting import count
from onnxprune.runtime.kernels import KernelTime

PLAIN = Facts(
    speedup=1.0,
    interval=(0.99, 1.01),
    noise=0.01,
    theoretical=1.0,
    bytes_ratio=1.0,
    zero_share=0.0,
    misaligned_share=0.0,
    vector=16,
    traffic_ratio=1.0,
    fixed_share=0.01,
    rounds=100,
)


def facts(speedup, **changes):
    return dataclasses.replace(PLAIN, speedup=speedup, interval=(speedup - 0.01, speedup + 0.01), **changes)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (PLAIN, "no real difference"),
        (facts(2.0, theoretical=2.2), "faster"),
        (facts(0.8), "slower"),
        (facts(1.05, noise=0.06), "no real difference"),  # within the noise, though the interval is above 1
        (facts(1.05, noise=0.03), "faster"),
        (facts(0.95, noise=0.06), "no real difference"),
    ],
)
def test_only_what_is_beyond_interval_and_noise_is_a_difference(found, outcome):
    assert judge(found).outcome == outcome


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (facts(1.0, zero_share=0.9), "zeros left in place: 90 %"),
        (facts(1.2, theoretical=3, misaligned_share=0.5, traffic_ratio=3.0), "channels not aligned: 50 % .* of 16"),
        (facts(0.9, theoretical=1.1, misaligned_share=0.5), "channels not aligned"),
        (facts(2.0, theoretical=8, fixed_share=0.4, traffic_ratio=8.0), "too small to matter: 40 %"),
        (facts(1.5, theoretical=4, traffic_ratio=1.6), "memory-bound: MACs fell 4.00 times, .* 1.60 times"),
        (facts(1.0, theoretical=1.1, bytes_ratio=4.0), "4.00 times smaller nevertheless"),
        (PLAIN, "the same work"),
        (facts(2.0, theoretical=2.0, rounds=7), "few rounds: 7 instead of 20"),
        (facts(1.0, theoretical=3, traffic_ratio=None), "no reason was found"),
    ],
)
def test_a_verdict_says_why(found, reason):
    (only,) = judge(found).reasons
    assert re.search(reason, only)


EIGHT = Quantised(
    share=1.0,
    depthwise_share=0.0,
    products_ms=(5.0, 6.0, 0.0),
    conversions_ms=0.1,
    total_ms=7.0,
    instructions=(),
    vectors="AVX2",
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["8 bits: 100 % .* 6.000 ms, all of the base's 5.000 ms", "no 8-bit dot products: .*AVX2, no VNNI"]),
        ({"instructions": ("AVX-VNNI",)}, ["5.000 ms, with the processor's AVX-VNNI"]),
        ({"instructions": None}, ["8 bits: 100 %"]),
        ({"instructions": (), "share": 0.05}, ["8 bits: 5 %"]),
        ({"instructions": None, "depthwise_share": 0.4}, ["8 bits", "depthwise: 40 % of its MACs"]),
        ({"instructions": None, "products_ms": (5.0, 3.0, 3.5)}, ["8 bits", "left in float: .* 50 % of the time"]),
        ({"instructions": None, "conversions_ms": 2.1}, ["8 bits", "conversion: 30 % of its time"]),
    ],
)
def test_a_file_in_8_bits_that_is_not_faster_says_why(changes, expected):
    eight = dataclasses.replace(EIGHT, **changes)
    # what counts and traffic say of others is no reason here
    reasons = judge(facts(0.9, quantised=eight, misaligned_share=0.9, traffic_ratio=0.1)).reasons
    assert len(reasons) == len(expected)
    assert all(re.search(*pair) for pair in zip(expected, reasons, strict=True))


def test_a_file_in_8_bits_that_is_faster_is_not_beyond_theory():
    (reason,) = judge(facts(3.0, quantised=EIGHT)).reasons
    assert reason.startswith("8 bits: 100 %")


def test_no_theory_rests_on_macs_that_are_not_all_known():
    (reason,) = judge(facts(3.0, theoretical=None)).reasons
    assert "not all MACs" in reason


def test_a_speedup_beyond_theory_is_flagged():
    (reason,) = judge(facts(3.0, theoretical=2.0)).reasons
    assert reason.startswith("beyond theory: its MACs explain 2.00x only")
    assert judge(facts(2.05, theoretical=2.0)).reasons == ()


def test_what_is_as_fast_as_it_can_be_needs_no_reason():
    assert judge(facts(2.0, theoretical=2.2, misaligned_share=0.5, fixed_share=0.5, traffic_ratio=1.0)).reasons == ()


def test_the_interval_covers_the_ratio_of_medians_and_narrows_with_rounds():
    random = np.random.default_rng(1)

    def interval(rounds):
        base, other = (random.gamma(50, scale, (rounds, 2)) for scale in (0.04, 0.02))
        return confidence_interval(base, other)

    low, high = interval(2000)
    assert low < 2 < high
    assert high - low < 0.1
    few = interval(50)
    assert few[1] - few[0] > high - low


@pytest.mark.parametrize("rounds", [6, 7, 10, 19])
def test_the_interval_of_few_rounds_covers_the_ratio_as_often_as_it_says(rounds):
    random = np.random.default_rng(2)
    covered = []
    for _ in range(200):
        base, other = (random.gamma(50, scale, (rounds, 2)) for scale in (0.04, 0.02))
        low, high = confidence_interval(base, other)
        covered.append(low <= 2 <= high)
    assert np.mean(covered) >= 0.95


def test_the_interval_of_rounds_that_go_together_is_wider():
    drift = np.repeat(np.random.default_rng(0).normal(1, 0.2, 20), 50)[:, None]
    base = drift * np.ones((1000, 2))
    shuffled = np.random.default_rng(1).permutation(base)
    other = np.ones((1000, 2))
    wide, narrow = confidence_interval(base, other), confidence_interval(shuffled, other)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_what_8_bits_take_is_read_off_counts_and_kernels(tmp_path):
    body = """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
        q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) w = DequantizeLinear (i, s, o)
        deep = Conv <group = 2> (d, w) y = Conv (deep, v) }"""
    weight, others = np.ones((2, 1, 1, 1), np.int8), graphs.ones(2, 2, 1, 1)
    scale, zero, own = np.float32(1), np.uint8(0), np.int8(0)
    path = graphs.write(tmp_path / "q.onnx", body, i=weight, v=others, s=scale, z=zero, o=own)
    counts = count(path)
    assert counts.macs_by_type == {"float32": 64, "int8": 32}
    base = [KernelTime("Conv", "CPU", 2, 3.0, 60.0), KernelTime("Add", "CPU", 1, 2.0, 40.0)]
    mine = [
        KernelTime("QLinearConv", "CPU", 1, 1.0, 50.0),
        KernelTime("Conv", "CPU", 1, 0.6, 30.0),
        KernelTime("QuantizeLinear", "CPU", 1, 0.4, 20.0),
    ]
    found = quantised(counts, (base, mine), (10.0, 20.0), (), "AVX2")
    assert found.share == found.depthwise_share == pytest.approx(1 / 3)
    assert found.products_ms == pytest.approx((6.0, 10.0, 6.0))
    assert (found.conversions_ms, found.total_ms) == (pytest.approx(4.0), 20.0)


@pytest.fixture
def files(tmp_path):
    """A classifier, the same one under other names, one with zeros, and one that is far smaller."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((512, 3 * 32 * 32)).astype(np.float32)
    zeros = weight * (random.random(weight.shape) > 0.9)
    body = """other (float[n, c, h, w] picture) => (float[n, classes] scores) {
        flat = Flatten (picture)
        scores = Gemm <transB = 1> (flat, weight, bias)
    }"""
    return [
        graphs.linear(tmp_path / "base.onnx", weight),
        graphs.write(tmp_path / "same.onnx", body, weight=weight, bias=np.zeros(512, np.float32)),
        graphs.linear(tmp_path / "zeros.onnx", zeros.astype(np.float32)),
        graphs.linear(tmp_path / "small.onnx", weight[:16]),
    ]


SHAPES = {"input": (32, 3, 32, 32)}


def test_files_are_compared_with_the_base(files):
    base, same, zeros, small = compare(files[0], files[1:], shapes=SHAPES, threads=1, seconds=0.05)
    assert (base.facts, base.verdict, base.outputs) == (None, None, None)
    assert same.outputs.max_abs == 0
    assert same.outputs.same_top1 == 1
    assert same.facts.theoretical == 1
    assert zeros.facts.zero_share == pytest.approx(0.9, abs=0.01)
    assert zeros.outputs.max_abs > 0
    assert zeros.outputs.same_top1 < 1
    assert any("zeros left in place" in reason for reason in zeros.verdict.reasons)
    assert small.facts.theoretical == 512 / 16
    assert small.facts.speedup == base.latency.median_ms / small.latency.median_ms
    assert small.facts.interval[0] <= small.facts.speedup * 1.05
    assert small.verdict.outcome == "faster"
    assert "shape" in small.outputs.note


def run(*arguments):
    return called("compare", *arguments)


OPTIONS = ("--input", "input:8x3x32x32", "--seconds", "0.01", "--threads", "1")


def test_the_page_for_people(files):
    done = run(files[0], files[2], *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "1,572,864" in done.stdout
    assert "Latency at batch 8, by onnxruntime on cpu" in done.stdout
    assert f"{files[2]}: " in done.stdout
    assert "  - zeros left in place: 90 % of its multiplications" in done.stdout


def test_json_and_csv(files):
    base, other = json.loads(run(files[0], files[2], *OPTIONS, "--json").stdout)
    assert base["facts"] is None
    assert other["params"] == base["params"]
    assert other["facts"]["interval"][0] <= other["facts"]["interval"][1]
    assert other["verdict"]["outcome"] in ("faster", "slower", "no real difference")
    rows = list(csv.DictReader(io.StringIO(run(files[0], files[2], *OPTIONS, "--csv").stdout)))
    assert [row["model"] for row in rows] == [str(files[0]), str(files[2])]
    assert rows[0]["speedup"] == ""
    assert float(rows[1]["speedup"]) > 0


def test_batches_each_have_their_own_rounds(tmp_path):
    body = "g (float[batch, 64] x) => (float[batch, 64] y) { y = MatMul (x, w) }"
    path = graphs.write(tmp_path / "model.onnx", body, w=graphs.ones(64, 64))
    entries = compare(path, [path], batch_sizes=(1, 4), threads=1, seconds=0.01)
    assert [entry.batch for entry in entries] == [1, 1, 4, 4]
    assert [entry.counts.macs for entry in entries] == [4096, 4096, 16384, 16384]


def test_files_that_do_not_take_the_same_input_are_one_line(tmp_path, files):
    two = "g (float[n, 4] x, float[n, 4] z) => (float[n, 4] y) { y = Add (x, z) }"
    graphs.write(tmp_path / "two.onnx", two)
    graphs.write(tmp_path / "flat.onnx", "g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }")
    graphs.write(tmp_path / "int.onnx", "g (int64[n, 4] x) => (int64[n, 4] y) { y = Identity (x) }")
    with pytest.raises(InputError, match=r"has 2 inputs, .* has 1:"):
        compare(tmp_path / "flat.onnx", [tmp_path / "two.onnx"])
    with pytest.raises(InputError, match=r"has 1 input, .* has 2:"):
        compare(tmp_path / "two.onnx", [tmp_path / "flat.onnx"])
    with pytest.raises(InputError, match=r"int64.* the base's is .*float"):
        compare(tmp_path / "flat.onnx", [tmp_path / "int.onnx"])
    with pytest.raises(InputError, match=r"\[8, 3, 32, 32\] does not fit the input x \[n, 4\]"):
        compare(files[0], [tmp_path / "flat.onnx"], shapes={"input": (8, 3, 32, 32)})
    for batch in (4, 8):
        graphs.write(tmp_path / f"{batch}.onnx", f"g (float[{batch}, 4] x) => (float[{batch}, 4] y) {{ y = Relu (x) }}")
    with pytest.raises(InputError, match=r"8\.onnx: \[1, 4\] .* x \[8, 4\]: give --batch-size 8, which both take$"):
        compare(tmp_path / "flat.onnx", [tmp_path / "8.onnx"])
    with pytest.raises(InputError, match=r"8\.onnx: \[4, 4\] does not fit the input x \[8, 4\]$"):
        compare(tmp_path / "4.onnx", [tmp_path / "8.onnx"])
    done = run(files[0], tmp_path / "nowhere.onnx", *OPTIONS)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def two_inputs(path, inputs, outputs, second="b"):
    """A product of `a`, and its difference from the other input."""
    head = ", ".join(f"float[8, 4] {name}" for name in inputs)
    tail = ", ".join(f"float[8, 4] {name}" for name in outputs)
    body = f"g ({head}) => ({tail}) {{ h = MatMul (a, w) y = Sub (h, {second}) }}"
    return graphs.write(path, body, w=np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32))


def test_inputs_and_outputs_are_paired_by_name(tmp_path):
    base = two_inputs(tmp_path / "base.onnx", "ab", "yh")
    other = two_inputs(tmp_path / "other.onnx", "ba", "hy")
    entry = compare(base, [other], threads=1, seconds=0.01)[1]
    assert (entry.outputs.max_abs, entry.pairing) == (0, None)


def test_where_names_differ_it_is_said_that_the_position_decides(tmp_path):
    base = two_inputs(tmp_path / "base.onnx", "ab", "yh")
    other = two_inputs(tmp_path / "other.onnx", "za", "yh", "z")
    entry = compare(base, [other], threads=1, seconds=0.01)[1]
    assert entry.outputs.max_abs == 0
    assert entry.pairing == "paired by position, their names differ: 'z' with 'b'"


def test_outputs_that_one_file_lacks_do_not_hide_how_the_common_ones_differ(tmp_path):
    base = two_inputs(tmp_path / "base.onnx", "ab", "yh")
    fewer = two_inputs(tmp_path / "fewer.onnx", "ab", "h")
    moved = graphs.write(
        tmp_path / "moved.onnx",
        "g (float[8, 4] a, float[8, 4] b) => (float[8, 4] y) { h = MatMul (a, w) r = Sub (h, b) y = Add (r, one) }",
        w=np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
        one=np.ones(1, np.float32),
    )
    other = graphs.write(
        tmp_path / "other.onnx", "g (float[8, 4] a, float[8, 4] b) => (float[8, 4] z) { z = Sub (a, b) }"
    )
    first, second, third = compare(base, [fewer, moved, other], threads=1, seconds=0.01)[1:]
    assert first.outputs.max_abs == 0
    assert first.outputs.note == "its outputs are 1, the base's 2: compared by name, 1 in both"
    assert second.outputs.max_abs == pytest.approx(1, abs=1e-5)
    assert third.outputs.max_abs is None
    assert third.pairing is None
    (back,) = compare(fewer, [base], threads=1, seconds=0.01)[1:]
    assert back.outputs.max_abs == 0


def test_an_incomplete_count_promises_nothing(tmp_path):
    body = """g (float[8, 4] x) => (float y) {
        n = NonZero (x) c = Cast <to = 1> (n) t = Transpose (c) m = MatMul (t, w) y = ReduceSum <keepdims = 0> (m)
    }"""
    path = graphs.write(tmp_path / "m.onnx", body, w=graphs.ones(2, 2))
    done = run(path, path, "--seconds", "0.01", "--threads", "1")
    assert "at least 0" in done.stdout
    assert "not all MACs of the two files can be told" in done.stdout
    (_, row) = csv.DictReader(io.StringIO(run(path, path, "--seconds", "0.01", "--threads", "1", "--csv").stdout))
    assert (row["complete"], row["theoretical_speedup"]) == ("False", "")


def test_torch_is_not_imported(files):
    code = (
        "import sys\nfrom onnxprune.cli import main\n"
        "try:\n    main()\nfinally:\n    print([name for name in ('torch', 'nni') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", str(files[0]), str(files[1]), *OPTIONS],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
