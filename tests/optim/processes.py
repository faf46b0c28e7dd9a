"""How tests start several processes that train together."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CODE = """
import os, sys, torch, torch.distributed as dist
path, module, function, rank, world, folder = sys.argv[1:]
sys.path[:0] = path.split(":")
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=int(world))
getattr(__import__(module), function)(int(rank), int(world), folder)
dist.barrier()
sys.stdout.flush()
os._exit(0)  # torch's own threads now and then abort, or hang, while the group or Python is taken down
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
    end = time.monotonic() + 100
    try:
        while any(each.poll() is None for each in started) and time.monotonic() < end:
            if any(each.poll() for each in started):
                break  # one has failed: the others wait for it
            time.sleep(0.05)
        assert [each.poll() for each in started] == [0] * world
    finally:
        for each in started:
            each.kill()
            each.wait()
