"""The helper process: what happens in it, and what of that reaches its caller."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import graphs
import guarded_work
import numpy as np
import onnx
import psutil
import pytest
import trained
import warm
from command_line import REPOSITORY, called
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxprune
from onnxprune.__main__ import WITH_HELPER
from onnxprune.analysis.classifier import open_classifier
from onnxprune.analysis.comparison import compare
from onnxprune.analysis.profiling import profile
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.processes import start
from onnxprune.graph.metadata import Normalisation
from onnxprune.runtime import helper as helping
from onnxprune.runtime.helper import Limits, StoppedError, guarded


def end() -> None:
    """No helper is left."""
    for kept in helping._kept:
        kept.kill()
    helping._kept.clear()


@pytest.fixture(autouse=True, scope="module")
def here() -> Iterator[None]:
    """The helper is a fresh process, as in use, and finds what the tests call in it; none is there that does not."""
    end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.runtime.ahead.start", start)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(guarded_work.__file__).parent), str(REPOSITORY)]))
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A helper without the second that its start takes: it is ended again and again here."""
    end()
    monkeypatch.setattr("onnxprune.runtime.ahead.start", warm.Fresh)
    yield
    end()


def test_what_it_gives_and_says_comes_back_and_it_is_kept() -> None:
    said: list[str] = []
    assert guarded("guarded_work:add", 1, 2, tell=said.append) == 3
    assert said == ["adding 1"]
    first = guarded("guarded_work:process")
    assert first == guarded("guarded_work:process") != os.getpid()
    assert guarded("guarded_work:process", fresh=True) != first
    assert not guarded("guarded_work:hears"), "signals are its caller's"
    with pytest.raises(RunError, match="no"):
        guarded("guarded_work:refuse")
    assert guarded("guarded_work:process") == first
    with pytest.raises(RunError, match=r"writing: OSError: \[Errno 28\] No space left on device"):
        guarded("guarded_work:fill")
    with pytest.raises(InputError, match="secret: Permission denied: give a path"):
        guarded("guarded_work:look")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: nothing by nothing"):
        guarded("guarded_work:fail")


def test_a_crash_is_told_and_the_next_call_gets_another_process(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=r"its process crashed \(SIGSEGV\)"):
        guarded("guarded_work:crash")
    first = guarded("guarded_work:process")
    second = guarded("guarded_work:crash_once", str(tmp_path / "once"))
    assert second != first, "what another file left behind is no fault of this one: it is tried afresh"
    assert guarded("guarded_work:process") == second


def test_the_time_of_the_processor_has_a_limit_and_that_of_the_clock_has_none(quick: None) -> None:
    guarded("guarded_work:process")
    begin = time.monotonic()
    with pytest.raises(StoppedError, match=r"spinning does not finish in time, 0\.2 s"):
        guarded("guarded_work:spin")
    assert time.monotonic() - begin < 20
    guarded("guarded_work:wait")


def test_memory_has_a_limit(quick: None) -> None:
    for space in (True, False):
        with pytest.raises(StoppedError, match=r"growing takes over 0\.1 GiB of memory"):
            guarded("guarded_work:grow", limits=Limits(memory=2**27, address_space=space))
    assert guarded("guarded_work:grow", limits=Limits(memory=2**30)) == 150_000_000


