"""How Sphinx builds these pages; ``python3 dev.py docs`` runs it, with warnings as errors.

Nothing is fetched while it builds: there is no intersphinx, and the tutorials run on the embedded checkpoint. A browser fetches MathJax
from its usual address when a docstring's formula is shown.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
# The tutorials' kernels inherit these: they print no bars, and find the package of this checkout.
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))

import generate  # noqa: E402, as it is only now found

generate.write(HERE / "reference" / "generated")

project = "rankscope"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "pydata_sphinx_theme"
html_title = "rankscope"
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = False
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_output_stderr = "remove"
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_use_ivar = True
