"""What `import surefoot` costs beyond `import torch`, and what the first optimizer costs beyond that.

    python benchmarks/import_time.py [--runs N]

Each figure is the median over fresh processes; torch's and ours are measured in the same process, one after the other.
The bar: the import costs at most 0.10 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

BAR = 0.10
MEASURE = """
import json, time
a = time.perf_counter(); import torch
b = time.perf_counter(); import surefoot as sf
c = time.perf_counter(); {first}([torch.nn.Parameter(torch.ones(1))], lr=0.1)
d = time.perf_counter()
print(json.dumps([b - a, c - b, d - c]))
"""


def measure(first: str) -> list[float]:
    out = subprocess.run(
        [sys.executable, "-c", MEASURE.format(first=first)], capture_output=True, text=True, check=True
    )
    return json.loads(out.stdout)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=9)
    runs = options.parse_args().runs
    measure("sf.optim.SGD")  # warms the disk's cache
    pairs = [(measure("sf.optim.SGD"), measure("torch.optim.SGD")) for _ in range(runs)]
    ours, theirs = (
        [statistics.median(column) for column in zip(*side, strict=True)] for side in zip(*pairs, strict=True)
    )
    print("| what | seconds (median) |\n|---|---|")
    print(f"| import torch | {ours[0]:.3f} |")
    print(f"| import surefoot after it | {ours[1]:.4f} |")
    print(f"| the first sf.optim.SGD | {ours[2]:.4f} |")
    print(f"| the first torch.optim.SGD | {theirs[2]:.4f} |")
    print(f"\nbar: at most {BAR} s for the import: {'reached' if ours[1] <= BAR else 'NOT REACHED'}")


if __name__ == "__main__":
    main()
