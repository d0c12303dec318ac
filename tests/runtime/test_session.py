import os
import subprocess
import sys

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import REPOSITORY

from onnxprune.common.errors import InputError
from onnxprune.runtime.session import open_session, run_batched


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_logits_are_those_of_normalised_images(tmp_path, rng):
    weight = rng.standard_normal((3, 2 * 4 * 5)).astype(np.float32)
    images = rng.integers(0, 256, (7, 2, 4, 5), dtype=np.uint8)
    mean, std = [0.2, 0.6], [0.5, 0.25]
    session = open_session(graphs.linear(tmp_path / "model.onnx", weight))

    logits = run_batched(session, images, mean, std, batch_size=3)

    normalised = (images / 255 - np.reshape(mean, (2, 1, 1))) / np.reshape(std, (2, 1, 1))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, normalised.reshape(7, -1) @ weight.T, rtol=1e-4, atol=1e-4)


def test_mean_and_std_may_be_one_number(tmp_path, rng):
    images = rng.integers(0, 256, (2, 2, 3, 3), dtype=np.uint8)
    session = open_session(graphs.linear(tmp_path / "model.onnx", graphs.ones(3, 18)))
    same = run_batched(session, images, [0.5, 0.5], [0.1, 0.1])
    np.testing.assert_array_equal(run_batched(session, images, 0.5, 0.1), same)


def test_batch_size_changes_nothing_but_the_calls(tmp_path, rng):
    class Recording:
        def __init__(self, session):
            self.session, self.sizes = session, []
            self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

        def run(self, names, feed):
            self.sizes.append(len(feed["input"]))
            return self.session.run(names, feed)

    images = rng.integers(0, 256, (10, 1, 2, 2), dtype=np.uint8)
    weight = rng.standard_normal((3, 4)).astype(np.float32)
    session = Recording(open_session(graphs.linear(tmp_path / "model.onnx", weight)))
    pieces = run_batched(session, images, 0, 1, batch_size=4)
    whole = run_batched(session, images, 0, 1)
    assert session.sizes == [4, 4, 2, 10]
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)


def test_session_options(tmp_path):
    session = open_session(graphs.linear(tmp_path / "model.onnx", graphs.ones(2, 4)), threads=2)
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("module", ["onnxprune.runtime.execution", "onnxprune.quantization.quantize"])
def test_onnxruntime_prints_nothing_whatever_opens_a_file(module, tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[n, 2, 3] x, float[6, 4] w) => (float[n, 4] y) '
        "<float[m, 3] flat> { flat = Flatten (x) y = MatMul (flat, w) }"
    )  # it declares another shape than it has, which onnxruntime warns of
    onnx.save(model, tmp_path / "m.onnx")
    code = f"import onnxruntime, {module}; onnxruntime.InferenceSession({str(tmp_path / 'm.onnx')!r})"
    plain, told = (
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=REPOSITORY, check=True)
        for text in (code.replace(f", {module}", ""), code)
    )
    assert "MergeShapeInfo" in plain.stderr
    assert told.stdout == told.stderr == ""


def test_images_of_another_shape_are_named(tmp_path, capfd):
    session = open_session(graphs.linear(tmp_path / "model.onnx", graphs.ones(2, 4)))
    with pytest.raises(InputError, match=r"input 'input' is .* of shape \[5, 1, 3, 3\]") as raised:
        run_batched(session, np.zeros((5, 1, 3, 3), np.uint8), 0, 1)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_model_of_two_inputs_takes_no_images(tmp_path):
    body = "g (float[batch, 2] a, float[batch, 2] b) => (float[batch, 2] c) { c = Add (a, b) }"
    session = open_session(graphs.write(tmp_path / "model.onnx", body))
    with pytest.raises(InputError, match="it has 2"):
        run_batched(session, np.zeros((5, 1, 3, 3), np.uint8), 0, 1)


@pytest.mark.parametrize("content", [None, b"", b"hello, world\n" * 9], ids=["missing", "empty", "text"])
def test_what_is_no_onnx_file_is_one_line(tmp_path, capfd, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx") as raised:
        open_session(path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_a_name_that_is_no_text_is_told(tmp_path):
    path = tmp_path / os.fsdecode(b"bad\xff.onnx")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="the name is not UTF-8"):
        open_session(path)


def test_an_unknown_operator_is_named_on_one_line(tmp_path, capfd):
    body = "g (float[batch, 2] a) => (float[batch, 2] b) { b = custom.Mystery (a) }"
    with pytest.raises(InputError, match="Mystery"):
        open_session(graphs.write(tmp_path / "model.onnx", body))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("built_for_cuda", [True, False])
def test_cuda_that_does_not_run_is_an_error_and_silent(tmp_path, capfd, recwarn, monkeypatch, built_for_cuda):
    path = graphs.linear(tmp_path / "model.onnx", graphs.ones(2, 4))
    if not built_for_cuda:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    elif torch.cuda.is_available():  # not asked of open_session, whose silence would then skip this
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"CUDA does not run here.*--device cpu"):
        open_session(path, device="cuda")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.gpu
def test_cuda_and_cpu_agree(tmp_path, rng):
    weight = rng.standard_normal((3, 12)).astype(np.float32)
    path = graphs.linear(tmp_path / "model.onnx", weight)
    images = rng.integers(0, 256, (7, 3, 2, 2), dtype=np.uint8)
    cpu, cuda = (run_batched(open_session(path, device=d), images, 0.5, 0.5) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(cpu, cuda, rtol=1e-4, atol=1e-4)
