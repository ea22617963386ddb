"""How Sphinx makes the site: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[1]))

from classy_vision import __version__

project = "classy-vision-models"
version = release = __version__
copyright = "the authors of classy-vision-models, MIT licence"

extensions = [
    "myst_parser",  # the pages are Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docs._ext.pages",
]
exclude_patterns = ["_ext", "_static"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"  # prompts and outputs of shell sessions

# Plain text: types of other libraries, because there is no network to look their pages up, and
# those of ours that are not public.
nitpick_ignore_regex = [("py:.*", r"(?!classy_vision\.).*|classy_vision(\.registry|(\.\w+){2,3})\.\w+")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["table.js"]
html_favicon = "_static/icon.svg"
html_copy_source = html_show_sphinx = False
html_theme_options: dict[str, object] = {"footer_icons": []}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _keep_colons, priority=100)  # before napoleon


def _keep_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """A colon in a property's first line does not part its type from its description."""
    if what in ("property", "attribute", "data"):
        lines.insert(0, "")
