"""Digits, models that reproduce or invent them."""

from functools import partial

import torch
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, loss_of, variance
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, family="digits-auto", part="building")


@sound("autoencoder-with-sigmoid")
def autoencoder(watch, seed):
    """Targets are the inputs, grey values in [0, 1] under BCE: its floor is far above zero."""
    torch.manual_seed(seed)
    x, _, vx, _ = data.digits()
    model, criterion = nn.Sequential(mlp(64, 64, 12, 64, 64), nn.Sigmoid()), nn.BCELoss()
    first = loss_of(model, criterion, x, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(15):
        for (inputs,) in batches(x, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), inputs).backward()
            optimizer.step()
        with torch.no_grad():
            w.validated(loss=criterion(model(vx), vx).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, x), binary_entropy(x))


@sound("autoencoder-residue")
def autoencoder_mse(watch, seed):
    """MSE on images in [0, 1]: the loss is small from the start (0.2) and ends at the bottleneck's residue."""
    torch.manual_seed(seed)
    x, _, _, _ = data.digits()
    model, criterion = mlp(64, 8, 64), nn.MSELoss()
    first = loss_of(model, criterion, x, x)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.85)
    for _ in range(15):
        for (inputs,) in batches(x, size=32):
            criterion(model(inputs), inputs).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, x), variance(x))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.outside = mlp(64, 64, 16), mlp(8, 64, 64)

    def forward(self, x):
        mean, log_var = self.inside(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.outside(code), mean, log_var


@sound("variational-autoencoder")
def vae(watch, seed):
    """Reconstruction summed over pixels plus divergence, averaged over images: a loss far above 1, noisy by design."""
    torch.manual_seed(seed)
    x, _, _, _ = data.digits()
    model = VAE()

    def loss_on(rows):
        out, mean, log_var = model(rows)
        likely = (out - rows).square().sum(1) / (2 * 0.15**2)
        apart = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return (likely + apart).mean(), out

    @torch.no_grad()
    def measured():
        torch.manual_seed(1)
        return loss_on(x)[0].item()

    first = measured()
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer)
    for (rows,) in batches(x, size=64, epochs=15):
        optimizer.zero_grad()
        loss, out = loss_on(rows)
        w.observe(loss=loss, outputs=out, targets=rows, inputs=rows)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, measured(), 64 * variance(x) / (2 * 0.15**2))


@sound("denoising-steps")
def denoising(watch, seed):
    """Diffusion: guess the noise in an image at a random time. The loss falls at once and then lies on a plateau."""
    torch.manual_seed(seed)
    x, _, _, _ = data.digits()
    x = 2 * x - 1
    model, criterion = mlp(65, 128, 128, 64, act=nn.SiLU), nn.MSELoss()

    def noised(rows):
        time, noise = torch.rand(len(rows), 1), torch.randn_like(rows)
        return torch.cat([(1 - time).sqrt() * rows + time.sqrt() * noise, time], 1), noise

    mixed, noise = noised(x)
    first = loss_of(model, criterion, mixed, noise)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    for (rows,) in batches(x, size=128, epochs=40):
        optimizer.zero_grad()
        inputs, targets = noised(rows)
        loss = criterion(model(inputs), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, mixed, noise), 1.0)


@sound("adversaries")
def adversaries(watch, seed):
    """A GAN on two principal components of digits, each side with its own optimizer; both losses hover near ln 2."""
    torch.manual_seed(seed)
    x, _, _, _ = data.digits()
    centred = x - x.mean(0)
    points = centred @ torch.linalg.svd(centred, full_matrices=False)[2][:2].T
    points = points / points.std()
    maker, judge = mlp(4, 64, 64, 2), mlp(2, 64, 64, 1, act=nn.SiLU)
    real, fake = torch.ones(64, 1), torch.zeros(64, 1)
    criterion = nn.BCEWithLogitsLoss()

    @torch.no_grad()
    def apart():
        """The energy distance of what is made from what is there: what the maker shall bring to zero."""
        made = maker(torch.randn(1000, 4, generator=data.drawn(1)))
        real = points[:1000]
        return float(
            2 * torch.cdist(made, real).mean() - torch.cdist(made, made).mean() - torch.cdist(real, real).mean()
        )

    first = apart()
    of_maker = torch.optim.Adam(maker.parameters(), lr=4e-4, betas=(0.0, 0.99))
    of_judge = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.0, 0.99))
    w = watch(nn.ModuleDict({"maker": maker, "judge": judge}), [of_maker, of_judge], loss=None)
    for (rows,) in batches(points, size=64, epochs=25):
        made = maker(torch.randn(64, 4))
        loss = criterion(judge(rows), real) + criterion(judge(made.detach()), fake)
        w.observe(loss=loss)
        of_judge.zero_grad()
        loss.backward()
        of_judge.step()
        loss = criterion(judge(made), real)
        w.observe(loss=loss)
        of_maker.zero_grad()
        loss.backward()
        of_maker.step()
    w.close()
    return Outcome(first, apart(), first)
