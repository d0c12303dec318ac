"""Shows that the suite notices when the package stops telling the truth.

Each mutation is one line of the package made wrong. It is applied to a copy of the tree, where the tests that guard
the line are run: all of them must fail. `python tests/mutations.py` tries all, `... parity seed` those whose names
have one of these words in them. pytest does not collect this file.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
COPIED = ("onnxprune", "tests", "docs", "pyproject.toml")
SECONDS = 600  # for the tests of one mutation, on a busy machine
# imported once, before the processes of the tests are forked
PRELOADED = "nni.compression.speedup onnx_tool onnxruntime pandas pyarrow.parquet sklearn.model_selection torch._dynamo"

MEASURE = "tests/bridge/test_measure.py"
ROW = "tests/study/test_point.py"
LOOP = "tests/training/test_loop.py"
SETUP = "tests/training/test_setup.py"
TIMING = "tests/runtime/test_timing.py"
PRUNING = "tests/pruning/test_pruning.py"
STORE = "tests/results/test_store.py"
SCORES = "tests/analysis/test_evaluation.py"
COUNTING = "tests/graph/test_counting.py"
DATASET = "tests/data/test_dataset.py"
FOLDER = "tests/data/test_folder.py"
WIDTHS = "tests/common/test_widths.py"


@dataclass(frozen=True)
class Mutation:
    """A line made wrong.

    Attributes:
        file: within the package.
        old: what is replaced, once in the file.
        tests: what must fail then; without its parameters, a test fails where one of them does.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = [
    Mutation(*row[:-1], tests=tuple(row[-1].split()))
    for row in [
        # splits
        (
            "splits: validation accuracy of a file on the test split",
            "study/point.py",
            "judged(run.model_path, dataset.validation,",
            "judged(run.model_path, dataset.test,",
            f"{ROW}::test_scores_are_those_of_the_files_on_their_splits",
        ),
        (
            "splits: accuracy of a network on the test split",
            "bridge/measure.py",
            "split = dataset.validation",
            "split = dataset.test",
            f"{MEASURE}::test_decisions_look_at_the_validation_split",
        ),
        (
            "splits: only the first 1,000 test images",
            "bridge/measure.py",
            "_by_labels(logits, dataset.test.labels)",
            "_by_labels(logits[:1_000], dataset.test.labels[:1_000])",
            f"{MEASURE}::test_scores_are_of_all_test_images",
        ),
        (
            "splits: trained on the test split",
            "training/setup.py",
            "return Batches(dataset.train,",
            "return Batches(dataset.test,",
            f"{SETUP}::test_training_images_are_those_of_the_training_split",
        ),
        (
            "splits: trained on validation images too",
            "data/dataset.py",
            "np.sort(shuffled[held_out:])",
            "np.sort(shuffled)",
            f"{DATASET}::test_the_splits_share_no_image_and_lose_none",
        ),
        (
            "splits: another validation split every time",
            "data/dataset.py",
            "shuffled = np.random.default_rng(0).permutation",
            "shuffled = np.random.default_rng().permutation",
            f"{DATASET}::test_validation_is_the_same_every_time_and_not_the_files_end",
        ),
        (
            "splits: normalised by the test images",
            "data/dataset.py",
            '_statistics(splits["train"].images, name)',
            '_statistics(splits["test"].images, name)',
            f"{DATASET}::test_mean_and_std_are_of_the_training_images_used",
        ),
        (
            "splits: pictures are split by the names of their files",
            "data/collection.py",
            "SPLITS[int(self.digest[:16], 16) <",
            "SPLITS[int(hashlib.sha256(self.picture.name.encode()).hexdigest()[:16], 16) <",
            f"{FOLDER}::test_names_dates_and_places_of_the_files_have_no_say "
            f"{FOLDER}::test_a_fifth_is_the_test_set_by_the_content_of_the_files",
        ),
        (
            "ids: what classes are called has no say",
            "data/dataset.py",
            "_checksum(splits, None if given is None else given.classes)",
            "_checksum(splits, None)",
            f"{FOLDER}::test_pixels_are_decoded_once",
        ),
        (
            "data: pictures that changed after they were hashed",
            "data/collection.py",
            "if hashlib.sha256(content).hexdigest() != each.digest:",
            "if False:",
            f"{FOLDER}::test_what_was_hashed_is_what_is_trained_on",
        ),
        (
            "data: the cache knows pictures by their labels alone",
            "data/collection.py",
            "pictures = [(each.digest, each.picture.label, each.split) for each in known]",
            "pictures = [(each.picture.label, each.split) for each in known]",
            f"{FOLDER}::test_a_changed_folder_is_read_anew",
        ),
        (
            "splits: search decides by test accuracy",
            "study/search.py",
            'name = f"validation_{quality_of(rows[0]).name}"',
            "name = quality_of(rows[0]).name",
            "tests/study/test_search.py::test_the_test_accuracy_has_no_say",
        ),
        # seeds
        (
            "seed: not in the request of a point",
            "pruning/request.py",
            '"seed": point.seed',
            '"seed": 0',
            f"{ROW}::test_the_seed_decides_what_chance_removes",
        ),
        (
            "fine-tuning: a short one at the rate of the base",
            "training/setup.py",
            "learning_rate=share * how.learning_rate",
            "learning_rate=how.learning_rate",
            f"{SETUP}::test_a_short_fine_tuning_takes_a_share_of_its_rate",
        ),
        (
            "fine-tuning: its harm is not said",
            "results/training_remarks.py",
            " or gain < -max(MOST_APART, interval)",
            "",
            "tests/results/test_training_remarks.py::test_when_the_control_is_not_as_good_as_the_base",
        ),
        (
            "several processes: BatchNorm moves by the micro-batches of one",
            "training/parallel.py",
            "1 - (1 - norm.momentum) ** self.size",
            "norm.momentum",
            "tests/training/test_parallel.py::test_statistics_of_batch_norm_move_by_every_micro_batch_of_all_processes",
        ),
        (
            "seed: not in the recipe of training",
            "training/setup.py",
            "seed=point.seed,",
            "seed=0,",
            f"{SETUP}::test_the_recipe_is_what_the_settings_say {ROW}::test_the_seed_decides_the_base",
        ),
        (
            "seed: not in the first weights",
            "bridge/start.py",
            "point.seed, point.model_options",
            "0, point.model_options",
            f"{SETUP}::test_the_network_is_that_of_the_seed",
        ),
        (
            "seed: not in the order of the images",
            "training/loop.py",
            "seeded_generator(recipe.seed,",
            "seeded_generator(0,",
            f"{LOOP}::test_the_same_seed_gives_the_same_weights_bit_for_bit",
        ),
        (
            "seed: not in random criteria",
            "pruning/criteria/chance.py",
            "seeded_generator(candidates.request.seed,",
            "seeded_generator(0,",
            f"{PRUNING}::test_random_is_decided_by_the_seed",
        ),
        (
            "seed: not in the images that criteria look at",
            "pruning/calibration.py",
            "seeded_generator(seed,",
            "seeded_generator(0,",
            f"{PRUNING}::test_taylor_repeats_by_seed_and_looks_at_other_images_by_another",
        ),
        # parity
        (
            "fidelity: a file against itself",
            "bridge/measure.py",
            "first = open_session(original,",
            "first = open_session(path,",
            "tests/study/test_without_labels.py::test_fidelity_is_what_the_answers_say",
        ),
        (
            "fidelity: the largest output alone",
            "reduction/fidelity.py",
            "shares = [gap / self._sizes[name]",
            "shares = [sum(self._gaps.values()) / sum(self._sizes.values())] if 1 else [gap / self._sizes[name]",
            "tests/reduction/test_fidelity.py::test_each_output_counts_the_same "
            "tests/study/test_without_labels.py::test_fidelity_is_what_the_answers_say",
        ),
        (
            "recurrent layers: states of the wrong step",
            "reduction/recurrent.py",
            "states[1:, direction] if backwards else states[:-1, direction]",
            "states[:-1, direction] if backwards else states[1:, direction]",
            "tests/reduction/test_recurrent.py::test_a_twin_takes_the_part_of_the_lost_one",
        ),
        (
            "frozen: the reason of another node",
            "graph/follower.py",
            "where = label_of(self._nodes[self.node]) if self.node >= 0",
            "where = label_of(self._nodes[0]) if self.node >= 0",
            "tests/graph/test_channels.py::test_what_is_frozen_is_told_with_the_reason_and_the_node",
        ),
        (
            "frozen: what follows from a reason in its place",
            "graph/follower.py",
            "key=lambda item: item[1].reason in (_MEET, _SHARE)",
            "key=lambda item: item[1].reason not in (_MEET, _SHARE)",
            "tests/graph/test_channels.py::test_the_reason_is_told_before_what_follows_from_it",
        ),
        (
            "splits: some of them are the first",
            "data/dataset.py",
            "kept = np.sort(np.random.default_rng(0).permutation(len(self))[:count])",
            "kept = np.arange(count)",
            f"{DATASET}::test_some_of_a_split_are_of_all_its_classes_in_their_order_and_always_the_same "
            "tests/bridge/test_convention.py::test_the_usual_ones_are_tried_on_images_of_all_classes",
        ),
        (
            "claims: not corrected for their number",
            "results/statistics.py",
            "found[place].p_value * (len(found) - done) < SIGNIFICANT",
            "found[place].p_value < SIGNIFICANT",
            "tests/results/test_statistics.py::test_among_equally_good_ways_a_winner_is_rarely_found "
            "tests/results/test_statistics.py::test_many_comparisons_are_corrected_by_holm",
        ),
        (
            "fronts: of the seeds that survived",
            "report/charts.py",
            "if not collapsed[positions].any()",
            "if not collapsed[positions].all()",
            "tests/report/test_page.py::test_configurations_some_of_whose_networks_collapsed_are_on_no_front",
        ),
        (
            "costs: remembered scores again and again",
            "pruning/decide.py",
            "    if not again:",
            "    if True:",
            "tests/study/test_cost.py::test_looks_at_validation_and_scores_that_are_remembered_are_counted_once",
        ),
        (
            "shared weights: cut for each use alone",
            "graph/follower.py",
            "in self._shared().items():",
            "in list(self._shared().items())[:0]:",
            "tests/graph/test_channels.py::test_weights_of_twins_stay_those_of_both "
            "tests/reduction/test_sharing.py::test_units_go_from_all_that_share_them_and_what_is_left_is_repaired",
        ),
        (
            "parity: not looked at",
            "bridge/measure.py",
            "difference = parity(network, answers, probe.take(torch.arange(len(answers)))[0])",
            "difference = 0.0",
            f"{MEASURE}::test_a_file_that_is_not_the_network_is_refused",
        ),
        (
            "parity: nothing is refused",
            "bridge/export.py",
            "if not difference <= allowed:",
            "if False:",
            f"{MEASURE}::test_a_file_that_is_not_the_network_is_refused "
            f"{MEASURE}::test_the_difference_between_network_and_file_is_the_largest_of_all",
        ),
        (
            "parity: the mean difference",
            "bridge/export.py",
            "difference = float(np.abs(reference - onnx_answers).max())",
            "difference = float(np.abs(reference - onnx_answers).mean())",
            f"{MEASURE}::test_the_difference_between_network_and_file_is_the_largest_of_all",
        ),
        # timing
        (
            "interleaving: a file after the other",
            "runtime/timing.py",
            "    times = interleave(",
            "    times = (lambda runs, *rest, **_: [interleave([run], *rest)[0] for run in runs])(",
            f"{TIMING}::test_base_and_other_are_timed_in_the_same_rounds",
        ),
        (
            "interleaving: always in one order",
            "runtime/timing.py",
            "return order[::-1] if round_number % 2 else order",
            "return list(range(count))",
            f"{TIMING}::test_three_sessions_run_in_all_six_orders_equally_often "
            f"{TIMING}::test_two_sessions_take_turns_at_going_first",
        ),
        (
            "interleaving: a point against itself",
            "study/latency.py",
            "        base / store.MODEL,\n        list(there",
            "        point / store.MODEL,\n        list(there",
            f"{ROW}::test_latency_is_of_base_and_point_in_one_measurement",
        ),
        (
            "interleaving: others work meanwhile",
            "study/point.py",
            "alone.enter_context(run.exclusive())",
            "pass",
            f"{ROW}::test_nothing_else_of_the_run_works_while_a_point_is_timed",
        ),
        (
            "timing: no warm-up",
            "runtime/timing.py",
            "for number in range(_WARMUP_RUNS):",
            "for number in range(0):",
            f"{TIMING}::test_each_round_runs_every_session_once",
        ),
        (
            "timing: the mean for the median",
            "runtime/timing.py",
            "median_ms=p50,",
            "median_ms=float(times_ms.mean()),",
            f"{TIMING}::test_a_few_slow_runs_do_not_move_the_median",
        ),
        (
            "timing: noise floor of nothing",
            "runtime/timing.py",
            "noise=twin_noise([pairs[0][0], pair[0]], [pairs[0][1], pair[1]]),",
            "noise=0.0,",
            f"{TIMING}::test_speedup_and_noise_by_hand",
        ),
        (
            "timing: speedup upside down",
            "runtime/timing.py",
            "speedup=base.median_ms / other.median_ms,",
            "speedup=other.median_ms / base.median_ms,",
            f"{TIMING}::test_speedup_and_noise_by_hand {TIMING}::test_a_far_smaller_file_is_faster",
        ),
        (
            "row: speedup_noise",
            "study/latency.py",
            "timed.speedup, timed.noise)",
            "timed.speedup, 0.0)",
            f"{ROW}::test_latency_is_of_base_and_point_in_one_measurement",
        ),
        (
            "row: latency of the base for the point's",
            "study/latency.py",
            "values = (timed.other.median_ms,",
            "values = (timed.base.median_ms,",
            f"{ROW}::test_latency_is_of_base_and_point_in_one_measurement",
        ),
        (
            "row: latency_batch",
            "study/latency.py",
            '        settings["latency_batch"],',
            "        1,",
            f"{ROW}::test_latency_is_of_base_and_point_in_one_measurement",
        ),
        (
            "row: latency_threads",
            "study/latency.py",
            'threads=settings["latency_threads"],',
            'threads=settings["threads"],',
            f"{ROW}::test_latency_is_of_base_and_point_in_one_measurement",
        ),
        (
            "row: base_accuracy_change with the wrong sign",
            "study/point.py",
            'final.test.percent - base.metrics[f"base_{quality.name}"]',
            'base.metrics[f"base_{quality.name}"] - final.test.percent',
            f"{ROW}::test_scores_are_those_of_the_files_on_their_splits",
        ),
        (
            "row: before fine-tuning is after it",
            "schedules/context.py",
            "network = copy.deepcopy(pruned.network)",
            "network = pruned.network",
            f"{ROW}::test_before_finetuning_is_the_base_pruned",
        ),
        (
            "row: collapsed is never told",
            "study/point.py",
            '"collapsed": final.test.collapsed,',
            '"collapsed": False,',
            f"{ROW}::test_everything_removed_is_flagged",
        ),
        # units
        (
            "units: milliseconds are seconds",
            "runtime/timing.py",
            "dtype=np.float64).T / 1e6)",
            "dtype=np.float64).T / 1e9)",
            f"{TIMING}::test_each_run_gets_its_own_times",
        ),
        (
            "units: seconds are milliseconds",
            "training/loop.py",
            "seconds=clock() - started,",
            "seconds=1_000 * (clock() - started),",
            f"{LOOP}::test_seconds_are_those_of_this_thread",
        ),
        (
            "units: percent is a fraction",
            "analysis/evaluation.py",
            "return 100 * float(correct.mean())",
            "return float(correct.mean())",
            f"{SCORES}::test_accuracies_by_hand {MEASURE}::test_scores_are_of_all_test_images",
        ),
        (
            "units: bytes are kilobytes",
            "bridge/measure.py",
            'file_bytes": self.counts.file_bytes,',
            'file_bytes": self.counts.file_bytes // 1_000,',
            f"{MEASURE}::test_costs_are_of_the_file {ROW}::test_counts_and_what_was_achieved_by_hand",
        ),
        (
            "units: FLOPs are MACs",
            "graph/counting.py",
            "flops=2 * macs,",
            "flops=macs,",
            f"{MEASURE}::test_costs_are_of_the_file {COUNTING}::test_a_perceptron",
        ),
        (
            "units: nats are bits",
            "analysis/evaluation.py",
            "np.log(np.exp(shifted).sum(axis=1))",
            "np.log2(np.exp(shifted).sum(axis=1))",
            f"{SCORES}::test_cross_entropy_is_the_mean_of_minus_log_probability",
        ),
        # scores and counts
        (
            "scores: top-5 is top-4",
            "analysis/evaluation.py",
            "_TOP = 5",
            "_TOP = 4",
            f"{SCORES}::test_accuracies_by_hand {MEASURE}::test_scores_are_of_all_test_images",
        ),
        (
            "scores: cross-entropy without the label",
            "analysis/evaluation.py",
            ".sum(axis=1)) - own).mean())",
            ".sum(axis=1))).mean())",
            f"{SCORES}::test_cross_entropy_is_the_mean_of_minus_log_probability",
        ),
        (
            "counts: a convolution without its kernel",
            "graph/macs.py",
            "prod(site.output()) * prod(site.input(weight)[1:])",
            "prod(site.output()) * site.input(weight)[1]",
            f"{COUNTING}::test_a_convolution_is_outputs_times_kernel_times_inputs_of_its_group",
        ),
        (
            "counts: params are tensors",
            "graph/walk.py",
            "return sum(map(self._size, self._parameters))",
            "return len(self._parameters)",
            f"{MEASURE}::test_costs_are_of_the_file {ROW}::test_counts_and_what_was_achieved_by_hand",
        ),
        (
            "counts: zeros are parameters that are not zero",
            "graph/walk.py",
            "return sum(self._nonzero_of(key) for key in self._parameters)",
            "return self.params",
            f"{MEASURE}::test_costs_are_of_the_file {ROW}::test_counts_and_what_was_achieved_by_hand",
        ),
        (
            "counts: effective MACs are MACs",
            "graph/walk.py",
            "return macs * self._nonzero_of(key) // self._arrays[key].size",
            "return macs",
            f"{MEASURE}::test_costs_are_of_the_file {COUNTING}::test_zeros_count_where_they_are_stored",
        ),
        (
            "training cost: forward only",
            "training/opcount.py",
            'self.forward_flops_per_image + sum(entry["flops"] for entry in self.backward.values())',
            "self.forward_flops_per_image",
            "tests/training/test_opcount.py::test_total_adds_forward_and_backward "
            f"{ROW}::test_training_is_counted_in_images_flops_and_seconds",
        ),
        (
            "training cost: of the last round only",
            "schedules/context.py",
            "self.cost = cost if self.cost is None else self.cost + cost",
            "self.cost = cost",
            "tests/schedules/test_schedules.py::test_training_of_all_rounds_is_counted",
        ),
        # masks
        (
            "masks: training brings weights back",
            "training/loop.py",
            "        self._held.apply()",
            "        pass",
            f"{LOOP}::test_masked_weights_are_zero_throughout_and_the_others_learn",
        ),
        (
            "masks: the largest weights go",
            "pruning/pruners.py",
            "lowest = scores.argsort(stable=True)",
            "lowest = scores.argsort(stable=True, descending=True)",
            f"{PRUNING}::test_unstructured_removes_the_smallest_of_all",
        ),
        (
            "masks: those on disk are not those of the network",
            "study/point.py",
            "masks = {name: mask.to(torch.bool)",
            "masks = {name: torch.ones_like(mask).to(torch.bool)",
            f"{ROW}::test_counts_and_what_was_achieved_by_hand",
        ),
        (
            "masks: achieved sparsity is what was asked for",
            "study/point.py",
            '"achieved_sparsity": 100 * removed / units,',
            '"achieved_sparsity": 60.0,',
            f"{ROW}::test_everything_removed_is_flagged {ROW}::test_counts_and_what_was_achieved_by_hand",
        ),
        (
            "masks: the classifier loses units",
            "pruning/layers.py",
            "_but_kept(list(units.outputs), ",
            "_but_kept(layers, ",
            f"{PRUNING}::test_the_classifier_is_pruned_by_weight_only",
        ),
        (
            "masks: widths are no multiple of the step",
            "common/widths.py",
            "            kept[place] = above[place]\n",
            "            kept[place] = above[place] - 1\n",
            f"{WIDTHS}::test_the_cnn_at_13_percentages_is_13_networks",
        ),
        (
            "masks: 0 % is not the base",
            "common/widths.py",
            "if layer.share > 0]",
            "if layer.share >= 0]",
            f"{WIDTHS}::test_layers_that_lose_nothing_keep_their_width_and_others_their_own_share",
        ),
        # what is on disk
        (
            "disk: checksums are not compared",
            "results/store.py",
            "if name not in _CHECKED or expected is None or digest(folder / name) != expected",
            "if name not in _CHECKED or expected is None",
            f"{STORE}::test_a_file_that_changed_is_told "
            f"{STORE}::test_what_is_done_is_not_done_again_unless_it_is_damaged",
        ),
        (
            "disk: files are written in place",
            "common/files.py",
            "    with replacing(path) as partial:\n        partial.write_text",
            "    with contextlib.nullcontext(path) as partial:\n        partial.write_text",
            f"{STORE}::test_a_file_takes_its_name_whole_or_not_at_all",
        ),
        (
            "forecast: workers do not share the points",
            "study/forecast.py",
            "for point in _made(points, missing)) / workers",
            "for point in _made(points, missing))",
            "tests/study/test_forecast.py::test_the_time_is_what_finished_ones_took_without_bases_that_are_there",
        ),
        (
            "choice: the slower one's standard error",
            "delivery/choice.py",
            'entry.mean["speedup"] + entry.error("speedup")',
            'entry.mean["speedup"]',
            "tests/delivery/test_deployment.py::test_a_tie_is_within_the_standard_errors_of_both_means",
        ),
        (
            "set: which drops find no room",
            "pruning/regrowth.py",
            "dropped[weight[dropped].abs().argsort(stable=True)]",
            "dropped",
            "tests/schedules/test_schedules.py::test_where_there_is_room_for_few_the_smallest_of_both_signs_are_dropped",
        ),
        (
            "disk: half-written files are left",
            "common/files.py",
            "partial.unlink(missing_ok=True)",
            "pass",
            f"{STORE}::test_a_file_takes_its_name_whole_or_not_at_all",
        ),
        (
            "ids: without the content of a file of weights",
            "settings/point.py",
            "    return [found]",
            "    return [str(weights)]",
            "tests/settings/test_spec.py::test_the_content_of_a_file_of_weights_is_part_of_the_identity",
        ),
        (
            "ids: without the checksum of the data",
            "settings/point.py",
            "content_hash([SCHEMA, checksum, told(self.settings()),",
            "content_hash([SCHEMA, told(self.settings()),",
            "tests/settings/test_spec.py::test_other_data_are_another_identity",
        ),
    ]
]


