"""Sphinx configuration. Pages are the notebooks themselves; nothing is run during the build."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import advisor  # noqa: E402

project = "LLM adaptation advisor"
version = release = advisor.__version__
root_doc = "index"
exclude_patterns = ["_ext", "recipes/.*", "**.ipynb_checkpoints"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "_ext.pages",
    "_ext.mermaid",
]

nb_execution_mode = "off"  # outputs are committed; `make test` runs every cell
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # the default loads a script from a CDN
nb_merge_streams = True
nb_code_prompt_show = "Show the source"
nb_code_prompt_hide = "Hide the source"
nb_render_markdown_format = "gfm"
suppress_warnings = ["mystnb.unknown_mime_type"]  # records for tests, beside their plain text
myst_enable_extensions = ["colon_fence", "deflist"]
myst_fence_as_directive = ["mermaid"]  # plain fences, which GitHub draws too
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # the expression, not its value on this machine
python_use_unqualified_type_names = True
add_module_names = False
default_role = "code"
highlight_language = "text"  # a fence without a language is not Python
smartquotes = False  # they turn --option into a dash

html_theme = "pydata_sphinx_theme"
html_title = "LLM adaptation advisor"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # it fetches pages, which a browser refuses on file://
html_domain_indices = False
html_use_index = False
html_sidebars = {"index": []}
html_context = {"default_mode": "auto"}  # the theme reports an empty mode as an error
html_theme_options = {
    "show_version_warning_banner": False,
    "navigation_with_keys": False,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
