"""The page of all optimizers is what the registry says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import surefoot as sf

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_optimizers_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_optimizers", DOCS / "make_optimizers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = "run python docs/make_optimizers.py"
    assert (DOCS / "optimizers.md").read_text(encoding="utf-8") == module.page(), made
    assert {file.stem for file in (DOCS / "optimizers").glob("*.png")} == set(sf.optim.names()), made
