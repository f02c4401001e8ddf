"""The pages name options and commands that exist, and their links are translated for the site."""

import importlib.util
import re
from types import ModuleType

import pytest
import yaml

from lib.core.training.options import TrainingOptions
from lib.server.conf import KEYS, Conf
from lib.server.tasks.trainer import Trainer
from project import APP, PROJECT


def section(page: str, heading: str) -> str:
    """The text of a section of a page in docs/."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def first_table(text: str) -> list[str]:
    """The first words of the texts in backticks in the first column of a text's first table."""
    rows = re.search(r"^\|.*?(?=\n\n|\Z)", text, re.DOTALL | re.MULTILINE)[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`([\w-]+)[^`]*`", row.split("|")[1])]


def test_every_server_option_is_explained():
    assert sorted(first_table(section("options.md", "Server options"))) == sorted(KEYS)


def test_every_training_option_is_explained(tmp_path):
    config = Trainer(Conf.parse({}, str(tmp_path))).config()
    assert first_table(section("options.md", "Training options")) == list(config)
    assert f"| {TrainingOptions().max_epochs} |" in section("options.md", "Training options")


def test_make_targets_exist():
    targets = set(re.search(r"^\.PHONY: (.*)", (PROJECT / "Makefile").read_text(), re.MULTILINE)[1].split())
    for page in ("README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in ("commands", "install", "slicer"))):
        named = set(re.findall(r"(?:`|^)make ([\w-]+)", (PROJECT / page).read_text(encoding="utf-8"), re.MULTILINE))
        assert named, page
        assert named <= targets, page


def test_versions_agree():
    versions = {
        re.search(pattern, (PROJECT / file).read_text(encoding="utf-8"), re.MULTILINE)[1]
        for file, pattern in (
            ("pyproject.toml", r'^version = "(.*)"'),
            ("CITATION.cff", r"^version: (.*)"),
            ("apps/sparse_unet3d/lib/server/dicomweb/segmentations.py", r'^SOFTWARE_VERSION = "(.*)"'),
            ("apps/sparse_unet3d/lib/core/software.py", r'^VERSION = "(.*)"'),
            ("apps/sparse_unet3d/main.py", r'version="(.*)"'),
            ("CHANGELOG.md", r"^Version (\S+) in development|^## \[\d"),
        )
    }
    assert len(versions) == 1


def test_the_citation_is_of_the_paper():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,) = citation["references"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Çiçek", "Abdulkadir", "Lienkamp", "Brox", "Ronneberger"]
    assert paper["doi"] in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_names_in_the_architecture_exist():
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = re.findall(r"((?:`[\w.]+`(?:, | and ))*`[\w.]+`)\s+in\s+`([\w/]+\.py)`", page)
    assert len(found) > 20
    missing = []
    for names, file in found:
        path = APP / "lib" / file
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        for name in re.findall(r"[\w.]+", names.replace(" and ", " ")):
            defined = [rf"^\s*(?:(?:class|def) {part}\b|{part}(?:: .*)? = )" for part in name.split(".")]
            if not all(re.search(pattern, source, re.MULTILINE) for pattern in defined):
                missing.append(f"{name} in {file}")
    assert not missing, f"docs/architecture.md names what isn't there: {missing}"


def test_paths_in_the_architecture_exist():
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in re.findall(r"`(lib/[\w/.]+)`", page):
        assert (APP / path).exists(), path


@pytest.fixture
def site_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", PROJECT / "docs" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "link", "translated"),
    [
        ("README.md", "[a](docs/slicer.md#5-submit)", "[a](slicer.md#5-submit)"),
        ("README.md", "![a](docs/images/loop.png)", "![a](images/loop.png)"),
        ("docs/slicer.md", "[a](../experiments/README.md)", "[a](experiments.md)"),
        ("experiments/README.md", "![a](results/x.png)", "![a](images/x.png)"),
        ("docs/slicer.md", "[a](#5-submit)", "[a](#5-submit)"),
        ("docs/slicer.md", "[a](https://example.org/b.md)", "[a](https://example.org/b.md)"),
        ("README.md", "[a](nowhere.md)", "[a](nowhere.md)"),
    ],
)
def test_links_are_translated(site_pages, source, link, translated):
    site_paths = {
        "README.md": "index.md",
        "docs/slicer.md": "slicer.md",
        "docs/images/loop.png": "images/loop.png",
        "experiments/README.md": "experiments.md",
        "experiments/results/x.png": "images/x.png",
    }
    assert site_pages.translate_links(f"See {link}.", source, site_paths) == f"See {translated}."
