"""docs/troubles.md and docs/troubles.zh.md, from the knowledge base: python docs/make_troubles.py"""

from __future__ import annotations

from pathlib import Path

from surefoot.diagnose import knowledge

FOLDER = Path(__file__).parent
TEXTS = {
    "en": {
        "head": "# What goes wrong in training, why, and what to do\n\n"
        "Made from the knowledge base by `docs/make_troubles.py`; "
        "`surefoot explain CODE` prints the same pages. [中文](troubles.zh.md)\n",
        "table": "| symptom | likely causes, in the order to look for them |\n|---|---|",
        "looks": "What it looks like",
        "why": "Why",
        "apart": "Told apart",
        "do": "What to do",
        "change": "as a change of the recipe",
        "alternatives": "Not told apart without a probe from",
        "consequences": "Brings about",
        "groups": {
            "data": "Data",
            "head": "Head and loss",
            "wiring": "Wiring",
            "init": "Initialisation and depth",
            "rate": "Rate",
            "length": "Length and capacity",
            "system": "System",
        },
    },
    "zh": {
        "head": "# 训练会出什么问题、为什么、怎么办\n\n"
        "由 `docs/make_troubles.py` 从知识库生成；`surefoot explain CODE --lang zh` "
        "打印相同内容。[English](troubles.md)\n",
        "table": "| 症状 | 可能的原因（按排查顺序） |\n|---|---|",
        "looks": "表现",
        "why": "原因",
        "apart": "区分",
        "do": "措施",
        "change": "对应的配方修改",
        "alternatives": "不做探测实验无法区分",
        "consequences": "由此引发",
        "groups": {
            "data": "数据",
            "head": "输出与损失",
            "wiring": "接线",
            "init": "初始化与深度",
            "rate": "步长",
            "length": "时长与容量",
            "system": "系统",
        },
    },
}


def page(language: str = "en") -> str:
    """The whole page."""
    t = TEXTS[language]
    lines = [t["head"], t["table"]]
    for code in knowledge.symptoms():
        s = knowledge.symptom(code)
        links = ", ".join(f"[{cause}](#{cause})" for cause in s.causes)
        lines.append(f"| **{s.title(language)}** (`{code}`): {s.looks(language)} | {links} |")
    group = ""
    for code in knowledge.causes():
        c = knowledge.cause(code)
        if c.group != group:
            group = c.group
            lines += ["", f"## {t['groups'][group]}"]
        lines += ["", f"### {code}", "", f"**{c.title(language)}.**", ""]
        lines += [f"- {t[name]}: {getattr(c, name)(language)}" for name in ("looks", "why", "apart")]
        for number, remedy in enumerate(c.remedies, 1):
            change = (
                f" ({t['change']}: `{', '.join(f'{k}={v}' for k, v in remedy.change.items())}`)"
                if remedy.change
                else ""
            )
            lines.append(f"- {t['do']} {number}: {remedy.words(language)}{change}")
        for name in ("alternatives", "consequences"):
            if getattr(c, name):
                lines.append(f"- {t[name]}: {', '.join(f'[{other}](#{other})' for other in getattr(c, name))}")
    return "\n".join(lines) + "\n"


def main() -> None:
    for language, name in (("en", "troubles.md"), ("zh", "troubles.zh.md")):
        (FOLDER / name).write_text(page(language), encoding="utf-8")


if __name__ == "__main__":
    main()
