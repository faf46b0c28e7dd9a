"""Pages made from the code say what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import surefoot as sf

DOCS = Path(__file__).parents[1] / "docs"


def page(name: str, *language: str) -> str:
    """What its script makes of a page."""
    spec = importlib.util.spec_from_file_location(f"make_{name}", DOCS / f"make_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page(*language)


@pytest.mark.parametrize("name", ["optimizers", "schedules"])
def test_pages_are_up_to_date(name):
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == page(name), f"run python docs/make_{name}.py"


def test_every_optimizer_has_its_picture():
    made = "run python docs/make_optimizers.py"
    assert {file.stem for file in (DOCS / "optimizers").glob("*.png")} == set(sf.optim.names()), made


@pytest.mark.parametrize(("file", "language"), [("troubles.md", "en"), ("troubles.zh.md", "zh")])
def test_the_troubles_are_up_to_date(file, language):
    made = page("troubles", language)
    assert (DOCS / file).read_text(encoding="utf-8") == made, "run python docs/make_troubles.py"
