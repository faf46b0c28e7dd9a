"""The step size: too large or too small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "lr_high_digits_cnn_momentum",
    family="digits-cnn",
    causes="lr-too-high",
    symptoms="loss-not-decreasing diverging loss-spike plateau",
)
def lr_high_digits_cnn_momentum(watch: Watch, seed: int, mended: bool) -> float:
    """A rate of 0.8 with momentum 0.9, taken from a large-batch ImageNet recipe, on batches of 32."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits(images=True)
    model = parts.SmallCNN()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 if mended else 0.8, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(4):
        for images, labels in parts.loader(x, y, 32):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "lr_high_gru_adam", family="char-gru", causes="lr-too-high", symptoms="slow-convergence plateau loss-oscillating"
)
def lr_high_gru_adam(watch: Watch, seed: int, mended: bool) -> float:
    """Adam at 0.2, a rate that had worked for SGD, on a GRU over characters; the loss is a plain function."""
    torch.manual_seed(seed)
    (x, y, xv, yv), vocabulary = parts.text()
    net = parts.CharGRU(vocabulary)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02 if mended else 0.2)
    w = watch(net, optimizer)
    for inputs, targets in parts.batches(x, y, 32, 180):
        optimizer.zero_grad()
        logits = net(inputs)
        loss = F.cross_entropy(logits.transpose(1, 2), targets)
        w.observe(loss=loss, outputs=logits, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(net, parts.tokens, xv, yv)


@faulty(
    "lr_high_tabular_rmsprop", family="friedman", causes="lr-too-high", symptoms="loss-oscillating plateau loss-spike"
)
def lr_high_tabular_rmsprop(watch: Watch, seed: int, mended: bool) -> float:
    """RMSprop at 0.1 on a small regression: the loss jumps about far above the noise."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    net = nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))
    opt = torch.optim.RMSprop(net.parameters(), lr=0.005 if mended else 0.1)
    mse = nn.MSELoss()
    w = watch(net, opt, loss=mse)
    for epoch in range(25):
        net.train()
        for xb, yb in parts.batches(x, y, 64, 14):
            loss = mse(net(xb), yb)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
        if epoch % 5 == 4:
            net.eval()
            with torch.no_grad():
                w.validated(loss=mse(net(xv), yv).item())
    w.close()
    return parts.score(net, mse, xv, yv)


@faulty(
    "lr_high_autoencoder_bf16",
    family="digits-autoencoder",
    causes="lr-too-high",
    symptoms="plateau loss-spike loss-not-decreasing",
)
def lr_high_autoencoder_bf16(watch: Watch, seed: int, mended: bool) -> float:
    """AdamW at 0.1 under autocast: the reconstruction stays at the mean image."""
    torch.manual_seed(seed)
    x, _, xv, _ = parts.digits()
    model = parts.AutoEncoder()
    optimizer = sf.optim.AdamW(model.parameters(), lr=0.004 if mended else 0.1, weight_decay=1e-3)
    criterion = nn.MSELoss()
    w = watch(model, optimizer, loss=criterion)
    for images, _same in parts.batches(x, x, 64, 300):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            recon = model(images)
            loss = criterion(recon.float(), images)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, xv)


@faulty(
    "lr_low_autoencoder",
    family="digits-autoencoder",
    causes="lr-too-low",
    symptoms="slow-convergence loss-not-decreasing",
)
def lr_low_autoencoder(watch: Watch, seed: int, mended: bool) -> float:
    """Adam at 1e-5 `to be on the safe side`."""
    torch.manual_seed(seed)
    x, _, xv, _ = parts.digits()
    net = parts.AutoEncoder(code=12)
    criterion = nn.MSELoss()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3 if mended else 1e-5)
    w = watch(net, opt, loss=criterion)
    for _ in range(12):
        for (batch,) in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=48, shuffle=True):
            opt.zero_grad()
            loss = criterion(net(batch), batch)
            loss.backward()
            opt.step()
        w.validated(loss=parts.score(net, criterion, xv, xv))
    w.close()
    return parts.score(net, criterion, xv, xv)


@faulty("lr_low_friedman_sgd", family="friedman", causes="lr-too-low optimizer-unsuited", symptoms="slow-convergence")
def lr_low_friedman_sgd(watch: Watch, seed: int, mended: bool) -> float:
    """SGD with momentum at 1e-4, chosen after an earlier run on raw data had blown up."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    model = parts.mlp(10, 64, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03 if mended else 1e-4, momentum=0.9, nesterov=True)
    w = watch(model, optimizer)
    for xb, yb in parts.batches(x, y, 50, 500):
        out = model(xb)
        loss = (out - yb).pow(2).mean()
        w.observe(loss=loss, outputs=out, targets=yb, inputs=xb)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    w.close()
    return parts.score(model, nn.MSELoss(), xv, yv)


@faulty(
    "lr_low_multilabel_finetune_rate",
    family="multilabel",
    causes="lr-too-low",
    symptoms="slow-convergence loss-not-decreasing",
)
def lr_low_multilabel_finetune_rate(watch: Watch, seed: int, mended: bool) -> float:
    """AdamW at 2e-5, the rate for fine-tuning BERT, on a model that starts from nothing."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.multilabel()

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), nn.GELU())
            self.tags = nn.Linear(32, 6)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.tags(self.body(rows))

    model = Tagger()
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3 if mended else 2e-5)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(6):
        model.train()
        for rows, labels in parts.loader(x, y, 40):
            optimizer.zero_grad()
            criterion(model(rows), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            criterion(model(xv), yv).item()
    w.close()
    return parts.score(model, criterion, xv, yv) - 0.3  # 0.3 is about what cannot be known
