import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import graphs
import numpy as np
import pytest
import torch

from onnxprune.common.errors import InputError
from onnxprune.runtime import timing
from onnxprune.runtime.bystanders import Bystanders
from onnxprune.runtime.kernels import KernelTime, on_cpu, time_kernels
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.timing import compare, interleave, precise, summarise


def fake_run(name, calls, seconds=0.0):
    def run():
        calls.append(name)
        time.sleep(seconds)

    return run


def rounds_of(names, rounds):
    """Names in order of the calls, a list a round, without the warm-up (three calls each)."""
    calls = []
    times = interleave([fake_run(name, calls) for name in names], 0, warmup_seconds=0, min_runs=rounds)
    assert [part.shape for part in times] == [(rounds,)] * len(names)
    warmup = [name for name in names for _ in range(3)]
    assert calls[: len(warmup)] == warmup
    order = calls[len(warmup) :]
    return [order[start : start + len(names)] for start in range(0, len(order), len(names))]


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_each_round_runs_every_session_once(names):
    assert all(sorted(turn) == list(names) for turn in rounds_of(names, 24))


def test_three_sessions_run_in_all_six_orders_equally_often():
    turns = ["".join(turn) for turn in rounds_of("abc", 24)]
    assert {turn: turns.count(turn) for turn in turns} == dict.fromkeys(("abc", "acb", "bac", "bca", "cab", "cba"), 4)


def test_two_sessions_take_turns_at_going_first():
    turns = ["".join(turn) for turn in rounds_of("ab", 24)]
    assert turns.count("ab") == turns.count("ba") == 12


def test_no_run_always_follows_the_same_one():
    followers = {(first, second) for turn in rounds_of("abcd", 16) for first, second in itertools.pairwise(turn)}
    assert all(len([pair for pair in followers if pair[1] == name]) > 1 for name in "abcd")


def test_each_run_gets_its_own_times():
    fast, slow = interleave([fake_run("fast", []), fake_run("slow", [], 0.003)], 0, warmup_seconds=0, min_runs=8)
    assert slow.min() >= 3 > np.median(fast)  # milliseconds; a sleep is never shorter


def test_seconds_and_warmup_are_kept_to():
    calls = []
    start = time.perf_counter()
    (times,) = interleave([fake_run("a", calls, 0.001)], 0.1, warmup_seconds=0.1, min_runs=1)
    assert time.perf_counter() - start >= 0.2
    assert len(calls) > times.size > 1  # warm-up runs are not in the times


def test_it_ends_when_the_times_are_enough_but_not_before_the_least_number_of_rounds():
    def enough(times):
        seen.append(len(times[0]))
        return len(times[0]) >= 30

    seen = []
    times, _ = interleave([fake_run("a", []), fake_run("b", [])], 60, warmup_seconds=0, min_runs=20, enough=enough)
    assert seen == [20, 30]
    assert len(times) == 30
    times, _ = interleave([fake_run("a", []), fake_run("b", [])], 0, warmup_seconds=0, min_runs=50, enough=enough)
    assert len(times) == 50


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only in `clock.wait`."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

        def perf_counter_ns(self):
            return round(1e9 * self.now)

        def wait(self, seconds):
            self.now += seconds

    found = Clock()
    monkeypatch.setattr(timing, "time", found)
    return found


@pytest.mark.parametrize(
    ("each", "rounds", "spent"),
    [
        (0.1, 20, 9.2),  # three calls and twenty rounds of four runs
        (0.3, 20, 27.6),
        (0.5, 12, 30.0),  # the fourth of the runs has no more time to warm up
        (2.0, 6, 60.0),  # it is over before the least number of rounds
        (60.0, 6, 1680.0),
    ],
)
def test_a_measurement_of_long_runs_ends_after_the_longest_time_or_the_least_rounds(clock, each, rounds, spent):
    times = interleave([lambda: clock.wait(each)] * 4, 3, warmup_seconds=0)
    assert [part.shape for part in times] == [(rounds,)] * 4
    assert np.concatenate(times) == pytest.approx(1000 * each)
    assert clock.now == pytest.approx(spent)


def test_a_longer_measurement_than_the_longest_one_can_be_asked_for(clock):
    (times,) = interleave([lambda: clock.wait(5)], 90, warmup_seconds=0)
    assert len(times) == 18
    (times,) = interleave([lambda: clock.wait(5)], 0, warmup_seconds=0, longest=60)
    assert len(times) == 9


def test_where_few_rounds_are_asked_for_no_more_are_made(clock):
    (times,) = interleave([lambda: clock.wait(50)], 0, warmup_seconds=0, min_runs=2)
    assert len(times) == 2


def test_a_median_is_precise_when_its_interval_is_within_two_percent():
    random = np.random.default_rng(0)
    assert precise(np.full(20, 3.0))
    assert precise(np.full(6, 3.0))
    assert not precise(np.full(5, 3.0))  # too few for an interval of 95 %
    assert not precise(random.normal(3, 0.3, 20))
    assert precise(random.normal(3, 0.3, 2000))
    inside = [
        precise(sample) <= (abs(np.median(sample) - 3) < 0.1)  # where it says so, the median is near the truth
        for sample in (random.normal(3, 0.15, 60) for _ in range(200))
    ]
    assert np.mean(inside) > 0.95


