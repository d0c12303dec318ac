"""What all tests share."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from onnxprune.common.temporary import temporary_folder

# what is imported stays: walking through it again and again takes a quarter of the time of importing
gc.disable()

# set before PyTorch is imported, for subprocesses too: threads that wait for each other on a busy machine make small
# networks many times slower than one thread is
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("MKL_NUM_THREADS", None)

# hundreds of processes import the package: one compiles it for all, whatever the environment says of that
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# a server that processes are forked from is to order sets of strings in another way than this process does
os.environ.pop("PYTHONHASHSEED", None)

# no test cuts the power, and a small sweep waits sixty times for the disk
os.fsync = lambda descriptor: None

# the pixels of pictures that tests make up are no use to anybody later; of tests that are killed, the next ones remove
# what is left
_cache = temporary_folder()
os.environ["ONNXPRUNE_CACHE"] = _cache.name

# processes side by side each have a lock of timings of their own, or they would wait for each other, and say so
if "PYTEST_XDIST_WORKER" in os.environ:
    _place = temporary_folder()
    Path(_place.name).chmod(0o755)  # some tests are run as an ordinary user
    os.environ["TMPDIR"] = tempfile.tempdir = _place.name

# files side by side: these first, since the whole takes as long as what comes last
LONGEST = [
    "test_faults.py", "test_resume.py", "test_page.py", "test_pruning.py", "test_helper.py", "test_docs.py",
    "test_without_labels.py", "test_pool.py", "test_coupling.py", "test_mutants.py", "test_deployment.py",
    "test_schedules.py", "test_parallel.py", "test_twins.py", "test_own_data.py", "test_search.py",
    "test_comparison.py", "test_prune.py", "test_cluster.py", "test_badfiles.py", "test_cli.py",
    "test_extensions.py", "test_hostile_records.py", "test_recovery.py", "test_profile_page.py", "test_retime.py",
    "test_channels.py", "test_profiling.py",
    "test_point.py", "test_sweep.py", "test_figures.py", "test_reference.py", "test_elimination.py", "test_also.py",
    "test_cleaning.py", "test_extras.py", "test_rerun.py", "test_counts_of_models.py",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """From here on garbage is collected, but not what is imported by now, which stays. The largest of
    what PyTorch imports when it is first used, which takes as much of its time as a small network's pruning, is too."""
    if "torch" in sys.modules:
        import_module("torch._dynamo")
    gc.freeze()
    gc.set_threshold(10_000)  # as the command line has it
    gc.enable()


@pytest.fixture(autouse=True)
def threads_are_left_as_they_were() -> Iterator[None]:
    """More of them make all tests after it many times slower."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield
    assert before == (torch and torch.get_num_threads())


@pytest.fixture
def brief_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a plan is told by one update, not by as many as a moment allows."""
    monkeypatch.setattr("onnxprune.study.forecast._PROBE_SECONDS", 0.001)


@pytest.fixture(autouse=True, scope="session")
def warm_helpers() -> Iterator[None]:
    """Hundreds of files are each opened in a helper process of their own: it is forked, which saves most of a second.
    What a helper is started with is tested with `fresh_helper`, and in `runtime/test_helper.py`."""
    import warm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.runtime.ahead.start", warm.Fresh)
        yield
    if helper := sys.modules.get("onnxprune.runtime.helper"):  # the end of Python waits for processes that are forked
        for kept in helper._kept:
            kept.kill()


@pytest.fixture
def fresh_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper is started as it is in use."""
    from onnxprune.common.processes import start

    monkeypatch.setattr("onnxprune.runtime.ahead.start", start)


@pytest.fixture(autouse=True)
def brief_latency_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `deploy` times for the card is timed for a moment; where no test has imported it, nothing is."""
    if deployment := sys.modules.get("onnxprune.delivery.deployment"):
        monkeypatch.setattr(deployment, "_TIMING_SECONDS", 0.02)
