"""The pages of the knowledge base, read from the TOML files beside this one when they are first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import tomli

from surefoot.errors import unknown

GROUPS = ("data", "head", "wiring", "init", "rate", "length", "system")
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Words:
    """A text in both languages.

    >>> Words("learning rate", "学习率")("zh")
    '学习率'
    """

    en: str
    zh: str

    def __call__(self, language: str = "en") -> str:
        if language not in LANGUAGES:
            raise unknown("language", language, LANGUAGES)
        return self.en if language == "en" else self.zh


def said(part: Any, language: str) -> Any:
    """Part of a text: `Words` in this language, all else as it is."""
    return part(language) if isinstance(part, Words) else part


@dataclass(frozen=True)
class Remedy:
    """Something to do.

    words: what, in a sentence
    change: the same as a change of the recipe, where it can be one: a field and its new value, or "*0.1" for a number
        that is to be multiplied
    """

    words: Words
    change: Mapping[str, Any]

    def apply(self, recipe: Any) -> Any:
        """The recipe with the change made.

        >>> from surefoot import Recipe
        >>> cause("lr-too-high").remedies[0].apply(Recipe(lr=0.3)).lr
        0.1
        """
        return recipe.replace(**{name: _changed(getattr(recipe, name), value) for name, value in self.change.items()})


def _changed(old: Any, new: Any) -> Any:
    if not (isinstance(new, str) and new.startswith("*")):
        return new
    if old is None:
        return None
    value = float(f"{old * float(new[1:]):.6g}")
    return max(1, round(value)) if isinstance(old, int) else value


@dataclass(frozen=True)
class Cause:
    """A page on a cause.

    group: where it lies; root causes come in the order of `GROUPS`
    looks: what one sees; why: how it comes about; apart: how it is told from its neighbours
    consequences: causes and symptoms that it brings about; alternatives: causes that only a probe tells it from
    remedies: what to do, in the order in which to try it
    """

    code: str
    group: str
    title: Words
    looks: Words
    why: Words
    apart: Words
    consequences: tuple[str, ...]
    alternatives: tuple[str, ...]
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True)
class Symptom:
    """A page on a symptom, with its likely causes in the order in which to look for them."""

    code: str
    title: Words
    looks: Words
    causes: tuple[str, ...]


@cache
def _causes() -> Mapping[str, Cause]:
    return {code: _cause(code, group, page) for group in GROUPS for code, page in _read(f"causes/{group}.toml").items()}


@cache
def _symptoms() -> Mapping[str, Symptom]:
    pages = _read("symptoms.toml")
    return {
        code: Symptom(code, _words(p["title"]), _words(p["looks"]), tuple(p["causes"])) for code, p in pages.items()
    }


@cache
def _signals() -> Mapping[str, Words]:
    return {name: _words(text) for name, text in _read("signals.toml").items()}


@cache
def _sentences() -> Mapping[str, Words]:
    return {key: _words(text) for key, text in _read("checks.toml").items()}


def cause(code: str) -> Cause:
    """The page on a cause. UserError for one that is none."""
    if code not in _causes():
        raise unknown("cause", code, causes())
    return _causes()[code]


def symptom(code: str) -> Symptom:
    """The page on a symptom. UserError for one that is none."""
    if code not in _symptoms():
        raise unknown("symptom", code, symptoms())
    return _symptoms()[code]


def page(code: str) -> Cause | Symptom:
    """The page on a cause or a symptom.

    Raises:
        UserError: where the code is none; it names those that are like it
    """
    found = _causes().get(code) or _symptoms().get(code)
    if found is None:
        raise unknown("cause or symptom", code, (*causes(), *symptoms()))
    return found


def causes() -> Sequence[str]:
    """The codes of all causes, by group."""
    return tuple(_causes())


def symptoms() -> Sequence[str]:
    """The codes of all symptoms."""
    return tuple(_symptoms())


def signal(name: str) -> Words:
    """What a number in the evidence is called."""
    return _signals().get(name) or Words(name.replace("_", " "), name.replace("_", " "))


def sentence(key: str, /, **fields: Any) -> Words:
    """What an exact check says, with its fields filled in; those that are `Words` in the sentence's language.

    >>> sentence("maximizes", loss=sentence("squared error"))("zh")
    'maximize=True 使损失（平方误差）上升，而它应当变小：去掉 maximize=True'
    """
    template = _sentences()[key]
    return Words(
        *(
            template(language).format(**{name: said(value, language) for name, value in fields.items()})
            for language in LANGUAGES
        )
    )


@cache
def _rates() -> Mapping[str, Any]:
    return _read("rates.toml")


def false_alarms(code: str) -> tuple[int, int]:
    """In how many sound trainings a cause was claimed, as a warning or worse; of how many (`benchmarks/diagnose`)."""
    return _rates()["alarms"].get(code, 0), _rates()["runs"]


def _cause(code: str, group: str, page: Mapping[str, Any]) -> Cause:
    remedies = tuple(Remedy(_words(r), r.get("change", {})) for r in page["remedies"])
    title, looks, why, apart = (_words(page[name]) for name in ("title", "looks", "why", "apart"))
    consequences, alternatives = (tuple(page.get(name, ())) for name in ("consequences", "alternatives"))
    return Cause(code, group, title, looks, why, apart, consequences, alternatives, remedies)


def _words(text: Mapping[str, str]) -> Words:
    return Words(text["en"], text["zh"])


def _read(name: str) -> Mapping[str, Any]:
    return tomli.loads(resources.files("surefoot.diagnose.knowledge").joinpath(name).read_text(encoding="utf-8"))