def test_summary_by_hand():
    latency = summarise(np.arange(1, 1001, dtype=float))
    assert latency.median_ms == 500.5
    assert latency.p90_ms == pytest.approx(900.1)
    assert latency.p99_ms == pytest.approx(990.01)
    assert latency.mean_ms == 500.5
    assert latency.std_ms == pytest.approx(np.sqrt((1000**2 - 1) / 12))
    assert latency.runs == 1000


def test_a_few_slow_runs_do_not_move_the_median():
    times = np.array([2.0] * 15 + [1.0] * 4 + [1000.0])
    latency = summarise(times)
    assert latency.median_ms == 2
    assert latency.mean_ms == pytest.approx(times.mean())


def test_no_p99_below_a_thousand_runs():
    assert summarise(np.ones(999)).p99_ms is None


def test_a_file_against_itself_is_a_tie(tmp_path):
    path = graphs.linear(tmp_path / "model.onnx", graphs.ones(64, 3 * 32 * 32))
    (comparison,) = compare(path, [path], (3, 32, 32), 8, device="cpu", threads=1, seconds=0.3)
    assert 0.5 < comparison.speedup < 2
    assert 0 <= comparison.noise < 1
    assert comparison.speedup == comparison.base.median_ms / comparison.other.median_ms
    assert comparison.base.runs == comparison.other.runs >= 20


def test_a_far_smaller_file_is_faster(tmp_path):
    base = graphs.linear(tmp_path / "base.onnx", graphs.ones(1000, 3 * 32 * 32))
    other = graphs.linear(tmp_path / "other.onnx", graphs.ones(10, 3 * 32 * 32))
    (comparison,) = compare(base, [other], (3, 32, 32), 8, device="cpu", threads=1, seconds=0.3)
    assert comparison.speedup > 3


def test_speedup_and_noise_by_hand(monkeypatch):
    """Two sessions of each file in the same rounds: base, other, base, other."""
    monkeypatch.setattr(timing, "fresh_run", lambda *arguments: arguments)
    sessions = []

    def interleave(runs, *arguments, **options):
        sessions.extend(runs)
        return [np.array([value] * 21) for value in (6.0, 2.0, 6.6, 2.1)]

    monkeypatch.setattr(timing, "interleave", interleave)
    base, other = Path("base.onnx"), Path("other.onnx")
    (found,) = compare(base, [other], (3, 5, 5), 8, device="cpu", threads=2, seconds=0.1)
    assert sessions == [(path, (8, 3, 5, 5), "cpu", 2) for path in (base, other, base, other)]
    assert found.base.median_ms == pytest.approx(6.3)
    assert found.other.median_ms == pytest.approx(2.05)
    assert found.base.runs == found.other.runs == 42
    assert found.speedup == pytest.approx(6.3 / 2.05)
    assert found.noise == pytest.approx(0.6 / 6 + 0.1 / 2)


def test_base_and_other_are_timed_in_the_same_rounds(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "fresh_run", lambda path, *_: fake_run(path.stem, calls))
    compare(Path("base.onnx"), [Path("other.onnx")], (1,), 8, device="cpu", threads=1, seconds=0)
    rounds = [calls[start : start + 4] for start in range(12, len(calls), 4)]  # after three runs of each to warm up
    assert len(rounds) >= 20
    assert all(sorted(turn) == ["base", "base", "other", "other"] for turn in rounds)


def test_an_input_of_another_shape_is_an_error(tmp_path, capfd):
    path = graphs.linear(tmp_path / "model.onnx", graphs.ones(2, 4))
    with pytest.raises(InputError, match=r"model\.onnx: input 'input' .* shape \[8, 3, 3, 3\]"):
        compare(path, [path], (3, 3, 3), 8, device="cpu", threads=1, seconds=0.1)
    assert capfd.readouterr() == ("", "")


