"""`onnxprune profile`: the command, and the function behind it."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from command_line import called
from onnx import TensorProto, helper

import onnxprune
from onnxprune.analysis.profiling import profile
from onnxprune.common.errors import InputError, RunError
from onnxprune.runtime.roofline import Roofline


@pytest.fixture
def path(tmp_path):
    weight = graphs.ones(4, 3, 3, 3)
    weight[:2] = 0
    return graphs.classifier(tmp_path / "model.onnx", w=weight)


@pytest.fixture
def known_roofline(monkeypatch):
    """Not measured again by each test, which takes most of a second."""
    roof = Roofline("cpu", 1, {"float32": 4e10}, 1e10, None)
    monkeypatch.setattr("onnxprune.analysis.profiling._roofline", lambda *asked: roof)


def run(*arguments, **settings):
    return called("profile", *arguments, **settings)


def test_without_a_roofline_the_rest_is_there(path, monkeypatch):
    def full(*asked):
        raise RunError("measuring the roofline: OSError: [Errno 28] No space left on device")

    monkeypatch.setattr("onnxprune.analysis.profiling._roofline", full)
    found = profile(path, threads=1, seconds=0.01)
    assert found.roofline is None and found.latencies
    assert "no roofline: measuring the roofline: OSError: [Errno 28] No space left on device" in found.remarks


@pytest.mark.usefixtures("known_roofline")
def test_a_profile_says_what_the_file_is_costs_and_takes(path):
    found = profile(path, batch_sizes=(2, 4), threads=1, seconds=0.01, per_node_time=True)
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
    done = run(path, "--batch-size", "1", "--threads", "1", "--seconds", "0.01", "--nodes", "1", "--per-node-time")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in (
        "x: float32 [batch, 3, 8, 8]",
        "133, 79 of them not zero: sparsity 40.60 %",
        "6,932  =  13,864 FLOPs (1 MAC = 2 FLOPs)",
        "3,476 without multiplications by stored zeros",
        "256 more: Relu",
        "The heaviest 1 of 5 nodes",
        "Latency in ms, by onnxruntime on cpu, 1 thread, after 0.01 s of warm-up",
        "Kernels of a run at batch 1",
        "2,048 bytes at the peak, while Relu 'r' runs",
        "GMAC/s of float32",
        "tensors at the peak of the activations",
    ):
        assert text in done.stdout
    assert "last" not in done.stdout.split("The heaviest")[1].split("Latency")[0]


def test_json_holds_everything(path):
    done = run(path, "--batch-size", "1,2", "--threads", "1", "--seconds", "0.01", "--json")
    found = json.loads(done.stdout)
    assert (found["batch"], found["macs"], found["flops"], found["complete"]) == (1, 6932, 13864, True)
    assert found["opsets"] == {"ai.onnx": 18, "custom": 1}
    assert [node["name"] for node in found["nodes"]] == ["first", "r", "p", "f", "last"]
    assert sum(found["onnx_tool_difference"].values()) == found["onnx_tool_ops"] - found["macs"]
    roof = found["roofline"]
    ridge = roof["macs_per_second"]["float32"] / roof["bytes_per_second"]
    assert roof["ridges"]["float32"] == ridge
    for node in found["nodes"]:
        moved = node["activation_bytes"] + node["weight_bytes"]
        assert node["macs_per_byte"] == pytest.approx(node["macs"] / moved)
        assert node["bound"] == (("compute" if node["macs_per_byte"] >= ridge else "memory") if node["macs"] else None)
    assert found["memory_bound_macs"] == sum(node["macs"] for node in found["nodes"] if node["bound"] == "memory")
    assert max(node["live_bytes"] for node in found["nodes"]) == found["peak_activation_bytes"]
    assert sum(held["bytes"] for held in found["peak_held"]) == found["peak_activation_bytes"]
    first, second = found["latency"]
    assert (first["batch"], second["batch"]) == (1, 2)
    assert first["warmup_seconds"] == 0.01
    assert first["latency"]["runs"] >= 20
    assert first["latency"]["median_ms"] <= first["latency"]["p90_ms"]


def test_csv_has_a_row_for_each_node(path):
    rows = list(csv.DictReader(io.StringIO(run(path, "--csv").stdout)))
    assert [row["name"] for row in rows] == ["first", "r", "p", "f", "last"]
    assert rows[0]["macs"] == "6912"
    assert (rows[0]["output_shape"], rows[0]["weight_shape"]) == ("[1, 4, 8, 8]", "[4, 3, 3, 3]")
    assert rows[0]["live_bytes"] == str((3 + 4) * 64 * 4)
    assert not [cell for row in rows for cell in row.values() if cell.startswith("(")]


@pytest.mark.usefixtures("known_roofline")
def test_the_page_is_written_beside_what_is_printed(path, tmp_path):
    page = tmp_path / "new" / "page.html"
    done = run(path, "--batch-size", "1", "--threads", "1", "--seconds", "0.01", "--html", page)
    assert done.returncode == 0, done.stderr
    assert "6,932  =  13,864 FLOPs" in done.stdout
    assert done.stderr == f"Wrote {page}\n"
    assert "model.onnx" in page.read_text()


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


STATEFUL = """g (float[batch, time] x, float[2, batch, 4] state, int64 rate) => (float[batch, k] y) {
    wanted = Equal (rate, known)
    y = If (wanted) <
        then_branch = t () => (float[batch, k] one) { one = MatMul (x, w) },
        else_branch = e () => (float[batch, k] two) { two = Slice (x, zero, four, axis) }
    >
}"""


@pytest.fixture
def stateful(tmp_path):
    integers = {name: np.array([value]) for name, value in (("zero", 0), ("four", 4), ("axis", 1))}
    return graphs.write(tmp_path / "state.onnx", STATEFUL, w=graphs.ones(16, 4), known=np.array(16000), **integers)


@pytest.mark.usefixtures("known_roofline")
def test_a_value_decides_the_branch_and_a_name_binds_all_sizes(stateful):
    done = run(stateful, "--input", "x:3x16", "--input", "rate=16000", "--seconds", "0.01", "--json")
    found = json.loads(done.stdout)
    assert (found["batch"], found["macs"], found["not_measured"]) == (3, 3 * 16 * 4, [])
    done = run(stateful, "--input", "x:3x16", "--input", "rate=8000", "--no-latency", "--json")
    assert json.loads(done.stdout)["macs"] == 0


@pytest.mark.usefixtures("known_roofline")
def test_several_batches_of_an_input_that_is_given(stateful):
    options = ("--input", "x:1x16", "--input", "rate=16000", "--batch-size", "1,8", "--seconds", "0.01", "--json")
    found = json.loads(run(stateful, *options).stdout)
    assert [entry["batch"] for entry in found["latency"]] == [1, 8]
    assert found["macs"] == 16 * 4


@pytest.mark.usefixtures("known_roofline")
def test_arrays_from_a_file(stateful, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.zeros((2, 16), np.float32), rate=np.array(16000))
    found = json.loads(run(stateful, "--input", tmp_path / "in.npz", "--seconds", "0.01", "--json").stdout)
    assert (found["batch"], found["macs"], found["not_measured"]) == (2, 2 * 16 * 4, [])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["rate=1.5"], "int64, which does not hold"),
        (["rate=many"], "expected NAME:SIZES"),
        (["rate=1,2"], "[2] does not fit the input"),
        (["other=1"], "there is no input 'other'"),
        (["nowhere.npz"], "cannot be read as an .npz file"),
        (["rate=1", "rate=2"], "given twice"),
    ],
)
def test_values_that_do_not_fit_are_one_line(stateful, inputs, words):
    done = run(stateful, "--input", "x:1x16", *(part for text in inputs for part in ("--input", text)))
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_all_that_is_missing_is_asked_for_at_once(tmp_path):
    body = "g (float[n, a] x, float[n, a, b] z, float[n, a] v) => (float[n, a] y) { y = Add (x, v) }"
    done = run(graphs.write(tmp_path / "m.onnx", body))
    assert "inputs 'x', 'z' leave sizes open" in done.stderr
    assert done.stderr.rstrip().endswith("give --input x:1x? --input z:1x?x?")


@pytest.mark.usefixtures("known_roofline")
def test_indices_are_random_within_their_table_and_other_integers_are_named(tmp_path):
    body = """g (int64[2, 9] ids, int64[2, 9] mask) => (float[2, 9, 4] y) {
        i = Identity (ids) e = Gather (table, i) f = Cast <to = 1> (mask) m = Unsqueeze (f, two) y = Mul (e, m)
    }"""
    path = graphs.write(tmp_path / "m.onnx", body, table=graphs.ones(50, 4), two=np.array([2]))
    found = profile(path, seconds=0.01)
    assert found.counts.index_limits == {"ids": 50}
    assert [line for line in found.remarks if "ones" in line] == [
        "the integers of input 'mask' are ones: the graph does not tell what it allows; "
        "give others by --input mask=VALUE"
    ]


@pytest.mark.parametrize(
    ("nodes", "limits"),
    [
        ("i = Add (ids, two)", {"ids": 48}),
        ("i = Add (two, ids)", {"ids": 48}),
        ("s = Shape (table) n = Gather (s, zero) i = Sub (ids, n)", {"ids": 100}),
        ("d = Add (ids, two) i = Mul (d, three)", {"ids": 15}),  # 3 * (14 + 2) is 48, 3 * (15 + 2) is too much
        ("m = Cast <to = 7> (ids) i = Add (m, ids)", {}),
        ("i = Sub (two, ids)", {}),
        ("h = Add (ids, two) i = Where (is, h, two)", {}),
    ],
)
@pytest.mark.usefixtures("known_roofline")
def test_an_index_behind_arithmetic_stays_within_its_table(tmp_path, nodes, limits):
    body = f"g (int64[2, 9] ids) => (float[2, 9, 4] y) {{ {nodes} y = Gather (table, i) }}"
    numbers = {name: np.array(value) for name, value in (("zero", 0), ("two", 2), ("three", 3))}
    path = graphs.write(tmp_path / "m.onnx", body, table=graphs.ones(50, 4), **numbers, **{"is": np.array(True)})
    found = profile(path, seconds=0.02)
    assert found.counts.index_limits == limits
    assert found.missing == ()


@pytest.mark.usefixtures("known_roofline")
def test_no_batch_is_dropped_in_silence(path, monkeypatch):
    def probe(path, shapes, **how):
        if shapes["x"][0] > 1:
            raise InputError(f"{path}: too large")

    monkeypatch.setattr("onnxprune.runtime.probe.probe", probe)
    found = profile(path, batch_sizes=(1, 8, 32), seconds=0.01)
    assert [entry.batch for entry in found.latencies] == [1]
    assert found.missing == ("latency at batch 8, 32: too large",)


def test_a_size_of_zero_is_said(tmp_path):
    path = graphs.write(
        tmp_path / "m.onnx", "g (float[0, 4] x) => (float[0, 3] y) { y = MatMul (x, w) }", w=graphs.ones(4, 3)
    )
    counts = profile(path, latency=False).counts
    assert (counts.macs, counts.notes) == (0, ("input 'x' is [0, 4]: it has no elements",))


@pytest.mark.usefixtures("known_roofline")
def test_several_files_and_folders_are_one_table(path, tmp_path):
    body = "g (float[2, 4] x) => (float[2, 3] y) { y = MatMul (x, w) }"
    (tmp_path / "below").mkdir()
    other = graphs.write(tmp_path / "below" / "other.onnx", body, w=graphs.ones(4, 3))
    done = run(path, other, "--no-latency")
    assert done.returncode == 0
    head, _, *rows = done.stdout.splitlines()
    assert head.split() == ["params", "bytes", "MACs", "activations", "batch", "model"]
    assert [row.split()[-1] for row in rows] == [str(path), str(other)]
    found = json.loads(run(tmp_path, "--seconds", "0.01", "--json").stdout)
    assert [(row["model"], row["macs"]) for row in found] == [(str(other), 24), (str(path), 6912 + 20)]
    assert all(row["latency_ms_median"] > 0 for row in found)
    broken = tmp_path / "below" / "broken.onnx"
    broken.write_bytes(b"no model")
    done = run(tmp_path, "--no-latency", "--csv")
    assert done.returncode == 2
    assert [row["complete"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["True", "True"]
    assert done.stderr.startswith(f"Error: {broken}: not an ONNX file")
    (tmp_path / "empty").mkdir()
    assert "there is no .onnx file in it" in run(tmp_path / "empty").stderr


def test_folders_that_cannot_be_listed_are_told_beside_the_table(path, tmp_path, monkeypatch):
    listed = os.scandir

    def scandir(folder):
        if str(folder).endswith("secret"):
            raise OSError(errno.EINVAL, "Invalid argument", str(folder))
        return listed(folder)

    for name in ("a/secret", "b/secret", "folder.onnx"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr("os.scandir", scandir)
    done = run(tmp_path, "--no-latency", "--json")
    assert (done.returncode, [row["model"] for row in json.loads(done.stdout)]) == (2, [str(path)])
    first = tmp_path / "a" / "secret"
    assert done.stderr == f"Error: {first}: cannot be listed: Invalid argument; nor can 1 other folder\n"


def test_long_names_do_not_break_the_table_and_equal_notes_are_one(tmp_path):
    name = "n" * 400
    nodes = "\n".join(f"[{name}{index}] h{index} = LSTM <hidden_size = 2> (x, w, r, , l)" for index in range(3))
    sizes = "3, 1, 1, 2"
    body = f"""g (float[3, 1, 2] x, int32[1] l) => (float[{sizes}] h0, float[{sizes}] h1, float[{sizes}] h2) {{
        {nodes}
    }}"""
    path = graphs.write(tmp_path / "m.onnx", body, w=graphs.ones(1, 8, 2), r=graphs.ones(1, 8, 2))
    done = run(path, "--no-latency")
    table, _, notes = done.stdout.partition("Note: ")
    assert max(map(len, table.splitlines())) < 160
    assert notes.count("Note: ") == 0
    assert "in all 3 nodes: 3 LSTM" in notes


@pytest.mark.usefixtures("known_roofline")
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
    done = run(path, "--input", "ids:2x7", "--input", "mask:2x7", "--seconds", "0.01", "--json")
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
        (["--html", "p.html", "--csv"], "exclude"),
        (["--html", "p.html", "other.onnx"], "a page of one model"),
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
    for place in (path, tmp_path, tmp_path / "nowhere"):  # a folder is its files
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


@pytest.mark.usefixtures("known_roofline")
def test_a_quantised_model_is_counted_and_run(tmp_path):
    weight = np.array([[3, 5], [3, 9], [4, 3], [3, 3]], np.uint8)
    body = """g (float[batch, 4] x) => (float[batch, 2] y) {
        q = QuantizeLinear (x, s, z)
        a = DequantizeLinear (q, s, z)
        b = DequantizeLinear (w, s, z)
        y = MatMul (a, b)
    }"""
    path = graphs.write(tmp_path / "model.onnx", body, w=weight, s=np.float32(0.1), z=np.uint8(3))
    found = profile(path, seconds=0.01)
    assert (found.counts.macs, found.counts.effective_macs) == (8, 3)
    assert (found.counts.params, found.counts.nonzero_params) == (9, 4)  # the scale is a parameter too
    assert found.latencies


@pytest.mark.usefixtures("known_roofline")
def test_half_precision_inputs_run(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, (2, 4)) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "model.onnx")
    found = profile(tmp_path / "model.onnx", seconds=0.01)
    assert found.header.inputs[0].kind == "float16"
    assert found.latencies[0].batch == 2


def test_neither_torch_nor_nni_is_imported(path):
    code = (
        "import sys\nfrom onnxprune.cli import main\n"
        "for options in (['--no-latency'], ['--batch-size=1', '--seconds=0.01']):\n"
        f"    sys.argv = ['onnxprune', 'profile', {str(path)!r}, *options]\n"
        "    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code\n"
        "    print([name for name in ('torch', 'nni', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines().count("[]") == 2


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
