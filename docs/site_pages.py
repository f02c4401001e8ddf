"""A hook of mkdocs: pages of the site that live elsewhere in the project, and the API reference of ``lib/core``.

Links in the files are those that work in the project's folder, such as ``docs/slicer.md`` in the README. The hook turns
them into links of the site. A link to a file that isn't on the site stays unchanged, and ``mkdocs build --strict``
refuses it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]
CORE = "apps/sparse_unet3d/lib/core"

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/README.md": "experiments.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Where pages outside ``docs/`` appear on the site."""

PICTURES = ("benchmarks/*.png", "experiments/results/**/*.png")
"""Pictures that these pages show."""

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")
"""The path in a Markdown link or picture, without its anchor."""


def _elsewhere() -> dict[str, str]:
    """Map files outside ``docs/``, by their path in the project, to their path on the site."""
    pictures = (path.relative_to(PROJECT).as_posix() for pattern in PICTURES for path in PROJECT.glob(pattern))
    return PAGES | {path: f"images/{path}" for path in pictures}


def _packages() -> list[str]:
    """Return the parts of ``lib/core`` that have a page: its packages, then its modules."""
    paths = sorted((PROJECT / CORE).iterdir(), key=lambda path: (path.is_file(), path.name))
    return [path.stem for path in paths if path.is_dir() or path.suffix == ".py" if not path.stem.startswith("__")]


def _modules() -> dict[str, str]:
    """Map the modules of ``lib/core``, by their path in the project, to the page of the API that describes them."""
    paths = [(path, path.relative_to(PROJECT / CORE)) for path in (PROJECT / CORE).rglob("*.py")]
    return {
        path.relative_to(PROJECT).as_posix(): f"api/{inside.with_suffix('').parts[0]}.md"
        for path, inside in paths
        if not inside.name.startswith("__")
    }


def translate_links(markdown: str, source: str, site_paths: dict[str, str]) -> str:
    """Turn links between files of the project into links between pages of the site.

    Args:
        markdown: the text of a page.
        source: path of its file in the project.
        site_paths: path on the site of each file, by its path in the project.
    """
    page = site_paths[source]

    def translate(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if target not in site_paths:
            return match[1]
        return posixpath.relpath(site_paths[target], posixpath.dirname(page))

    return _LINK.sub(translate, markdown)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the API reference to the navigation."""
    pages: list[Any] = [{name: f"api/{name}.md"} for name in _packages()]
    config.nav = [*(config.nav or []), {"API": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside ``docs/`` and those of the API."""
    for path, site_path in _elsewhere().items():
        files.append(File.generated(config, site_path, abs_src_path=str(PROJECT / path)))
    for name in _packages():
        files.append(File.generated(config, f"api/{name}.md", content=f"::: lib.core.{name}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Translate the links of a page."""
    elsewhere = _elsewhere()
    site_paths = {f"docs/{file.src_uri}": file.src_uri for file in files} | elsewhere | _modules()
    sources = {site_path: path for path, site_path in elsewhere.items()}
    return translate_links(markdown, sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"), site_paths)
