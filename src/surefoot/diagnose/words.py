"""Findings and pages of the knowledge base as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from surefoot.diagnose import knowledge
from surefoot.diagnose.finding import Finding
from surefoot.diagnose.knowledge import Cause, Symptom

SOUND = {"en": "nothing wrong was found in {} steps", "zh": "在 {} 步中未发现问题"}
HEADS = {
    "en": (
        "what it looks like",
        "why",
        "told apart",
        "what to do",
        "brings about",
        "not told apart from without a probe",
    ),
    "zh": ("表现", "原因", "区分", "措施", "由此引发", "不做探测实验无法区分"),
}
LIKELY = {"en": "causes, in the order to look for them", "zh": "可能的原因（按排查顺序）"}
COLUMNS = {"en": 88, "zh": 42}  # a Chinese character takes two


def verdict(findings: Sequence[Finding], steps: int, language: str = "en") -> str:
    """All findings, root cause first; or that there is none."""
    if not findings:
        return SOUND[language].format(steps)
    return "\n\n".join(finding.text(language) for finding in findings)


def explained(code: str, language: str = "en") -> str:
    """A page of the knowledge base.

    >>> print(explained("input-bound").splitlines()[0])
    input-bound: Most of the time goes into waiting for data
    """
    page = knowledge.page(code)
    colon = ": " if language == "en" else "："
    lines = [f"{page.code}{': ' if language == 'en' else '：'}{page.title(language)}"]
    for head, text in _sections(page, language):
        lines += [
            "",
            *wrap(
                f"{head}{colon}{text}",
                COLUMNS[language],
                subsequent_indent="  ",
                break_long_words=language == "zh",
                break_on_hyphens=False,
            ),
        ]
    return "\n".join(lines)


def _sections(page: Cause | Symptom, language: str) -> list[tuple[str, str]]:
    heads = HEADS[language]
    if isinstance(page, Symptom):
        return [(heads[0], page.looks(language)), (LIKELY[language], ", ".join(page.causes))]
    found = [(heads[0], page.looks(language)), (heads[1], page.why(language)), (heads[2], page.apart(language))]
    found += [(f"{heads[3]} ({n})", remedy.words(language)) for n, remedy in enumerate(page.remedies, 1)]
    found += [(heads[5], ", ".join(page.alternatives))] if page.alternatives else []
    return [*found, (heads[4], ", ".join(page.consequences))] if page.consequences else found
