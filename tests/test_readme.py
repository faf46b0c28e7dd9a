"""What the README shows runs, in the order in which it stands there; and both languages show the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_python_examples_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session: dict = {}
    for block in blocks(name, "python"):
        exec(compile(block, name, "exec"), session)
    assert session["run"].best.values["val/accuracy"] > 0.85
    assert "def train(make_model" in capsys.readouterr().out  # recipe.code()


def without_comments(block: str) -> list[str]:
    return [line for line in (re.sub(r"\s*#.*", "", line) for line in block.splitlines()) if line]


@pytest.mark.parametrize("language", ["python", "sh"])
def test_both_languages_show_the_same(language):
    english, chinese = ([without_comments(b) for b in blocks(f, language)] for f in ("README.md", "README.zh.md"))
    assert english == chinese


def test_the_first_two_commands_are_the_makefiles():
    assert without_comments(blocks("README.md", "sh")[0]) == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()
