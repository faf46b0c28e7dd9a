"""The watch in other people's loops: Lightning's, Accelerate's, transformers', and in processes that train together."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import surefoot as sf

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


def data(n: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def network(*last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2), *last)


@pytest.mark.parametrize("faulty", [False, True])
def test_in_lightning(faulty, tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = network(*([nn.Softmax(1)] if faulty else [])), nn.CrossEntropyLoss()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch):
            return self.criterion(self.net(batch[0]), batch[1])

        def validation_step(self, batch):
            self.criterion(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

        def on_train_start(self):
            self.watch = sf.watch(self.net, self.optimizers(), loss=self.criterion, quiet=True)

    x, y = data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 32, shuffle=True)
    val = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x + 0.01, y), 32)
    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path}
    lightning.Trainer(max_epochs=5, accelerator="cpu", enable_checkpointing=False, **quiet).fit(module, loader, val)
    module.watch.close()
    assert module.watch.blind == {}
    causes = [f.cause for f in module.watch.findings if f.severity != "info"]
    assert causes == (["output-activation"] if faulty else [])


@pytest.mark.parametrize("faulty", [False, True])
def test_in_accelerate(faulty):
    accelerate = pytest.importorskip("accelerate")
    x, y = data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 32, shuffle=True)
    model, criterion = network(), nn.CrossEntropyLoss()
    own = accelerate.Accelerator(cpu=True)
    model, optimizer, loader = own.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01), loader)
    with sf.watch(model, optimizer, loss=criterion, quiet=True) as watch:
        for _ in range(5):
            for xb, yb in loader:
                own.backward(criterion(model(xb), yb))
                optimizer.step()
                if not faulty:
                    optimizer.zero_grad()
    causes = [f.cause for f in watch.findings if f.severity != "info"]
    assert "watch" not in watch.blind
    assert causes == (["grad-not-cleared"] if faulty else [])


@pytest.mark.parametrize("faulty", [False, True])
def test_in_transformers(faulty, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = network(*([nn.Softmax(1)] if faulty else [])), nn.CrossEntropyLoss()

        def forward(self, x, labels=None):
            out = self.net(x)
            return {"loss": self.criterion(out, labels), "logits": out}

    x, y = data()
    rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    model = Model()
    args = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=5, per_device_train_batch_size=32, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, learning_rate=0.01, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = transformers.Trainer(model, args, train_dataset=rows)
    trainer.create_optimizer()
    with sf.watch(model, trainer.optimizer, loss=model.criterion, quiet=True) as watch:
        trainer.train()
    assert "watch" not in watch.blind
    causes = [f.cause for f in watch.findings if f.severity != "info"]
    assert causes == (["output-activation"] if faulty else [])


SHARED = """
    import os, sys, torch, torch.distributed as dist, surefoot as sf
    from torch import nn

    kind, faulty = sys.argv[1], sys.argv[2] == "True"
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2), *([nn.Softmax(1)] if faulty else []))
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard
        fully_shard(model)
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=0.01), nn.CrossEntropyLoss()
    x = torch.randn(256, 6); y = (x[:, 0] > 0).long()
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    for step in range(60):
        rows = torch.randperm(256)[:32]
        optimizer.zero_grad(); criterion(model(x[rows]), y[rows]).backward(); optimizer.step()
    watch.close()
    assert "watch" not in watch.blind, watch.blind
    found = [f.cause for f in watch.findings if f.severity != "info"]
    os.write(1, f"FOUND {found}\\n".encode())  # whole, whatever the other process writes
    dist.barrier()
    os._exit(0)
"""


@pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs torch.distributed")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("faulty", [False, True])
def test_in_two_processes(kind, faulty, tmp_path):
    (tmp_path / "loop.py").write_text(textwrap.dedent(SHARED))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, str(tmp_path / "loop.py"), kind, str(faulty)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    causes = ["output-activation"] if faulty else []
    assert result.stdout.count(f"FOUND {causes}") == 2, result.stdout + result.stderr
