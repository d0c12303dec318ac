"""Damaged and hostile files: one line, in time, in bounded memory, never a crash."""

import random
import subprocess
import sys

import fuzz
import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.common.errors import InputError
from onnxprune.graph.counting import count
from onnxprune.runtime.probe import probe
from onnxprune.runtime.session import open_session

BODY = "g (float[2, 3] x) => (float[2, 4] y) { y = MatMul (x, w) }"


@pytest.fixture
def path(tmp_path):
    return graphs.write(tmp_path / "model.onnx", BODY, w=graphs.ones(3, 4))


def changed(path, change):
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())


def external(path, location, **entries):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))

    changed(path, change)


def recursive(model):
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("custom", 1)]
    node = helper.make_node("F", ["a"], ["b"], domain="custom")
    model.functions.append(helper.make_function("custom", "F", ["a"], ["b"], [node], opsets))
    model.graph.node.insert(0, helper.make_node("F", ["x"], ["unused"], domain="custom"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 10**18), "needs"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -3), "has shape"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2), "needs 32 bytes, the file has 48"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(44)), "needs 48 bytes, the file has 44"),
        (lambda m: m.graph.ClearField("initializer"), "'?w'?"),
        (lambda m: setattr(m.opset_import[0], "version", 9999), "opset 9999 is not supported"),
        (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0 is not supported"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "y"),
        (lambda m: setattr(m.graph, "name", "n" * 10**7) or m.graph.node[0].input.__setitem__(0, "y" * 10**7), "yyy"),
        (recursive, "function 'F' calls itself"),
    ],
)
def test_a_damaged_model_is_one_line(path, change, words):
    changed(path, change)
    with pytest.raises(InputError, match=words) as raised:
        count(path, batch=2)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("content", [b"", b"not ONNX", bytes(1000), random.Random(0).randbytes(1000)])
def test_what_is_no_model_is_one_line(path, content):
    path.write_bytes(content)
    for use in (count, open_session, probe):
        with pytest.raises(InputError, match=r"model\.onnx: "):
            use(path)


@pytest.mark.parametrize(
    ("location", "entries", "words"),
    [
        ("/etc/passwd", {}, "refused"),
        ("../secret", {}, "refused"),
        ("link", {}, "refused"),
        ("nowhere", {}, "is missing"),
        ("data", {"length": 10**15}, "of 48 bytes"),
        ("data", {"offset": 8}, "needs 48 bytes, the file has 40"),
        ("data", {"offset": "x"}, "damaged"),
    ],
)
def test_external_data_elsewhere_or_too_short_is_refused(path, location, entries, words):
    folder = path.parent / "folder"
    folder.mkdir()
    path = path.rename(folder / path.name)
    (folder / "data").write_bytes(bytes(48))
    (folder.parent / "secret").write_bytes(bytes(48))
    (folder / "link").symlink_to(folder.parent / "secret")
    external(path, location, **entries)
    for use in (count, probe):
        with pytest.raises(InputError, match=words):
            use(path)


def test_external_data_beside_the_file_is_read(path):
    (path.parent / "data").write_bytes(graphs.ones(3, 4).tobytes())
    external(path, "data")
    assert count(path, batch=2).params == 12
    assert count(path, batch=2).file_bytes == path.stat().st_size + 48
    probe(path, {"x": (2, 3)})


def test_an_absurd_input_shape_is_refused(path):
    changed(path, lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 10**18))
    with pytest.raises(InputError, match="impossible shape"):
        count(path, batch=10**18)


def test_a_crash_beneath_python_is_an_error_with_a_line(path, fresh_helper, monkeypatch):
    real = subprocess.Popen

    def crashing(command, **arguments):
        return real([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], **arguments)

    monkeypatch.setattr(subprocess, "Popen", crashing)
    with pytest.raises(InputError, match=r"model\.onnx: .*SIGSEGV"):
        probe(path)


def test_a_probe_has_limits(path, fresh_helper, tmp_path):
    with pytest.raises(InputError, match="in time"):
        probe(path, seconds=0.01)
    body = "g (float[1] x) => (float[67108864] y) { c = ConstantOfShape (size) y = Add (x, c) }"
    large = graphs.write(tmp_path / "large.onnx", body, size=np.array([2**26]))  # 256 MiB, and as much again
    with pytest.raises(InputError, match="of memory"):
        probe(large, {"x": (1,)}, memory=2**27)
    probe(path, memory=2**27)


def test_a_probe_tells_what_does_not_fit(path):
    probe(path, {"x": (2, 3)})
    with pytest.raises(InputError, match="cannot run it"):
        probe(path, {"x": (2, 4)})


def test_foreign_models_are_read():
    rows = list(fuzz.outcomes(fuzz.foreign_files(), "profile"))
    assert len(rows) >= 100
    assert [row for row in rows if row[1] in ("failed", "crashed")] == []
    assert all(row[1] == "ok" for row in rows)


@pytest.mark.parametrize("number", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutants_end_in_a_result_or_one_line(tmp_path, number):
    rng = random.Random(number)
    sources = [graphs.write(tmp_path / "own.onnx", BODY, w=graphs.ones(3, 4))]
    sources += [file for file in fuzz.foreign_files() if file.stat().st_size < 300_000]
    mutants = [tmp_path / f"{index}.onnx" for index in range(number)]
    for mutant in mutants:
        mutant.write_bytes(fuzz.mutate(rng.choice(sources).read_bytes(), rng))
    rows = [*fuzz.outcomes(mutants, "profile"), *fuzz.outcomes(mutants[: number // 4], "probe")]
    assert [row for row in rows if row[1] not in ("ok", "refused") or row[3] > fuzz.SECONDS] == []
    assert all("\n" not in row[2] for row in rows)


def test_a_probe_runs_no_code_of_the_folder_it_is_called_in(path, fresh_helper, monkeypatch):
    (path.parent / "onnxprune").mkdir()
    (path.parent / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    probe(path, {"x": (2, 3)})
