"""Writes how often each cause was claimed of a sound program, from what `measure --json` has written.

python -m benchmarks.diagnose.rates FILE ...
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import surefoot.diagnose.knowledge as knowledge

FILE = Path(knowledge.__file__).with_name("rates.toml")


def main(files: list[str]) -> None:
    rows = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    sound = [row for row in rows if row["suite"] == "healthy"]
    alarms = Counter(f["cause"] for row in sound for f in row["findings"] if f["severity"] != "info")
    lines = [
        "# How often each cause was claimed of a sound training, as a warning or worse (benchmarks/diagnose/rates.py)",
        f"runs = {len(sound)}",
        "",
        "[alarms]",
        *(f"{cause} = {n}" for cause, n in sorted(alarms.items())),
    ]
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
