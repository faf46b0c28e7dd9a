"""How tests start several processes that train together."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CODE = """
import sys, torch, torch.distributed as dist
path, module, function, rank, world, folder = sys.argv[1:]
sys.path[:0] = path.split(":")
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=int(world))
getattr(__import__(module), function)(int(rank), int(world), folder)
dist.destroy_process_group()
"""


def run(function: Callable[[int, int, str], None], folder: Path, world: int = 2) -> None:
    """Call a test module's function(rank, world, folder) in so many processes of one group."""
    home = Path(inspect.getfile(function))
    path = ":".join(str(home.parent.with_name(name)) for name in ("optim", "engine"))
    arguments = [path, home.stem, function.__name__]
    started = [
        subprocess.Popen([sys.executable, "-c", CODE, *arguments, str(rank), str(world), str(folder)])
        for rank in range(world)
    ]
    try:
        assert [each.wait(timeout=100) for each in started] == [0] * world
    finally:
        for each in started:
            each.kill()
            each.wait()
