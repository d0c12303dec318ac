"""What the caller makes of the standard streams, and what is sent to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import hand_made

MODEL = Path(__file__).parents[2] / "models" / "cnn-digits-structured-l1-50.onnx"


def ran(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    shown = {**os.environ, **environment, "PYTHONUTF8": "0"}
    command = f"{sys.executable} -m onnxprune {line}"
    return subprocess.run(["sh", "-c", command], env=shown, capture_output=True, text=True, encoding="latin-1")


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
def test_streams_may_be_closed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert ran(f"profile {MODEL} --no-latency --html {page} >&-").returncode == 0
    assert page.is_file()
    assert ran(f"results {tmp_path} 2>&-").returncode == 2
    assert ran(f"results {tmp_path} <&- >&- 2>&-").returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
def test_letters_that_a_stream_lacks_are_replaced(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50", seeds=2)
    done = ran(f"results {sweep}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "Timing noise ?" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
@pytest.mark.parametrize("given", ["", "0"])
def test_onnxruntime_reports_nothing_unless_the_user_says_so(given: str) -> None:
    shown = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    shown |= {"ORT_DISABLE_TELEMETRY": given} if given else {}
    code = "import os, onnxprune, sys; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=shown, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [given or "1", "False"]


@pytest.mark.skipif(os.name == "nt", reason="pipes of Unix")
def test_a_pipe_is_refused_and_a_link_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.html")
    done = ran(f"profile {MODEL} --no-latency --html {tmp_path / 'pipe.html'}")
    assert done.returncode == 2
    assert "pipe.html is a device or a pipe: give the name of a file" in done.stderr
    assert (tmp_path / "pipe.html").is_fifo()
    (tmp_path / "link.html").symlink_to("page.html")
    assert ran(f"profile {MODEL} --no-latency --html {tmp_path / 'link.html'}").returncode == 0
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "page.html").is_file()
