"""`plot`: figures for papers."""

import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import called
from made_up import hand_made
from PIL import Image

from onnxprune.commands.plot import plot as command
from onnxprune.common.errors import InputError
from onnxprune.common.files import read_json, write_json, write_text
from onnxprune.report import figures
from onnxprune.report.figures import plot
from onnxprune.results import store
from onnxprune.results.tables import result_table
from onnxprune.settings.sweep import Sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_made(tmp_path_factory.mktemp("runs"), "study", technique="weight,structured", sparsity="0,50", seeds=2)


def words(svg: Path) -> set[str]:
    """Texts of the figure, which are texts in the file too."""
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text(encoding="utf-8")))


def axes_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: object, **how: object) -> Any:
    """The axes that a figure is drawn on."""
    kept: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, out: kept.append(figure))
    plot(*arguments, tmp_path / "figure.pdf", **how)  # type: ignore[arg-type]
    return kept[0].axes[0]


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines}


def test_a_pdf_embeds_its_fonts_and_is_the_width_of_a_column(sweep: Path, tmp_path: Path) -> None:
    plot([sweep], "sparsity", "accuracy", tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    found = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", content)
    assert found
    assert float(found[1]) == 3.5 * 72
    streams = b"".join(
        zlib.decompress(stream)
        for stream in re.findall(rb"/FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    )
    assert b"/FontFile2" in content + streams  # TrueType
    assert b"/Subtype /Type3" not in content + streams
    assert b"/Subtype /Image" not in content  # lines, no pixels


def test_a_figure_names_its_axes_with_units_and_its_techniques(sweep: Path, tmp_path: Path) -> None:
    plot([sweep], "effective_macs", "accuracy", tmp_path / "figure.svg")
    assert {"MACs without stored zeros", "accuracy (%)", "weight", "structured"} <= words(tmp_path / "figure.svg")


def test_several_seeds_have_a_band_and_a_single_one_has_none(sweep: Path, tmp_path: Path) -> None:
    single = hand_made(tmp_path, "single", technique="weight,structured", sparsity="0,50")
    for folder, bands in ((sweep, 2), (single, 0)):
        plot([folder], "sparsity", "accuracy", tmp_path / "figure.svg")
        assert len(re.findall(r'id="FillBetween', (tmp_path / "figure.svg").read_text(encoding="utf-8"))) == bands


def test_a_picture_has_the_resolution_of_print(sweep: Path, tmp_path: Path) -> None:
    plot([sweep], "sparsity", "speedup", tmp_path / "new" / "figure.PNG")
    with Image.open(tmp_path / "new" / "figure.PNG") as picture:
        assert picture.size == (1050, 780)


@pytest.mark.parametrize("suffix", ["pdf", "svg", "png"])
def test_the_same_sweep_gives_the_same_file(sweep: Path, tmp_path: Path, suffix: str) -> None:
    contents = []
    for name in ("a", "b"):
        plot([sweep], "sparsity", "accuracy", tmp_path / f"{name}.{suffix}")
        contents.append((tmp_path / f"{name}.{suffix}").read_bytes())
    assert contents[0] == contents[1]


def test_many_curves_are_named_below_the_axes(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "many", technique="weight,structured", sparsity="0,50", batch_size="32,64,128,256")
    plot([sweep], "sparsity", "accuracy", tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size[0] == 1050
        assert picture.size[1] > 780


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("acuracy", ": did you mean accuracy or "),
        ("technique", ""),
        ("collapsed", ""),
        ("nope", "; docs/columns.md has all columns"),
    ],
)
def test_a_column_that_is_no_number_is_refused_with_the_nearest_that_are(
    sweep: Path, tmp_path: Path, column: str, said: str
) -> None:
    with pytest.raises(InputError, match=rf"no numeric column '{column}'{said}") as refused:
        plot([sweep], "sparsity", column, tmp_path / "figure.pdf")
    assert len(str(refused.value)) < 120
    assert not list(tmp_path.iterdir())


def test_a_column_without_a_measurement_is_refused(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "untimed", technique="weight", sparsity="50")
    for path in sweep.glob("*/metrics.json"):
        found = read_json(path)
        found["metrics"]["speedup"] = None
        write_json(path, found)
    with pytest.raises(InputError, match="nothing in column 'speedup': it was not measured"):
        plot([sweep], "sparsity", "speedup", tmp_path / "figure.pdf")


def test_an_unknown_format_is_refused_with_the_known_ones(sweep: Path) -> None:
    done = called("plot", sweep, "--out", sweep / "figure.gif")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"Error: cannot tell the format of {sweep / 'figure.gif'}: expected a name that ends in .pdf, .png, .svg"
    ]


def test_a_sweep_without_points_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / store.SPEC, Sweep.parse({"name": "empty"}).to_toml())
    with pytest.raises(InputError, match="has no finished point yet"):
        plot([tmp_path], "sparsity", "accuracy", tmp_path / "figure.pdf")


def test_the_command_prints_the_file_it_wrote(sweep: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(sweep), "--y", "macs", "--out", str(tmp_path / "figure.svg")])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'figure.svg'}\n"
    assert (tmp_path / "figure.svg").is_file()


def test_curves_go_from_left_to_right_and_end_at_the_last_sound_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hand_made(tmp_path, "sound", technique="structured", sparsity="0,30,60,100")
    axes = axes_of(monkeypatch, tmp_path, [folder], "macs", "accuracy")
    across = list(lines(axes)["structured"].get_xdata())
    assert across == sorted(across) and len(across) == 3
    assert "collapsed" not in lines(axes)
    found = lines(axes_of(monkeypatch, tmp_path, [folder], "sparsity", "accuracy"))
    assert list(found["structured"].get_xdata()) == [0, 30, 60]
    assert list(found["collapsed"].get_xdata()) == [100]


def test_the_unpruned_network_and_the_control_are_lines(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lines(axes_of(monkeypatch, tmp_path, [sweep], "sparsity", "accuracy"))
    table = result_table(sweep)
    assert found["unpruned"].get_ydata()[0] == pytest.approx(98.5)  # the mean of two seeds
    control = table[table["sparsity"] == 0]["accuracy"].mean()
    assert found["0 % control"].get_ydata()[0] == pytest.approx(control)


def test_several_sweeps_conditions_logarithms_and_widths(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hand_made(tmp_path, "other", technique="weight,structured", sparsity="0,50", criterion="l2")
    how = {"where": ["technique = structured", "sparsity<60"], "log": (True, False), "width": 7.0}
    axes = axes_of(monkeypatch, tmp_path, [sweep, other], "macs", "accuracy", **how)
    assert {"structured, study, l1", "structured, other, l2"} <= set(lines(axes))
    assert not [name for name in lines(axes) if name.startswith("weight")]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert axes.figure.get_figwidth() == 7


def test_a_figure_has_a_name_of_its_own_by_default(sweep: Path) -> None:
    done = called("plot", sweep, "--x", "macs", "--log-x")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == sweep / "accuracy-over-macs.pdf"
    assert (sweep / "accuracy-over-macs.pdf").stat().st_size > 1000


@pytest.mark.parametrize("column", ["latency_ms_median", "latency_ms_p90"])
def test_latencies_of_different_moments_are_no_axis(tmp_path: Path, column: str) -> None:
    sweep = hand_made(tmp_path, "one", technique="weight", sparsity="0,50")
    with pytest.raises(InputError, match=r"measured at another moment in every row.*latency_ms_paired"):
        plot([sweep], "sparsity", column, tmp_path / "figure.pdf")
    plot([sweep], "sparsity", "latency_ms_paired", tmp_path / "figure.pdf")
