"""Sphinx configuration of the documentation site: `make docs` builds it into build/docs.

The source directory is the root of the repository, so the same links work on the site and in the repository. Every
warning is an error. Nothing is fetched while building or viewing: the theme brings its own assets and uses the fonts of
the system.
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

import reference  # noqa: E402

from clockwork import __version__  # noqa: E402

project = "Clockwork"
author = "The Clockwork Authors"
project_copyright = author
release = version = __version__
root_doc = "docs/index"
include_patterns = ["docs/*.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
exclude_patterns = [".*", "build", "dist", "shared"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_include_init_with_doc = True

html_theme = "furo"
html_title = f"Clockwork {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": False}

REDIRECT = '<!doctype html><title>Clockwork</title><meta http-equiv="refresh" content="0; url=docs/index.html">\n'


def _fill_in(_app: Any, page: str, source: list[str]) -> None:
    """Replace the markers of generated sections in a page's source."""
    source[0] = reference.filled_in(page, source[0])


def _redirect(app: Any, error: Exception | None) -> None:
    """Make the root of the site lead to its first page."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(REDIRECT)


def setup(app: Any) -> None:
    """Connect the hooks."""
    app.connect("source-read", _fill_in)
    app.connect("build-finished", _redirect)
