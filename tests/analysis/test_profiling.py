"""`onnxprune profile`: the command, and the function behind it."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.analysis.profiling import profile
from onnxprune.common.errors import InputError

BODY = """net (float[batch, 3, 8, 8] x) => (float[batch, 5] y) {
    [first] c = Conv <pads = [1, 1, 1, 1]> (x, w)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    [last] y = Gemm <transB = 1> (f, v, k)
}"""


@pytest.fixture
def path(tmp_path):
    weight = graphs.ones(4, 3, 3, 3)
    weight[:2] = 0
    return graphs.write(tmp_path / "model.onnx", BODY, w=weight, v=graphs.ones(5, 4), k=graphs.ones(5))


def run(*arguments, **settings):
    return subprocess.run(
        [sys.executable, "-m", "onnxprune", "profile", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


def test_a_profile_says_what_the_file_is_costs_and_takes(path):
    found = profile(path, batch_sizes=(2, 4), threads=1, seconds=0.05, per_node_time=True)
    assert found.header.opsets == {"ai.onnx": 18, "custom": 1}
    (value,) = found.header.inputs
    assert (value.name, value.kind, value.shape) == ("x", "float32", ("batch", 3, 8, 8))
    assert found.batch == 2
    assert found.counts.macs == 2 * (64 * 4 * 27 + 20)
    assert found.counts.effective_macs == 2 * (64 * 2 * 27 + 20)
    assert found.operators.set_index("operator").loc["Conv", ["count", "macs", "params"]].tolist() == [1, 13824, 108]
    assert found.operators["share"].sum() == pytest.approx(100)
    assert found.nodes["name"].tolist() == ["first", "r", "p", "f", "last"]
    assert found.latency["batch"].tolist() == [2, 4]
    assert (found.latency["median_ms"] > 0).all()
    assert found.latency["samples_per_second"].tolist() == pytest.approx(
        (1000 * found.latency["batch"] / found.latency["median_ms"]).tolist()
    )
    assert set(found.kernel_times["batch"]) == {2, 4}
    assert "Gemm" in set(found.kernel_times["operator"])
    assert found.missing == ()


def test_it_is_there_in_python(path):
    assert onnxprune.profile(str(path), latency=False).counts.params == 108 + 20 + 5


def test_the_page_for_people(path):
    done = run(path, "--batch-size", "1", "--threads", "1", "--seconds", "0.1", "--nodes", "1", "--per-node-time")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in (
        "x: float32 [batch, 3, 8, 8]",
        "133, 79 of them not zero: sparsity 40.60 %",
        "6,932  =  13,864 FLOPs (1 MAC = 2 FLOPs)",
        "3,476 without multiplications by stored zeros",
        "256 more: Relu",
        "The heaviest 1 of 5 nodes",
        "Latency in ms, by onnxruntime on cpu, 1 thread, after 0.2 s of warm-up",
        "Kernels of a run at batch 1",
    ):
        assert text in done.stdout
    assert "last" not in done.stdout.split("The heaviest")[1].split("Latency")[0]


def test_json_holds_everything(path):
    done = run(path, "--batch-size", "1,2", "--threads", "1", "--seconds", "0.1", "--json")
    found = json.loads(done.stdout)
    assert (found["batch"], found["macs"], found["flops"], found["complete"]) == (1, 6932, 13864, True)
    assert found["opsets"] == {"ai.onnx": 18, "custom": 1}
    assert [node["name"] for node in found["nodes"]] == ["first", "r", "p", "f", "last"]
    assert sum(found["onnx_tool_difference"].values()) == found["onnx_tool_ops"] - found["macs"]
    first, second = found["latency"]
    assert (first["batch"], second["batch"]) == (1, 2)
    assert first["warmup_seconds"] == 0.2
    assert first["latency"]["runs"] >= 20
    assert first["latency"]["median_ms"] <= first["latency"]["p90_ms"]


def test_csv_has_a_row_for_each_node(path):
    rows = list(csv.DictReader(io.StringIO(run(path, "--csv").stdout)))
    assert [row["name"] for row in rows] == ["first", "r", "p", "f", "last"]
    assert rows[0]["macs"] == "6912"


def test_latency_that_cannot_be_measured_is_told_and_the_rest_comes(tmp_path):
    body = "g (float[batch, 4] x) => (float[batch, 4] y) { h = MatMul (x, w) y = custom.Mystery (h) }"
    path = graphs.write(tmp_path / "model.onnx", body, w=graphs.ones(4, 4))
    done = run(path)
    assert done.returncode == 0
    assert "at least 16" in done.stdout
    assert "custom.Mystery: not counted" in done.stdout
    assert "no total: onnx-tool failed" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("Not measured: latency: onnxruntime cannot")
    assert "Mystery" in line


def test_several_inputs_integers_and_open_sizes(tmp_path):
    body = """g (int64[batch, length] ids, float[batch, length] mask) => (float[batch, length, 8] y) {
        e = Gather (table, ids)
        axes = Constant <value = int64[1] {2}> ()
        m = Unsqueeze (mask, axes)
        h = Mul (e, m)
        y = MatMul (h, w)
    }"""
    path = graphs.write(tmp_path / "model.onnx", body, table=graphs.ones(100, 4), w=graphs.ones(4, 8))
    done = run(path)
    assert done.returncode == 2
    assert "input 'ids' leaves sizes open, ids [batch, length]: give --input ids:1x?" in done.stderr
    done = run(path, "--input", "ids:2x7", "--input", "mask:2x7", "--seconds", "0.1", "--json")
    found = json.loads(done.stdout)
    assert (found["batch"], found["macs"], found["params"]) == (2, 2 * 7 * 4 * 8, 432)
    assert found["latency"][0]["batch"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-size", "0"], "expected numbers from 1"),
        (["--batch-size", "1;2"], "expected numbers from 1"),
        (["--batch-size", "1,", "--no-latency"], "expected numbers from 1"),
        (["--input", "x"], "expected NAME:SIZES"),
        (["--input", "x:1x0x8x8"], "expected NAME:SIZES"),
        (["--input", "x:1x3x8x8", "--input", "x:1x3x8x8"], "given twice"),
        (["--input", "x:1x3x8"], "x [batch, 3, 8, 8]"),
        (["--input", "z:1x3x8x8"], "there is no input 'z'; the inputs are x [batch, 3, 8, 8]"),
        (["--nodes", "many"], "expected a number or all"),
        (["--seconds", "0"], "seconds"),
        (["--threads", "0"], "threads"),
        (["--device", "tpu"], "cpu"),
        (["--json", "--csv"], "exclude"),
    ],
)
def test_wrong_options_are_one_line(path, arguments, words):
    done = run(path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_batch_too_large_to_run_is_counted_all_the_same(path):
    done = run(path, "--input", "x:16000000x3x8x8")
    assert done.returncode == 0
    assert "110,912,000,000" in done.stdout
    assert done.stderr == "Not measured: latency: its inputs have 3,072,000,000 elements, more than fit into 8 GiB\n"


@pytest.mark.parametrize("content", [b"", b"no model", bytes(1000)])
def test_what_is_no_model_is_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for place in (path, tmp_path, tmp_path / "nowhere"):
        done = run(place)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1


def test_cuda_without_a_gpu_is_an_error(path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run(path, "--device", "cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert "use --device cpu" in done.stderr


@pytest.mark.gpu
def test_cuda_measures_transfers_apart(path):
    found = profile(path, batch_sizes=(32,), device="cuda", seconds=0.3)
    assert found.latencies[0].transfer.median_ms > 0


def test_a_quantised_model_is_counted_and_run(tmp_path):
    weight = np.array([[3, 5], [3, 9], [4, 3], [3, 3]], np.uint8)
    body = """g (float[batch, 4] x) => (float[batch, 2] y) {
        q = QuantizeLinear (x, s, z)
        a = DequantizeLinear (q, s, z)
        b = DequantizeLinear (w, s, z)
        y = MatMul (a, b)
    }"""
    path = graphs.write(tmp_path / "model.onnx", body, w=weight, s=np.float32(0.1), z=np.uint8(3))
    found = profile(path, seconds=0.05)
    assert (found.counts.macs, found.counts.effective_macs) == (8, 3)
    assert (found.counts.params, found.counts.nonzero_params) == (9, 4)  # the scale is a parameter too
    assert found.latencies


def test_half_precision_inputs_run(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, (2, 4)) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "model.onnx")
    found = profile(tmp_path / "model.onnx", seconds=0.05)
    assert found.header.inputs[0].kind == "float16"
    assert found.latencies[0].batch == 2


@pytest.mark.parametrize("arguments", [["--no-latency"], ["--batch-size", "1", "--seconds", "0.1"]])
def test_neither_torch_nor_nni_is_imported(path, arguments):
    code = (
        "import sys\nfrom onnxprune.cli import main\n"
        "try:\n    main()\nfinally:\n    print([name for name in ('torch', 'nni', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "profile", str(path), *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_committed_model_is_what_its_card_says():
    models = Path(__file__).parents[2] / "models"
    for entry in json.loads((models / "index.json").read_text()):
        counts = profile(models / entry["file"], latency=False).counts
        assert (counts.macs, counts.params, counts.file_bytes) == (entry["macs"], entry["params"], entry["bytes"])


def test_missing_shapes_are_told_in_python(tmp_path):
    path = graphs.write(tmp_path / "model.onnx", "g (float[n, c] x) => (float[n, c] y) { y = Relu (x) }")
    with pytest.raises(InputError, match=r"give --input x:1x\?"):
        profile(path)
    assert profile(path, shapes={"x": (2, 3)}, latency=False).batch == 2