class _Recorder:
    """A plugin of pytest: the tests that ran, and those that failed, without their parameters."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: object) -> None:
        name = report.nodeid.partition("[")[0]  # type: ignore[attr-defined]
        self.ran.add(name)
        if report.failed:  # type: ignore[attr-defined]
            self.failed.add(name)


def _run_tests(tree: Path, tests: Sequence[str], answer: object) -> None:
    """Runs tests of a tree in this process, and sends those that failed; None where it could not run them."""
    import pytest

    log = (tree / "log.txt").open("w")
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    recorder = _Recorder()
    pytest.main(["-p", "no:cacheprovider", f"--rootdir={tree}", *tests], plugins=[recorder])
    package = sys.modules["onnxprune"].__file__ or ""
    whole = recorder.ran == set(tests) and Path(package).is_relative_to(tree)
    answer.send(recorder.failed if whole else None)  # type: ignore[attr-defined]


def _failures(mutation: Mutation | None, tests: Sequence[str]) -> set[str] | str:
    """The tests that fail with a mutation, or without any; or why that cannot be told."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder).resolve()
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tree / name)
        if mutation is not None:
            path = tree / "onnxprune" / mutation.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutation.old) != 1:
                return f"did not apply: its text is there {text.count(mutation.old)} times"
            path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=_run_tests, args=(tree, tests, there))
        process.start()
        failed = here.recv() if here.poll(SECONDS) else None
        process.kill()
        process.join()
        if failed is None:
            log = (tree / "log.txt").read_text(errors="replace").strip().splitlines()
            return f"did not run: {log[-1] if log else 'it took too long'}"
        return set(failed)


def _verdict(mutation: Mutation) -> str:
    failed = _failures(mutation, mutation.tests)
    if isinstance(failed, str):
        return failed
    missed = [test for test in mutation.tests if test not in failed]
    return f"SURVIVED {', '.join(missed)}" if missed else "caught"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of the names of those to try; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="how many to try at a time")
    options = parser.parse_args()
    chosen = [
        mutation for mutation in MUTATIONS if not options.words or any(word in mutation.name for word in options.words)
    ]
    if not chosen:
        parser.error("no mutation has such a name")
    for name in PRELOADED.split():
        __import__(name)
    failed = _failures(None, sorted({test for mutation in chosen for test in mutation.tests}))
    if failed:
        print(f"without any mutation: {failed}")  # noqa: T201
        return 2
    caught = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutation, verdict in zip(chosen, pool.map(_verdict, chosen), strict=True):
            caught += verdict == "caught"
            tests = ", ".join(test.rpartition("::")[2] for test in mutation.tests)
            print(f"{verdict:8}  {mutation.name}  [{tests}]", flush=True)  # noqa: T201
    print(f"{caught} of {len(chosen)} caught")  # noqa: T201
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
