"""What `step_in_backward` saves: the memory of gradients, which then never exist all at once.

    python benchmarks/backward_memory.py [--width N] [--layers N]

Each way runs in a fresh process: an MLP of 101 million parameters in single precision under AdamW, three steps. The
bytes of gradients that are alive are counted whenever one has arrived; peak memory is the process's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

MEASURE = """
import json, resource, time, torch, surefoot as sf
width, layers, inside = {width}, {layers}, {inside}
torch.manual_seed(0)
net = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
params = list(net.parameters())
opt = sf.optim.AdamW(params, lr=1e-4)
alive = []
for p in params:
    p.register_post_accumulate_grad_hook(
        lambda _: alive.append(sum(q.grad.nbytes for q in params if q.grad is not None))
    )
if inside:
    opt.step_in_backward()
for _ in range(3):
    start = time.perf_counter()
    opt.zero_grad()
    net(torch.randn(8, width)).square().mean().backward()
    opt.step()
    took = time.perf_counter() - start
sums = sum(p.double().sum().item() for p in params)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if __import__("sys").platform == "darwin" else 1024)
print(json.dumps([sum(p.numel() for p in params), max(alive), peak, took, sums]))
"""


def measure(width: int, layers: int, inside: bool) -> list[float]:
    code = MEASURE.format(width=width, layers=layers, inside=inside)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=6)
    options = parser.parse_args()
    found = {name: measure(options.width, options.layers, name != "usual") for name in ("usual", "step_in_backward")}
    print("| step | gradients alive at most, MB | peak memory of the process, MB | third step, s |\n|---|---|---|---|")
    for name, (_, alive, peak, took, _) in found.items():
        print(f"| {name} | {alive / 1e6:.1f} | {peak / 1e6:.0f} | {took:.2f} |")
    (count, *_, one), (*_, two) = found.values()
    print(f"\n{count / 1e6:.1f} million parameters; the same weights both ways: {'yes' if one == two else 'NO'}")


if __name__ == "__main__":
    main()
