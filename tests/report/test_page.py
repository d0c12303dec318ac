"""`report`: the page, in a real browser where there is one."""

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from command_line import small_npz
from made_up import finish, hand_made
from markupsafe import escape
from windows import WINDOWS, charts_that_fit

import onnxprune as package
from onnxprune.commands import report as command
from onnxprune.common.errors import InputError
from onnxprune.common.files import make_folder, read_json, write_json, write_text
from onnxprune.delivery.choice import choose
from onnxprune.delivery.constraints import constraints
from onnxprune.report import charts
from onnxprune.report.charts import accuracy_over_cost, pareto_front
from onnxprune.report.page import write
from onnxprune.report.series import error_bars, looks, named_series, over_seeds, sound_span
from onnxprune.report.sources import read
from onnxprune.report.summary import best_by_technique, comparison
from onnxprune.results import store
from onnxprune.results.statistics import mean_interval
from onnxprune.results.tables import result_table
from onnxprune.settings.sweep import Sweep
from onnxprune.study.cleaning import clean, leftovers

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&amp;"


def page_of(out: Path, *sweeps: Path) -> str:
    write(read(list(sweeps)), out)
    return out.read_text(encoding="utf-8")


def document(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


# ---- what is drawn


def test_the_pareto_front_is_what_no_other_point_matches_or_beats() -> None:
    costs, accuracies = [3, 1, 2, 2, 5, 4, 1], [95, 90, 94, 95, 97, 94, 89]
    rows = pd.DataFrame({"macs": costs, "accuracy": accuracies}).convert_dtypes()
    front = pareto_front(rows, "macs")
    beaten = [
        any(
            (c <= cost and a >= accuracy and (c, a) != (cost, accuracy)) for c, a in zip(costs, accuracies, strict=True)
        )
        for cost, accuracy in zip(costs, accuracies, strict=True)
    ]
    assert sorted(front.index) == [index for index, lost in enumerate(beaten) if not lost]
    assert list(front["macs"]) == sorted(front["macs"])


def test_seeds_are_one_curve_with_mean_and_sample_deviation() -> None:
    measured = {"sparsity": [50, 0, 50, 50], "accuracy": [90.0, 97.0, 92.0, None]}
    rows = pd.DataFrame({**measured, "collapsed": [True, False, False, False]}).convert_dtypes()
    points = over_seeds(rows, "sparsity", "accuracy")
    assert points[["x", "y", "seeds"]].to_numpy().tolist() == [[0, 97, 1], [50, 91, 2]]
    assert points["std"].tolist() == [0, pytest.approx(2**0.5)]
    assert points["collapsed"].tolist() == [False, True]


def test_error_bars_are_intervals_over_images_or_over_seeds() -> None:
    rows = pd.DataFrame(
        {
            "sparsity": [0, 50, 50],
            "achieved_sparsity": [0.0, 48.0, 52.0],
            "accuracy": [97.0, 90.0, 90.5],
            "accuracy_low": [95.0, 1, 1],
            "accuracy_high": [98.0, 1, 1],
        }
    )
    points = over_seeds(rows, "achieved_sparsity", "accuracy")
    assert points["x"].tolist() == [0, 50]
    assert points[["low", "high"]].to_numpy().tolist() == [[95, 98], list(mean_interval(np.array([90.0, 90.5])))]
    below, above = error_bars(points)
    assert (below[0], above[0]) == (2, 1)
    without = over_seeds(rows.drop(columns=["accuracy_low", "accuracy_high"]), "sparsity", "accuracy")
    assert [bar[0] for bar in error_bars(without)] == [0, 0]


def test_no_interval_of_accuracies_goes_beyond_what_they_can_be() -> None:
    rows = pd.DataFrame({"sparsity": [50, 50], "accuracy": [20.0, 90.0], "cross_entropy": [0.1, 2.0], "collapsed": 0})
    low, high = mean_interval(rows["accuracy"].to_numpy())
    assert low < 0 and high > 100
    assert over_seeds(rows, "sparsity", "accuracy")[["low", "high"]].to_numpy().tolist() == [[0, 100]]
    losses = over_seeds(rows, "sparsity", "cross_entropy")[["low", "high"]].to_numpy()[0]
    assert tuple(losses) == pytest.approx(mean_interval(rows["cross_entropy"].to_numpy()))


def test_curves_are_named_by_what_varies_within_a_technique() -> None:
    rows = pd.DataFrame(
        {
            "technique": ["weight", "weight", "neuron"],
            "criterion": ["l1", "l1", "taylor"],
            "batch_size": [32, 256, 32],
        }
    )
    names = named_series(rows)
    assert list(names) == ["weight, batch 32", "weight, batch 256", "neuron, batch 32"]
    found = looks(rows, names)
    small, large, other = (found[name] for name in names)
    assert small.colour == large.colour != other.colour
    assert small.dash == other.dash != large.dash


def test_criteria_of_a_single_technique_differ_in_colour() -> None:
    rows = pd.DataFrame({"technique": ["weight"] * 3, "criterion": ["l1", "l2", "random"]})
    found = looks(rows, named_series(rows))
    assert list(found) == ["weight, l1", "weight, l2", "weight, random"]
    assert len({look.colour for look in found.values()}) == 3


@pytest.mark.parametrize("techniques", [["weight"], ["weight", "neuron", "structured", "unstructured"]])
def test_many_variants_differ_in_their_looks(techniques: list[str]) -> None:
    pairs = list(itertools.product(techniques, range(30)))
    rows = pd.DataFrame({"technique": [name for name, _ in pairs], "batch_size": [size for _, size in pairs]})
    found = looks(rows, named_series(rows))
    assert len(found) == len({*found.values()}) == len(pairs)


def test_collapsed_networks_do_not_stretch_an_axis() -> None:
    rows = pd.DataFrame({"accuracy": [97.0, 95.0, 10.0], "collapsed": [False, False, True]})
    low, high = sound_span(rows, "accuracy")
    assert sound_span(rows, "accuracy", ends=[low - 5, np.nan])[0] < low - 5
    assert sound_span(rows, "accuracy", ends=[high + 1])[1] > high + 1
    assert 94 < low < 95
    assert 97 < high < 98
    assert sound_span(rows[rows["collapsed"]], "accuracy")[0] < 10


# ---- the page as text


def test_losses_go_on_from_the_base_where_the_training_does() -> None:
    ways = [("one-shot", "none"), ("one-shot", "scratch"), ("agp", "none"), ("at-init", "none")]
    rows = pd.DataFrame(ways, columns=["schedule", "control"])
    rows = rows.assign(folder=list("abcd"), base_id="base", seed=0, sparsity=[10, 20, 30, 40])
    drawn = charts.training_curves(rows, {folder: [0.5] for folder in "abcd"}, {"base": [2.0, 1.0]})
    assert [trace.x for trace in drawn.data[:5]] == [(1, 2), (3, None), (1, None), (3, None), (1, None)]


def test_the_page_of_a_real_sweep_shows_what_deploy_would_choose(tmp_path: Path) -> None:
    package.sweep(
        model="slp", dataset=str(small_npz(tmp_path / "squares.npz")), technique="structured", hidden=16,
        sparsity=[0, 50], epochs=2, finetune_epochs=1, batch_size=32, latency_seconds=0.01, name="real", out=tmp_path,
    )  # fmt: skip
    sweep = tmp_path / "real"
    html = page_of(sweep / "report.html", sweep)
    best = choose(result_table(sweep), constraints(max_drop=1.0)).row
    assert f'href="./{best["folder"]}/model.onnx"' in html
    assert f"{best['base_macs']:,} → {best['macs']:,}" in html
    assert f"{best['accuracy']:.2f} %" in html
    assert "2 of 2 points done" in html
    found = document(html)
    assert len(found["rows"]) == 2
    assert all((sweep / unquote(link)).is_file() for link in found["links"])
    details = found["studies"][0]["details"]["structured"]
    assert details["training"]["data"][0]["x"] == [1, 2]  # the base, then a fine-tuning
    assert details["training"]["data"][1]["x"] == [3, None]
    assert details["layers"]["data"][0]["y"] == ["hidden"]


def test_the_headline_tells_the_change_against_the_control(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="structured", sparsity=[0, 20])
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(sweep, point, **({"base_accuracy": 90.0} if point.sparsity else {}))
    html = page_of(tmp_path / "page.html", sweep)
    assert "-0.16 against the 0 % control&#39;s 97.50 %; base 90.00 %, +7.34 including fine-tuning" in html
    assert "structured l1, 20 % removed" in html


def test_what_seeds_and_controls_tell_is_on_the_page(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight,structured", sparsity="0,50", seeds=3, control="none,random")
    html = page_of(tmp_path / "page.html", sweep)
    assert "<h2>Which is more accurate, at the same sparsity asked for?</h2>" in html
    assert "<li>cnn on digits, batch 256: weight l1 against structured l1: better at 50 % (+0.50" in html
    assert "Chosen by the means over 3 seeds; this file is of seed 2." in html
    assert "<h2>Is it better than random pruning, or than training the small network from scratch?</h2>" in html


def test_what_is_said_of_bases_is_of_those_that_are_trained_alike(tmp_path: Path) -> None:
    sweeps = []
    for name, gain in (("good", 0.0), ("poor", 5.0)):
        sweeps.append(hand_made(tmp_path, name, technique="weight", sparsity="0,50", schedule="one-shot,iterative"))
        for point in Sweep.read(sweeps[-1] / store.SPEC).points:
            worse = gain if point.schedule == "iterative" else 0.0
            finish(sweeps[-1], point, base_accuracy=90.0, accuracy=90.0 + worse)
    html = page_of(tmp_path / "page.html", *sweeps)
    found = re.findall(r'<p class="note">(.*?not fully trained.*?)</p>', html)
    assert len(found) == 1
    assert found[0].startswith(
        "cnn on digits, batch 256, sweep poor, schedule iterative: the base is not fully trained"
    )
    assert "makes it 5.00 points better" in found[0]


def test_shares_that_are_no_whole_numbers_are_shown_as_they_are(tmp_path: Path) -> None:
    digits = {}
    for name, sparsity in (("whole", "0,50"), ("halves", "0,37.5")):
        sweep = hand_made(tmp_path, name, technique="weight", sparsity=sparsity)
        columns = document(page_of(tmp_path / f"{name}.html", sweep))["columns"]
        digits[name] = next(column["digits"] for column in columns if column["key"] == "sparsity")
    assert digits == {"whole": 0, "halves": 1}


def test_configurations_some_of_whose_networks_collapsed_are_on_no_front(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="structured", sparsity=[0, 50, 90], seeds=2)
    for point in Sweep.read(sweep / store.SPEC).points:
        gone = point.sparsity == 90 and point.seed == 1
        finish(sweep, point, accuracy=10.0 if gone else 95.0, collapsed=gone, macs=int(1000 - 10 * point.sparsity))
    table = result_table(sweep)
    names = named_series(table)
    figure = accuracy_over_cost(table.assign(told=""), names, looks(table, names), "macs", "", front=True)
    points, front = figure.data
    assert sorted(points.x) == [100, 500, 500, 1000, 1000], "a sound one is drawn all the same"
    assert sorted(front.x) == [500]


def test_batch_sizes_are_studies_of_their_own(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50", batch_size="32,256")
    found = document(page_of(tmp_path / "page.html", sweep))["studies"]
    assert [study["title"] for study in found] == ["cnn on digits, batch 32", "cnn on digits, batch 256"]


def test_the_front_and_the_latencies_are_of_means_and_of_one_moment(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="structured", sparsity=[0, 50], seeds=2)
    for point in Sweep.read(sweep / store.SPEC).points:
        busy = {"base_latency_ms_median": 1.0 + 2 * point.seed, "latency_ms_median": (1.0 + 2 * point.seed) / 2}
        finish(sweep, point, **busy, speedup=2.0 if point.sparsity else 1.0)
    table = result_table(sweep)
    names = named_series(table)
    rows = table.assign(told="")
    figure = accuracy_over_cost(rows, names, looks(table, names), "latency_ms_paired", "", front=True)
    points, front = figure.data
    assert sorted(points.x) == [1.0, 1.0, 2.0, 2.0], "the median base over the sweep took 2 ms"
    assert list(front.x) == [1.0, 2.0]
    assert list(front.y) == pytest.approx([97.0, 98.0], abs=0.001)


def test_no_ratio_is_made_of_incomplete_counts(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "missing", technique="structured", sparsity=[0, 50])
    whole = page_of(tmp_path / "whole.html", sweep)
    assert "MACs leave out" not in whole
    assert "1,000,000 → " in whole
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(sweep, point, macs_missing="Loop: <b>unknown</b>", base_macs_missing="Loop: unknown")
    html = page_of(tmp_path / "page.html", sweep)
    assert "1,000,000 → " not in html
    assert "not all counted: Loop: &lt;b&gt;unknown&lt;/b&gt;" in html
    found = document(html)
    assert found["columns"][-2]["title"] == "MACs leave out"
    assert [row[-2] for row in found["rows"]] == ["Loop: <b>unknown</b>"] * 2
    study = found["studies"][0]["figures"]
    assert all(not trace.get("customdata") for name in ("macs", "speedup") for trace in study[name]["data"])
    assert any("at least" in text for trace in study["latency"]["data"] for text in trace.get("customdata", []))


def test_nothing_on_the_page_is_fetched(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    html = page_of(tmp_path / "report.html", sweep)
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|url|@import)\s*[=(]?\s*["']?(?:https?:)?//""", own)
    assert "default-src 'none'" in own
    report = Path(command.__file__).parents[1] / "report"
    assert not [path for path in report.glob("*.js") if "fetch(" in path.read_text()]


def test_the_same_sweep_gives_the_same_page(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight,structured", sparsity="0,50", seeds=2)
    assert page_of(tmp_path / "a.html", sweep) == page_of(tmp_path / "a.html", sweep)


def test_a_running_sweep_says_how_much_is_done_and_what_failed(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,30,50,70")
    folders = sorted(path.parent for path in sweep.glob("*/metrics.json"))
    (folders[0] / store.METRICS).unlink()
    (folders[1] / store.METRICS).unlink()
    store.write_error(folders[1], "training diverged", "")
    html = page_of(tmp_path / "report.html", sweep)
    assert "2 of 4 points done, 1 failed" in html
    assert "training diverged" in html
    assert 'http-equiv="refresh"' not in html


def test_a_study_is_finished_when_its_points_were_whatever_changed_their_records(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    for record in sweep.glob(f"*/{store.METRICS}"):
        config = record.with_name(store.CONFIG)
        os.utime(config, (1_000_000_000, 1_000_000_000))
        found = {**read_json(record), "finished": "2001-09-09T02:46:40+00:00"}  # an hour later
        write_json(record, found)  # today, as `retime` does
    html = page_of(tmp_path / "page.html", sweep)
    assert re.search(r"finished 09 September 2001, 60 min after its start", html)


def test_a_sweep_without_a_finished_point_has_a_page(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0")
    for path in sweep.glob("*/metrics.json"):
        path.unlink()
    html = page_of(tmp_path / "report.html", sweep)
    assert "0 of 1 points done" in html
    assert document(html)["studies"] == []


def test_a_sweep_that_was_not_timed_says_so(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(sweep, point, speedup=None, speedup_noise=None, latency_ms_median=None, base_latency_ms_median=None)
    html = page_of(tmp_path / "report.html", sweep)
    assert "not timed: latency_seconds is 0" in html
    figures = document(html)["studies"][0]["figures"]
    assert figures["latency"] is None
    assert figures["speedup"] is None


def test_what_is_said_of_timing_shows_commands_as_code(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(sweep, point, timing_disturbed="other processes ran <here>", timing_load_average=3.0)
    html = page_of(tmp_path / "page.html", sweep)
    assert "2 of 2 points: other processes ran &lt;here&gt;" in html
    assert "<code>onnxprune retime</code> measures again." in html


def test_latencies_of_different_conditions_have_no_common_front(tmp_path: Path) -> None:
    one = hand_made(tmp_path, "one", technique="weight", sparsity="0,50", latency_batch=1)
    two = hand_made(tmp_path, "two", technique="weight", sparsity="0,50", latency_batch=32)
    (study,) = document(page_of(tmp_path / "report.html", one, two))["studies"]
    assert [text.split(",")[0] for text in study["timing"]] == ["batch 1", "batch 32"]
    drawn = {name: [trace["name"] for trace in study["figures"][name]["data"]] for name in ("macs", "latency")}
    assert "Pareto front" in drawn["macs"]
    assert "Pareto front" not in drawn["latency"]


def test_sweeps_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    paths = [hand_made(tmp_path / place, "demo", technique="weight", sparsity="0,50") for place in ("a", "b")]
    sources = read([*paths, paths[0]])
    assert [source.name for source in sources] == ["a/demo", "b/demo"]
    found = document(page_of(tmp_path / "report.html", *paths))
    assert [entry["name"] for entry in found["studies"][0]["series"]] == ["weight, a/demo", "weight, b/demo"]
    assert {link.split("/")[0] for link in found["links"]} == {"a", "b"}


def test_a_folder_that_is_no_sweep_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not the folder of a sweep: it has no sweep\.toml"):
        page_of(tmp_path / "report.html", tmp_path)
    assert not list(tmp_path.iterdir())


def test_records_of_another_version_are_named_or_left_out(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="50")
    (path,) = sweep.glob("*/metrics.json")
    found = read_json(path)
    write_json(path, {name: found[name] for name in ("metrics", "environment", "files")})  # no layers, no losses
    (study,) = document(page_of(tmp_path / "report.html", sweep))["studies"]
    assert study["details"]["weight"]["layers"]["data"][0]["y"] == []
    del found["metrics"]["effective_macs"]
    write_json(path, found)
    (source,) = read([sweep])
    assert not len(source.table)
    (line,) = source.left_out
    assert line.startswith(f"{path.parent.name} is left out: metrics.json lacks effective_macs")
    assert escape(line) in page_of(tmp_path / "report.html", sweep)


def test_a_point_whose_model_was_changed_is_left_out_and_named(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    (path,) = sweep.glob("*-s50-*/model.onnx")
    path.write_bytes(b"b model")
    (source,) = read([sweep])
    assert list(source.table["sparsity"]) == [0]
    assert [best.row["sparsity"] for best in source.best] == [0]
    assert source.left_out == [
        f"{path.parent.name} is left out: model.onnx is not what was measured; run the sweep again"
    ]
    found = document(page_of(tmp_path / "report.html", sweep))
    assert all("-s50-" not in link for link in found["links"])


def test_watching_writes_the_page_until_all_points_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    points = Sweep.read(sweep / store.SPEC).points
    shutil.rmtree(sweep / points[1].point_id("checksum"))
    pages = []

    def a_point_finishes(seconds: float) -> None:
        pages.append((sweep / "report.html").read_text(encoding="utf-8"))
        finish(sweep, points[1])

    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=a_point_finishes))
    done = CliRunner().invoke(command.report, [str(sweep), "--watch"])
    assert done.exit_code == 0, done.output
    pages.append((sweep / "report.html").read_text(encoding="utf-8"))
    assert ['http-equiv="refresh"' in page for page in pages] == [True, False]
    assert ["1 of 2 points done" in page for page in pages] == [True, False]
    assert done.stdout.strip() == str(sweep / "report.html")
    assert "one: 2 of 2 done" in done.stderr
    assert done.stderr.startswith("Looking every 5 s for points that finished")


def test_watching_says_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def taken(say: Any) -> Iterator[bool]:
        say("waiting for the timing of process 1, since 12:00:00")
        yield True

    monkeypatch.setattr("onnxprune.runtime.lock.timing_lock", taken)
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0")
    done = CliRunner().invoke(command.report, [str(sweep), "--watch"])
    assert "Waiting for the timing of process 1, since 12:00:00\n" in done.stderr


def test_each_technique_has_its_best_in_a_table_of_its_own(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight,structured", sparsity="0,30,50,90")
    found = {best.technique: best for best in best_by_technique(read([sweep]))}
    assert found["structured"].removed == "30 % removed"
    assert found["structured"].mean("control_accuracy") == 97.5
    html = page_of(tmp_path / "report.html", sweep)
    assert "What does pruning cost, and gain, for cnn on digits?" in html
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>\s*<td class="number">([\d.]+)', html)
    assert rows == [("weight", f"{found['weight'].mean('accuracy'):.2f}"), ("structured", "97.14")]
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(sweep, point, validation_accuracy=50.0)
    assert all(best.choice is None for best in best_by_technique(read([sweep])))
    assert page_of(tmp_path / "report.html", sweep).count("no model loses so little") == 2


def test_the_best_of_a_technique_is_no_control_unless_nothing_else_was_run(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="structured", sparsity="30", criterion="l1,random")
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(sweep, point, speedup=9.0 if point.criterion == "random" else 2.0)
    (best,) = best_by_technique(read([sweep]))
    assert (best.removed, best.mean("speedup")) == ("30 % removed", 2.0)
    alone = hand_made(tmp_path, "two", technique="structured", sparsity="30", criterion="random")
    (best,) = best_by_technique(read([alone]))
    assert best.removed == "30 % removed by structured random, a control"


def test_the_table_of_techniques_says_what_the_table_of_results_says(tmp_path: Path) -> None:
    """Means of the same seeds, and the control of the same training: not that of another batch size or criterion."""
    settings = {"technique": "weight", "sparsity": "0,50", "criterion": "l1,l2", "batch_size": "32,256"}
    sweep = hand_made(tmp_path, "one", **settings, seeds=3)
    for point in Sweep.read(sweep / store.SPEC).points:
        extra = 0.25 * (point.criterion == "l2") - 3 * (point.batch_size == 32)
        good = 95 + point.seed + extra - (0.5 + 0.001 * point.seed) * (point.sparsity > 0)
        finish(sweep, point, accuracy=good, validation_accuracy=98 + extra, base_validation_accuracy=98 + extra,
               speedup=1.0 + point.sparsity / 100 + extra / 10 + 0.01 * point.seed)  # fmt: skip
    found = best_by_technique(read([sweep]))
    assert [best.study for best in found] == ["cnn on digits, batch 32", "cnn on digits, batch 256"]
    for best, batch in zip(found, (32, 256), strict=True):
        rows = result_table(sweep)
        rows = rows[(rows["batch_size"] == batch) & (rows["criterion"] == "l2") & (rows["sparsity"] == 50)]
        assert len(rows) == 3
        for column in ("accuracy", "speedup", "control_accuracy"):
            assert best.mean(column) == pytest.approx(rows[column].mean())
        assert best.mean("control_accuracy") == pytest.approx(96.25 - 3 * (batch == 32))
        assert best.change is not None and best.change.mean == pytest.approx(-0.501)
        assert best.interval == mean_interval(rows["accuracy"].to_numpy(float))
    html = page_of(tmp_path / "report.html", sweep)
    assert re.findall(r'<td class="number">(~?[+-][\d.]+)</td>\s*<td class="number">([\d.]+)</td>', html) == [
        ("-0.50", "93.25"), ("-0.50", "96.25")
    ]  # fmt: skip


def test_a_base_in_8_bits_has_a_row_of_its_own_and_a_tie_is_marked(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,20", also="int8")
    dense = {"accuracy": 97.9, "validation_accuracy": 97.9, "collapsed": False, "file_bytes": 5000, "speedup": 9.0}
    dense |= {"latency_ms_median": 0.1, "speedup_noise": 0.01}
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(sweep, point, **{f"base_int8_{name}": value for name, value in dense.items()})
    (source,) = read([sweep])
    assert [best.row["variant"] for best in source.best if not isinstance(best, str)] == ["int8 alone"]
    base, best = best_by_technique([source])
    assert (base.technique, base.removed, base.mean("accuracy")) == ("base", "nothing removed, int8", 97.9)
    assert best.choice is not None and best.choice.row["variant"] == "float32"
    html = page_of(tmp_path / "report.html", sweep)
    assert "~1.00\u00d7</td>" in html
    assert re.findall(r'<tr><th scope="row">(\w+)</th>', html) == ["base", "weight"]
    for point in Sweep.read(sweep / store.SPEC).points:
        finish(
            sweep, point, **{f"base_int8_{name}": value for name, value in (dense | {"validation_accuracy": 5}).items()}
        )
    assert best_by_technique(read([sweep]))[0].choice is None


def test_rows_side_by_side_are_in_order_and_name_controls_only(tmp_path: Path) -> None:
    settings = {"technique": "weight,structured", "sparsity": "50,0"}
    one = hand_made(tmp_path, "one", **settings)
    two = hand_made(tmp_path, "two", **settings, control="none,random")
    found = comparison(pd.concat([source.table for source in read([two, one])], ignore_index=True))
    assert found is not None
    assert [row[0] for row in found.rows] == ["weight 0 %", "weight 50 %", "structured 0 %", "structured 50 %"]


def test_sweeps_models_and_data_stand_side_by_side_with_their_differences(tmp_path: Path) -> None:
    one = hand_made(tmp_path, "one", technique="structured", sparsity="0,50")
    two = hand_made(tmp_path, "two", technique="structured", sparsity="50", criterion="l2")
    point = Sweep.read(two / store.SPEC).points[0]
    finish(two, point, accuracy=98.0, speedup=2.8)
    found = comparison(pd.concat([source.table for source in read([one, two])], ignore_index=True))
    assert found is not None
    assert found.studies == ["one", "two"]
    assert found.rows == [("structured 50 %", [96.5, 98.0], [1.4, 2.8])]
    html = page_of(tmp_path / "report.html", one, two)
    assert "+1.50" in html and "2.00</td>" in html
    assert comparison(read([one])[0].table) is None
    models = hand_made(tmp_path, "models", model="slp,cnn", technique="weight", sparsity="50")
    several = comparison(read([models])[0].table)
    assert several is not None and several.studies == ["cnn", "slp"]


def test_a_cleaned_model_is_not_linked(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    clean(leftovers(sweep, []))
    assert document(page_of(tmp_path / "report.html", sweep))["links"] == [None, None]


# ---- the page in a browser


@pytest.fixture(scope="module")
def shown(opened: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Opens the page at a width, in a colour scheme, and gives the browser."""
    runs = tmp_path_factory.mktemp("runs")
    sweep = hand_made(
        runs, "study", model="slp,cnn", technique="weight,structured,unstructured", sparsity="0:100:10", seeds=3
    )
    other = hand_made(runs, "other", model="cnn", technique="weight", sparsity="0,50", latency_seconds=2.0)
    write_text(other / store.SPEC, (other / store.SPEC).read_text() + f"# {HOSTILE}\n")
    store.write_error(make_folder(other / "failed"), f"failed: {HOSTILE}", "")
    page = runs / "report.html"
    write(read([sweep, other]), page)

    def show(width: int = 1280, scheme: str = "light") -> Any:
        return opened(page, width, scheme)

    return show


def points_of(browser: Any, chart: str) -> int:
    """Points of the visible curves of a chart; the lines that belong to no curve do not count."""
    found: int = browser.execute_script(
        f"return document.getElementById('chart-{chart}')._fullData"
        ".filter(t => t.visible && t.meta.series && t.fill !== 'toself').reduce((sum, t) => sum + t.x.length, 0)"
    )
    return found


def choose_option(browser: Any, select: str, index: int) -> None:
    browser.execute_script(
        f"const s = document.getElementById('{select}'); s.value = {index}; s.dispatchEvent(new Event('change'))"
    )


def press(browser: Any, element: Any, key: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.execute_script("arguments[0].focus()", element)
    browser.switch_to.active_element.send_keys(getattr(Keys, key))


def test_tools_are_no_tab_stops_and_text_on_the_map_can_be_read(shown: Any) -> None:
    browser = shown()
    assert browser.execute_script("return document.querySelectorAll('.modebar-btn').length") > 30
    assert browser.execute_script("return document.querySelectorAll('.modebar-btn:not([tabindex=\"-1\"])').length") == 0
    for _, colour in charts.SCALE:
        assert contrast(str(colour), charts.ON_SCALE) >= 4.5


def contrast(one: str, other: str) -> float:
    """As WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_links_of_the_table_lead_to_the_models(shown: Any) -> None:
    browser = shown()
    links = browser.execute_script("return [...document.querySelectorAll('#table a')].map(a => a.href)")
    assert len(links) == 50
    assert all(Path(unquote(urlparse(link).path)).is_file() for link in links)


def test_what_files_hold_is_text_and_never_code(shown: Any) -> None:
    browser = shown()
    assert HOSTILE in browser.execute_script("return document.body.textContent")
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.images.length") == 0


def test_figures_say_in_words_and_as_a_table_what_they_show(shown: Any) -> None:
    browser = shown()
    labels = browser.execute_script("return [...document.querySelectorAll('.chart')].map(c => c.ariaLabel)")
    assert len(labels) == 6 and all(labels)
    assert labels[0].startswith("Accuracy and sparsity, test accuracy (%) against removed (%). weight")
    details = browser.find_element("css selector", "figure .as-table")
    browser.execute_script("arguments[0].open = true", details)
    rows = browser.execute_async_script(
        "const done = arguments[1], t = arguments[0];"
        "setTimeout(() => done([...t.querySelectorAll('tbody tr')].map(r => r.cells[0].textContent)), 100)",
        details,
    )
    assert sum("collapsed" in name for name in rows) == 3
    assert len([name for name in rows if "collapsed" not in name and "base" not in name]) >= 3 * 10 + 2


def test_every_point_is_in_the_figures_and_collapsed_ones_only_in_the_first(shown: Any) -> None:
    browser = shown()
    # cnn: three techniques of 11 sparsities and 3 seeds, and two points of the other sweep; first their means, then all
    assert points_of(browser, "sparsity") == 3 * 11 + 2
    assert points_of(browser, "macs") == points_of(browser, "latency") == 3 * 10 * 3 + 2
    assert points_of(browser, "speedup") == 3 * 10 * 3 + 2
    bands = browser.execute_script(
        "return document.getElementById('chart-sparsity')._fullData"
        ".filter(t => t.fill === 'toself').map(t => t.x.length)"
    )
    assert bands == [20, 20, 20]  # up and down, without the collapsed ones
    crosses = browser.execute_script(
        "const chart = document.getElementById('chart-sparsity');"
        "return chart._fullData.filter(t => t.visible && t.meta.actual)"
        ".map(t => [t.x[0], t.y[0] === chart._fullLayout.yaxis.range[0]])"
    )
    assert crosses == [[100, True]] * 3
    choose_option(browser, "study", 1)  # slp
    assert points_of(browser, "sparsity") == 3 * 11
    assert points_of(browser, "macs") == 3 * 10 * 3
    choose_option(browser, "study", 0)
    assert points_of(browser, "sparsity") == 3 * 11 + 2


def test_curves_are_switched_by_keyboard_in_all_figures(shown: Any) -> None:
    browser = shown()
    for techniques in (2, 3):
        press(browser, browser.find_element("css selector", "#series input"), "SPACE")
        assert points_of(browser, "sparsity") == techniques * 11 + 2
        assert points_of(browser, "latency") == techniques * 10 * 3 + 2


def test_accuracies_before_fine_tuning_are_shown_on_demand_and_in_full(shown: Any) -> None:
    browser = shown()

    def lowest() -> float:
        return float(
            browser.execute_script("return document.getElementById('chart-sparsity')._fullLayout.yaxis.range[0]")
        )

    curves, closely = points_of(browser, "sparsity"), lowest()
    press(browser, browser.find_element("id", "before"), "SPACE")
    assert points_of(browser, "sparsity") == 2 * curves
    assert lowest() < 10 < closely
    press(browser, browser.find_element("id", "before"), "SPACE")
    assert points_of(browser, "sparsity") == curves
    assert lowest() == closely


def test_the_inside_of_every_curve_can_be_seen(shown: Any) -> None:
    browser = shown()
    choose_option(browser, "study", 1)  # slp
    for index in range(3):
        choose_option(browser, "detail", index)
        layers, curves = browser.execute_script(
            "return ['layers', 'training'].map(name => document.getElementById(`chart-${name}`).data.map(t => t.y))"
        )
        assert layers == [["conv1", "&lt;b&gt;fc&lt;/b&gt;"]]
        assert [len(curve) for curve in curves] == [3] * 3 + [3 * (2 + 1)] * 11 + [1]  # bases, points, key of colours
    choose_option(browser, "study", 0)


def test_the_table_sorts_filters_and_turns_pages(shown: Any) -> None:
    browser = shown()
    total = 2 * 3 * 11 * 3 + 2

    def column(name: str) -> list[str]:
        found: list[str] = browser.execute_script(
            "const table = document.getElementById('table');"
            f"const at = [...table.tHead.rows[0].cells].findIndex(c => c.querySelector('button')?.title === '{name}');"
            "return [...table.tBodies[0].rows].map(row => row.cells[at].textContent)"
        )
        return found

    def typed(text: str) -> str:
        browser.execute_script(
            "const f = document.getElementById('filter'); f.value = arguments[0]; f.dispatchEvent(new Event('input'))",
            text,
        )
        return str(browser.find_element("id", "count").text)

    assert browser.find_element("id", "count").text == f"{total} of {total} points"
    assert len(column("accuracy")) == 50
    heading = browser.find_element("css selector", "#table button[title=accuracy]")
    press(browser, heading, "ENTER")
    ascending = [float(text) for text in column("accuracy")]
    assert ascending == sorted(ascending)
    press(browser, heading, "ENTER")
    descending = [float(text) for text in column("accuracy")]
    assert descending == sorted(descending, reverse=True)
    assert descending[0] > ascending[0]
    assert browser.find_element("css selector", "th[aria-sort=descending] button").get_attribute("title") == "accuracy"
    press(browser, browser.find_element("id", "next"), "ENTER")
    assert browser.find_element("id", "page").text == "page 2 of 4"
    assert typed("cnn unstructured sparsity>=80 seed=1") == f"3 of {total} points"
    assert set(column("technique")) == {"unstructured"}
    assert browser.find_element("id", "page").text == "page 1 of 1"
    assert typed("nothing-like-that") == f"0 of {total} points"
    problem = browser.find_element("id", "problem")
    assert problem.text == ""
    assert typed("technique = unstructured, asked % >= 80 seed=1 model=cnn") == f"3 of {total} points"
    assert typed("technique!=weight speedup > 2") != f"{total} of {total} points"
    assert all(float(text) > 2 for text in column("speedup"))
    assert problem.text == ""
    typed("foo > 3")
    assert problem.text == 'no column "foo"'
    typed("technique > 3")
    assert problem.text == "technique holds words: use = or !="
    typed("speedup > fast")
    assert problem.text == 'speedup holds numbers, "fast" is none'
    typed("")


@WINDOWS
def test_the_page_fits_its_window_and_its_colours_the_scheme(shown: Any, width: int, scheme: str) -> None:
    browser = shown(width, scheme)
    assert len(charts_that_fit(browser, width, scheme)) == 6


def test_results_come_first_and_what_is_the_same_for_all_is_said_once(shown: Any) -> None:
    browser = shown(390, "dark")
    browser.find_element("id", "filter").send_keys("unstructured")  # the widest rows
    wide, visible = browser.execute_script(
        "const box = document.getElementById('table').parentElement.getBoundingClientRect();"
        "const cells = [...document.getElementById('table').tHead.rows[0].cells];"
        "const fits = cell => cell.getBoundingClientRect().right <= box.right + 1;"
        "return [box.right, cells.filter(fits).map(cell => cell.textContent)]"
    )
    assert wide <= 390
    assert visible == ["technique", "asked %", "accuracy %", "speedup"]
    headings = browser.execute_script(
        "return [...document.getElementById('table').tHead.rows[0].cells].map(c => c.textContent)"
    )
    assert "schedule" not in headings and "model" in headings
    assert "schedule one-shot" in browser.find_element("id", "constants").text
    sticky = browser.execute_script(
        "const row = document.getElementById('table').tBodies[0].rows[0];"
        "const box = document.getElementById('table').parentElement; box.scrollLeft = 300;"
        "return [0, 1].map(i => row.cells[i].getBoundingClientRect().left - box.getBoundingClientRect().left)"
    )
    assert sticky[0] == 0 and 90 < sticky[1] < 110


def test_a_swipe_over_a_figure_scrolls_on_a_phone(shown: Any) -> None:
    browser = shown(390, "dark")
    try:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        browser.refresh()
        modes = browser.execute_script(
            "return [...document.querySelectorAll('.chart')].map(c => c._fullLayout.dragmode)"
        )
        assert modes == [False] * 6
        assert browser.execute_script("return document.querySelectorAll('.modebar-btn').length") == 0
        touch = browser.execute_script(
            "return getComputedStyle(document.querySelector('.chart .nsewdrag')).touchAction"
        )
        assert touch == "pan-x pan-y"
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
