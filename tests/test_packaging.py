"""What a release consists of: its texts, their versions, and all files that its tests need."""

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from command_line import REPOSITORY

import onnxprune

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
HOME = PYPROJECT["project"]["urls"]["Repository"]


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_the_license_is_the_one_that_is_named() -> None:
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    license = text("LICENSE")
    assert "Apache License" in license and "Version 2.0, January 2004" in license
    assert "END OF TERMS AND CONDITIONS" in license


def test_version_changelog_and_citation_agree() -> None:
    blocks = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", text("CHANGELOG.md"), re.MULTILINE)
    assert blocks[0] == ("Unreleased", "")
    version, date = blocks[1]
    assert version == onnxprune.__version__
    assert f"version: {version}\ndate-released: {date}\n" in text("CITATION.cff")


def test_links_of_the_readme_hold_on_a_package_index_and_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)", text("README.md"))
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    own = [link for link in links if link.startswith(f"{HOME}/blob/main/")]
    assert own
    for link in own:
        assert (REPOSITORY / link.removeprefix(f"{HOME}/blob/main/")).exists(), link


def test_the_source_archive_has_every_file_of_the_repository(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    files = {line for line in listed.stdout.splitlines() if line != ".gitignore"}
    if not files:  # this is the archive already
        files = {f"tests/{Path(__file__).name}", "pyproject.toml"}
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    made = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert files - names == set()
    assert not [name for name in names if name.startswith("experiments/runs") or "__pycache__" in name]