def test_a_signal_ends_the_wait_and_the_helper() -> None:
    code = (
        "import signal, sys, threading, os, time\n"
        "from onnxprune.runtime import helper\n"
        "helper.guarded('guarded_work:process')\n"
        "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    helper.guarded('guarded_work:endless')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', helper._kept)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "interrupted []\n", done.stderr


def test_a_signal_while_a_lock_is_given_back_ends_the_helper() -> None:
    """Locks that are written in Python would stay taken, and the end of the helper be waited for in vain."""
    code = (
        "import signal, sys, threading, os\n"
        "from onnxprune.runtime import helper\n"
        "helper.guarded('guarded_work:process')\n"
        "def interrupt(frame, event, _):\n"
        "    if frame.f_code is threading.Condition.__exit__.__code__:\n"
        "        later.cancel()\n"
        "        raise KeyboardInterrupt\n"
        "later = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "later.start()\n"
        "try:\n"
        "    sys.settrace(interrupt)\n"
        "    helper.guarded('guarded_work:endless')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', helper._kept)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "interrupted []\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is a copy of its caller")
def test_one_that_was_begun_ahead_takes_the_first_call_and_is_like_any_other(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from onnxprune.runtime import ahead\n"
        "kept = open('kept', 'w')\n"
        "os.set_inheritable(kept.fileno(), True)\n"
        "ahead.begin()\n"
        "begun = ahead._begun[0].pid\n"
        "from onnxprune.runtime import helper\n"
        "pid, group, path, files = helper.guarded('guarded_work:surroundings')\n"
        "print(pid == begun, group == pid, os.getcwd() in path or '' in path, os.path.abspath('kept') in files)\n"
        "try:\n"
        "    helper.guarded('guarded_work:crash')\n"
        "except helper.StoppedError as stopped:\n"
        "    print(stopped)\n"
        "print(helper.guarded('guarded_work:add', 1, 2))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    # the crash of one that was used before is tried again in another
    assert done.stdout.splitlines() == ["True True False False", "its process crashed (SIGSEGV)", "3"], done.stderr


def test_the_commands_that_begin_it_ahead_are_those_that_ask_it_first() -> None:
    commands = REPOSITORY / "onnxprune" / "commands"
    asking = ("    warm_up()", "@makes_a_file(")
    found = {path.stem for path in commands.glob("*.py") if any(line in path.read_text() for line in asking)}
    assert tuple(sorted(found - {"made_file"})) == WITH_HELPER


@pytest.mark.skipif(sys.platform != "linux", reason="only there does the system end it")
def test_it_does_not_outlive_its_caller(tmp_path: Path) -> None:
    code = (
        "import os, threading, time\n"
        "from onnxprune.runtime import helper\n"
        "pid = helper.guarded('guarded_work:process')\n"
        "print(pid, flush=True)\n"
        "helper.guarded('guarded_work:endless')\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    time.sleep(0.2)
    caller.kill()
    caller.wait()
    end = time.monotonic() + 30
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def test_threads_take_turns() -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(guarded("guarded_work:add", 1, 1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2, 2, 2]


# ---- files


def saved(path: Path, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> Path:
    """A file that takes x, of four floats, and gives y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def bomb(path: Path, name: str) -> Path:
    """A file of some hundred bytes that ends a process or fills its memory."""
    node = helper.make_node
    many = np.int64(3_000_000_000)
    summed = [node("ReduceSum", ["t"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    one = np.ones((1, 1), np.float32)
    if name == "norm":
        nodes = [node("LayerNormalization", ["x", "w"], ["y"], axis=2**31)]
        return saved(path, nodes, w=np.ones(4, np.float32))
    if name == "split":
        return saved(path, [node("Split", ["x"], ["y"], axis=0, num_outputs=2**31 - 1)])
    if name == "range":
        nodes = [node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["t"], to=TensorProto.FLOAT), *summed]
        return saved(path, nodes, a=np.int64(0), b=many, c=np.int64(1))
    if name == "tile":
        return saved(path, [node("Tile", ["one", "n"], ["t"]), *summed], one=one, n=np.array([1, many]))
    return saved(path, [node("Expand", ["one", "n"], ["t"]), *summed], one=one, n=np.array([40_000, 40_000]))


@pytest.mark.parametrize(
    "name",
    # ten seconds of the processor, which what is too long for its limit takes: another limit is tried below
    ["norm", pytest.param("range", marks=pytest.mark.slow), "tile", "split", "expand"],
)
def test_a_bomb_ends_in_a_result_or_one_line(tmp_path: Path, name: str, quick: None) -> None:
    path = bomb(tmp_path / "bomb.onnx", name)
    before = psutil.Process().memory_info().rss
    looks = [lambda: profile(path, seconds=0.01)]
    if name != "range":  # which onnx takes seconds for, until there is too much of it
        looks.append(lambda: compare(path, [path], seconds=0.01))
    for look in looks:
        try:
            look()
        except InputError as error:
            assert "\n" not in str(error)
            assert str(error).startswith(str(path))
    assert psutil.Process().memory_info().rss - before < 2**28, "nothing of it is in this process"


def test_a_bomb_within_the_check_is_stopped_by_its_limit(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.analysis.profiling.reading_seconds", lambda size: 0.5)
    with pytest.raises(InputError, match=r"given up: reading and counting it (does not finish in time|takes over)"):
        profile(bomb(tmp_path / "bomb.onnx", "range"), seconds=0.01)


def loop(path: Path, trips: str) -> Path:
    """Images to scores, behind a loop that runs as often as `trips`, lines that make n, say."""
    body = f"""g (float[batch, 1, 2, 2] x) => (float[batch, 2] y) {{
        {trips}
        go = Constant <value = bool {{1}}> ()
        flat = Flatten (x)
        start = MatMul (flat, w)
        y = Loop (n, go, start) <body = rounds (int64 i, bool c, float[batch, 2] v) => (bool d, float[batch, 2] u) {{
            d = Identity (c)
            u = Identity (v)
        }}>
    }}"""
    return graphs.write(path, body, w=graphs.ones(4, 2))


ENDLESS = "n = Constant <value = int64 {4000000000000000000}> ()"
BY_CHANCE = """r = RandomUniform <shape = [1], low = 0.0, high = 1.0> ()
        many = Constant <value = int64[1] {4000000000000000000}> ()
        few = Constant <value = int64[1] {1}> ()
        zero = Constant <value = float[1] {2.0}> ()
        small = Less (r, zero)
        vec = Where (small, many, few)
        n = Squeeze (vec)"""


@pytest.mark.parametrize("trips", [ENDLESS, BY_CHANCE])
def test_an_endless_loop_is_stopped_everywhere(
    tmp_path: Path, trips: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune.analysis import classifier as classifying
    from onnxprune.analysis import comparison

    path = loop(tmp_path / "loop.onnx", trips)
    for module in (classifying, comparison, sys.modules["onnxprune.runtime.probe"]):
        monkeypatch.setattr(module, "SECONDS", 0.5)
    monkeypatch.setattr(classifying, "_SECONDS_AN_IMAGE", 0)
    found = open_classifier(path)
    with pytest.raises(InputError, match=r"given up: a run on 1 image does not finish in time"):
        found.logits(np.zeros((1, 1, 2, 2), np.uint8), Normalisation((0.0,), (1.0,)))


def test_predict_of_an_endless_loop_is_one_line(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.analysis import classifier as classifying

    monkeypatch.setattr(classifying, "SECONDS", 0.5)
    monkeypatch.setattr(classifying, "_SECONDS_AN_IMAGE", 0)
    path = loop(tmp_path / "loop.onnx", ENDLESS)
    model = onnx.load(path)
    helper.set_model_props(model, {"mean": "[0]", "std": "[1]", "classes": '["a", "b"]', "input_shape": "[1, 2, 2]"})
    onnx.save(model, path)
    Image.new("L", (2, 2)).save(tmp_path / "picture.png")
    done = called("predict", path, tmp_path / "picture.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "does not finish in time" in done.stderr


def test_what_is_timed_is_watched_too(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run may be quick by chance, and the timed ones not."""
    from onnxprune.analysis import profiling
    from onnxprune.runtime import probe as probing

    monkeypatch.setattr(probing, "probe", lambda path, shapes, **how: None)
    monkeypatch.setattr(profiling, "timing_limit", lambda seconds: 0.5)
    found = profile(loop(tmp_path / "loop.onnx", ENDLESS), seconds=0.01, threads=1)
    assert found.latencies == ()
    assert found.missing == ("latency: given up: timing does not finish in time, 0.5 s",)


def test_a_file_that_changes_while_it_is_profiled_is_told(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune.runtime import probe as probing

    body = "g (float[n, 4] x) => (float[n, 3] y) { y = MatMul (x, w) }"
    path = graphs.write(tmp_path / "m.onnx", body, w=graphs.ones(4, 3))
    monkeypatch.setattr(
        probing, "probe", lambda path, shapes, **how: graphs.write(path, body, w=2 * graphs.ones(4, 3)) and None
    )
    with pytest.raises(InputError, match="changed while it was profiled"):
        profile(path, seconds=0.01, threads=1)


def test_a_stage_within_another_has_a_limit_of_its_own(quick: None) -> None:
    with pytest.raises(StoppedError, match=r"the inner one does not finish in time, 0\.2 s"):
        guarded("guarded_work:spin_within", 0.2)
    with pytest.raises(StoppedError, match=r"the outer one does not finish in time, 0\.2 s"):
        guarded("guarded_work:spin_within", 2.0)


def test_it_leaves_memory_to_others(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert guarded("guarded_work:hold", 0.1) == 150_000_000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000_000))
    with pytest.raises(StoppedError, match="holding takes over"):
        guarded("guarded_work:hold", 10)


def test_what_it_leaves_on_disk_is_removed() -> None:
    assert not Path(guarded("guarded_work:temporary")).exists()


def test_prune_and_quantize_work_in_the_helper(tmp_path: Path, quick: None) -> None:
    """It is killed at their first step, in the one that tried the file and again in a new one."""
    path, data = trained.mlp(tmp_path / "mlp.onnx"), trained.unlabelled()
    steps = []
    others = {*psutil.Process().children(recursive=True)}

    def kill(what: str, done: int, total: int) -> None:
        begun = {*psutil.Process().children(recursive=True)} - others
        if what != "reading the file" and begun:  # what one that is killed has said before comes later
            steps.append(what)
            others.update(begun)
            for process in begun:
                process.kill()

    for work in (partial(onnxprune.prune, sparsity=50), onnxprune.quantize):
        with pytest.raises(InputError, match=r"mlp\.onnx: given up: its process crashed \(SIGKILL\)"):
            work(path, data=data, output=tmp_path / "out.onnx", advance=kill)
    assert steps == ["judging units", "judging units", "calibrating", "calibrating"]
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.onnx"]


@pytest.mark.slow  # 40 s of a processor: its runs have no limit below that
def test_a_loop_that_the_samples_make_endless_ends_the_work(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,3] y) {
        h = MatMul (x, w) r = Relu (h) s = MatMul (r, v)
        most = ReduceMax <keepdims = 0> (x) count = Cast <to = 7> (most) go = Identity (yes) start = Identity (one)
        sum = Loop (count, go, start) <body = b (int64 i, bool c, float a) => (bool d, float e) {
            d = Identity (c) e = Sin (a) }>
        y = Add (s, sum) }"""
    weights = {"w": graphs.ones(8, 16), "v": graphs.ones(16, 3), "one": np.float32(1), "yes": np.bool_(True)}
    path = graphs.write(tmp_path / "loop.onnx", text, **{name: np.asarray(value) for name, value in weights.items()})
    often = {"x": np.full((2, 8), 4e18, np.float32)}
    with pytest.raises(InputError, match=r"given up: a run does not finish in time, 13 s"):
        onnxprune.prune(path, sparsity=50, data=often, output=tmp_path / "out.onnx")


def test_prune_of_an_endless_loop_is_one_line(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.reduction import prune as pruning

    monkeypatch.setattr(pruning, "SECONDS_TO_OPEN", 0.5)
    body = loop(tmp_path / "loop.onnx", ENDLESS)
    done = called("prune", body, "--sparsity", "50", "--input", "x:1x1x2x2", "--threads", 1)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {body}: given up: a single run does not finish in time, 0.5 s\n"
    assert [path.name for path in tmp_path.iterdir()] == ["loop.onnx"]
