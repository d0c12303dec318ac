"""Processes that are forked from one with imports done: they are what fresh ones would be, and tell how they end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from onnxprune.common import nursery
from onnxprune.common.nursery import Nursery

pytestmark = pytest.mark.skipif(not nursery.POSSIBLE, reason="no process can be forked safely here")

MODULE = """
import json, os, sys

def tell():
    print(json.dumps([os.getcwd(), os.environ.get("WORD"), os.getpgid(0) == os.getpid(), "wave" in sys.modules]))

def echo():
    for line in sys.stdin:
        print(line.upper(), end="", flush=True)

def leave():
    sys.exit(7)

def fail():
    raise ValueError
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("module")
    (folder / "born.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        found = Nursery(["wave"])
    yield found
    found.end()


def test_it_is_as_a_fresh_process_where_its_caller_is(
    made: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("first", "second"):
        monkeypatch.setenv("WORD", word)
        child = made.fork("born:tell")
        assert json.loads(child.stdout.read()) == [str(tmp_path), word, True, True]
        assert child.wait(10) == 0
    monkeypatch.delenv("WORD")
    assert json.loads(made.fork("born:tell").stdout.read())[1] is None


def test_several_are_talked_to_at_a_time(made: Nursery) -> None:
    children = [made.fork("born:echo") for _ in range(3)]
    assert len({child.pid for child in children}) == 3
    for number, child in enumerate(children):
        child.stdin.write(f"line {number}\n")
        child.stdin.flush()
    assert [child.stdout.readline() for child in children] == ["LINE 0\n", "LINE 1\n", "LINE 2\n"]
    children[1].stdin.close()  # nobody else holds its end
    assert children[1].wait(10) == 0
    assert [child.returncode for child in children] == [None, 0, None]
    for child in children[::2]:
        child.stdin.close()
        assert child.wait(10) == 0


@pytest.mark.parametrize(("function", "code"), [("leave", 7), ("fail", 1), ("tell", 0), ("nothing", 1)])
def test_the_exit_code_is_told(made: Nursery, function: str, code: int) -> None:
    assert made.fork(f"born:{function}").wait(10) == code


def test_signals_reach_it_and_are_told(made: Nursery) -> None:
    child = made.fork("born:echo")
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    child.send_signal(signal.SIGSTOP)
    child.send_signal(signal.SIGCONT)
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM
    child.kill()  # nothing to one that has ended


def test_without_its_nursery_a_child_is_ended_and_another_nursery_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "_kept", {})
    child = nursery.fork("sys:exit", ["wave"])
    assert child.wait(10) == 0
    (first,) = nursery._kept.values()
    assert nursery.fork("sys:exit", ["wave"]).wait(10) == 0
    assert list(nursery._kept.values()) == [first], "one is enough"
    child = nursery.fork("signal:pause", ["wave"])
    assert child.pid
    first._process.kill()
    assert child.wait(10) == -signal.SIGKILL
    first._process.wait()
    assert nursery.fork("sys:exit", ["wave"]).wait(10) == 0
    (second,) = nursery._kept.values()
    assert second is not first
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # which is read when a library is loaded
    assert not second.usable
    assert nursery.fork("sys:exit", ["wave"]).wait(10) == 0
    assert next(iter(nursery._kept.values())) is not second
    nursery._end_all()
    assert not nursery._kept


def test_it_ends_with_the_process_that_made_it() -> None:
    code = (
        "import os\nfrom onnxprune.common import nursery\n"
        "child = nursery.fork('signal:pause', ['wave'])\n"
        "print(child.pid, nursery._kept[('wave',)]._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    repository = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    child, made = (int(word) for word in done.stdout.split())
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(made).wait(10)
    assert not psutil.pid_exists(made) or psutil.Process(made).status() == psutil.STATUS_ZOMBIE
    os.kill(child, signal.SIGKILL)  # it is its function that has to notice, by the end of its standard input
