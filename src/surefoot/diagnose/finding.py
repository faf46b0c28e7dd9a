"""A finding: what is wrong with a training, why, how one sees it, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from surefoot.diagnose import knowledge
from surefoot.diagnose.knowledge import Remedy

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True)
class Evidence:
    """One number that a reader can check, and the limit that it is beyond, if there is one.

    name: a signal's name in the catalogue of signals
    """

    name: str
    value: float | str
    limit: float | None = None


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a training.

    symptom, cause: codes; `surefoot explain CODE` tells what they mean
    severity: "critical" (not learning, or invalid), "warning" (it costs, or contradicts itself), "info"
    first_step: the step at which it was first to be seen; 0: before the first
    where: the layers, parameters or tensors that it concerns
    evidence: the numbers
    alternatives: causes that these numbers cannot tell it from
    consequences: causes and symptoms that it brings about, seen too and folded in here
    details: sentences of the exact check that found it, by language
    """

    symptom: str
    cause: str
    severity: Severity
    first_step: int
    where: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    alternatives: tuple[str, ...] = ()
    consequences: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()

    @property
    def remedies(self) -> Sequence[Remedy]:
        """What to do, in the order in which to try it: each a sentence and, where it can be, a change of the recipe."""
        return knowledge.cause(self.cause).remedies

    @property
    def false_alarms(self) -> tuple[int, int]:
        """In how many sound trainings of the suite this cause was claimed, as a warning or worse; of how many."""
        return knowledge.false_alarms(self.cause)

    def text(self, language: str = "en") -> str:
        """The finding in words: verdict, why, what to do, evidence.

        Args:
            language: "en" or "zh"
        """
        page, symptom = knowledge.cause(self.cause), knowledge.symptom(self.symptom)
        words = WORDS[language]
        colon = words["colon"]
        lines = [f"[{words[self.severity]}] {page.title(language)} ({self.cause})"]
        lines.append(
            f"  {words['symptom']}{colon}{symptom.title(language)} ({self.symptom}), "
            + words["since"].format(self.first_step)
        )
        lines += [f"  {text}" for spoken, text in self.details if spoken == language]
        if self.where:
            more = f" +{len(self.where) - 4}" if len(self.where) > 4 else ""
            lines.append(f"  {words['where']}{colon}{', '.join(self.where[:4])}{more}")
        lines.append(f"  {words['why']}{colon}{page.why(language)}")
        for number, remedy in enumerate(self.remedies[:2]):
            lines.append(f"  {words['next' if number == 0 else 'then']}{colon}{remedy.words(language)}")
        if self.evidence:
            rows = [knowledge.signal(each.name)(language) + " " + _shown(each, words) for each in self.evidence]
            lines.append(f"  {words['evidence']}{colon}{words['and'].join(rows)}")
            lines.append("  " + words["alarms"].format(*self.false_alarms))
        if self.alternatives:
            lines.append(f"  {words['or']}{colon}{', '.join(self.alternatives)}")
        if self.consequences:
            lines.append(f"  {words['brings']}{colon}{', '.join(self.consequences)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same content as plain data, for JSON: texts in both languages."""
        evidence = [
            {**asdict(e), "value": e.value if isinstance(e.value, str) or isfinite(e.value) else str(e.value)}
            for e in self.evidence
        ]
        remedies = [{"en": r.words("en"), "zh": r.words("zh"), "change": dict(r.change)} for r in self.remedies]
        return {
            **asdict(self),
            "evidence": evidence,
            "details": dict(self.details),
            "false_alarms": dict(zip(("alarms", "runs"), self.false_alarms, strict=True)),
            "remedies": remedies,
            "text": {language: self.text(language) for language in WORDS},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """What `to_dict` gave."""
        own: dict[str, Any] = {name: data[name] for name in cls.__dataclass_fields__}
        own["evidence"] = tuple(Evidence(**each) for each in own["evidence"])
        own["details"] = tuple(own["details"].items())
        for name in ("where", "alternatives", "consequences"):
            own[name] = tuple(own[name])
        return cls(**own)


def _shown(each: Evidence, words: Mapping[str, str]) -> str:
    value = each.value if isinstance(each.value, str) else f"{each.value:.3g}"
    return value if each.limit is None else f"{value} ({words['limit']} {each.limit:.3g})"


WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "critical": "critical",
        "warning": "warning",
        "info": "info",
        "symptom": "symptom",
        "since": "since step {}",
        "where": "where",
        "why": "why",
        "next": "do",
        "then": "then",
        "evidence": "evidence",
        "and": "; ",
        "or": "not told apart from",
        "brings": "brings about",
        "limit": "limit",
        "alarms": "claimed wrongly in {} of {} sound trainings",
        "colon": ": ",
    },
    "zh": {
        "critical": "严重",
        "warning": "警告",
        "info": "提示",
        "symptom": "症状",
        "since": "始于第 {} 步",
        "where": "位置",
        "why": "原因",
        "next": "措施",
        "then": "其次",
        "evidence": "证据",
        "and": "；",
        "or": "尚不能与之区分",
        "brings": "由此引发",
        "limit": "界限",
        "alarms": "在 {1} 次正常训练中误报 {0} 次",
        "colon": "：",
    },
}