def test_cuda_without_a_gpu_is_an_error_and_silent(tmp_path, capfd):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = graphs.linear(tmp_path / "model.onnx", graphs.ones(2, 4))
    with pytest.raises(InputError, match="--device cpu"):
        compare(path, [path], (1, 2, 2), 8, device="cuda", threads=1, seconds=0.1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_cuda_times_a_file_against_itself(tmp_path):
    path = graphs.linear(tmp_path / "model.onnx", graphs.ones(64, 3 * 32 * 32))
    (comparison,) = compare(path, [path], (3, 32, 32), 8, device="cuda", threads=1, seconds=0.3)
    assert 0.5 < comparison.speedup < 2


def test_the_lock_keeps_another_process_waiting(tmp_path):
    code = (
        "from onnxprune.runtime.lock import timing_lock\n"
        "print('waiting', flush=True)\n"
        "with timing_lock(): print('timing', flush=True)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        with timing_lock():
            other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
            assert other.stdout.readline() == "waiting\n"
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.3)
        output, _ = other.communicate(timeout=30)
    assert output == "timing\n"


def test_the_lock_is_free_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RuntimeError), timing_lock():
        raise RuntimeError
    with timing_lock():
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".lock"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another process that holds the lock."""
    code = (
        "import time\nfrom onnxprune.runtime.lock import timing_lock\n"
        "with timing_lock():\n    print('timing', flush=True)\n    time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("onnxprune.runtime.lock._PATIENCE", 0.1)
    try:
        assert other.stdout.readline() == "timing\n"
        yield other
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
def test_the_lock_says_whom_it_waits_for_and_passes_over_a_stopped_process(other):
    said = []

    def say(line):
        said.append(line)
        other.send_signal(signal.SIGSTOP)

    with timing_lock(say) as mine:
        assert not mine
    other.kill()
    other.wait()
    assert said[0].startswith(f"waiting for the timing of process {other.pid}, since ")
    assert said[1].startswith(f"process {other.pid} has been timing since ")
    assert said[1].endswith("and is stopped: not waited for")
    with timing_lock(said.append) as mine:
        assert mine
    assert len(said) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs another process that ends with this one")
def test_the_lock_passes_over_a_process_that_has_been_timing_for_over_75_minutes(other, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock of the day, which was set back
    minutes = iter([74, 76])
    said = []
    (owner,) = tmp_path.glob("*.json")
    holder = json.loads(owner.read_text())
    assert 0 <= time.monotonic() - holder["begun"] < 60

    def began_earlier():
        owner.write_text(json.dumps({**holder, "begun": time.monotonic() - 60 * next(minutes)}))

    began_earlier()
    with timing_lock(lambda line: said.append(line) or (len(said) == 1 and began_earlier())) as mine:
        assert not mine
    assert [line.startswith("waiting for the timing of process") for line in said] == [True, False]
    assert said[1] == f"process {other.pid} has been timing since {holder['since']}, far too long: not waited for"


def test_others_keep_no_more_cores_busy_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick of the system's clock, 10 ms of every core, seen within 1 ms."""
    samples = iter([(0.0, 0.0, 0.0), (0.001, 0.01 * (os.cpu_count() or 1), 0.0)])
    monkeypatch.setattr(Bystanders, "_sample", lambda self: next(samples))
    found = Bystanders().disturbance(np.ones(9), 1)
    assert found.others == (os.cpu_count() or 1)
    assert found.busy == f"other processes kept {os.cpu_count()}.0 of {os.cpu_count()} cores busy"


def test_what_other_processes_do_is_told():
    times = np.full(100, 2.0)
    calm = Bystanders().disturbance(times, 1)
    assert (calm.spread, calm.others >= 0) == (0, True)
    uneven = Bystanders().disturbance(np.tile([1.0, 3.0], 50), 1)
    assert "spreads over 100 % of the median" in uneven.busy


def test_kernels_are_timed_by_operator(tmp_path):
    path = graphs.linear(tmp_path / "model.onnx", graphs.ones(512, 3 * 32 * 32))
    kernels = time_kernels(path, {"input": (8, 3, 32, 32)}, device="cpu", threads=1, seconds=0.05)
    assert {kernel.operator: (kernel.provider, kernel.count) for kernel in kernels} == {
        "Flatten": ("CPU", 1),
        "Gemm": ("CPU", 1),
    }
    assert kernels[0].operator == "Gemm"
    assert kernels[0].ms > kernels[1].ms > 0
    assert sum(kernel.share for kernel in kernels) == pytest.approx(100)


def test_kernels_within_a_loop_are_counted_and_the_loop_is_not(tmp_path):
    body = """g (float[n] x) => (float[m] y) {
        trips = Constant <value = int64 {5}> ()
        on = Constant <value = bool {1}> ()
        y = Loop (trips, on, x) <body = b (int64 i, bool c, float[k] a) => (bool d, float[k] e) {
            d = Identity (c)
            e = Sin (a)
        }>
    }"""
    kernels = time_kernels(
        graphs.write(tmp_path / "model.onnx", body), {"x": (4,)}, device="cpu", threads=1, seconds=0.01
    )
    counts = {kernel.operator: kernel.count for kernel in kernels}
    assert counts["Sin"] == 5
    assert "Loop" not in counts


def kernels_on(**providers):
    return [KernelTime(operator, provider, 2, 0.1, 50.0) for operator, provider in providers.items()]


def test_what_cuda_leaves_to_the_cpu_is_named():
    path = Path("model.onnx")
    assert on_cpu(path, kernels_on(Conv="CUDA", Relu="CUDA")) is None
    assert "on the CPU" in on_cpu(path, kernels_on(Conv="CUDA", NonZero="CPU", Unique="CPU"))
    assert on_cpu(path, kernels_on(Conv="CUDA", NonZero="CPU", Unique="CPU")).endswith(": 2 NonZero, 2 Unique")


def test_a_file_that_runs_on_the_cpu_alone_has_no_figure_of_cuda():
    with pytest.raises(InputError, match=r"model\.onnx: none of its operators runs on CUDA here; use --device cpu"):
        on_cpu(Path("model.onnx"), kernels_on(StringNormalizer="CPU"))
