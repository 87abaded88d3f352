"""Training step and 100-draw importance-weighted log p of a 784-512-16 Bernoulli VAE, against pythae 0.1.2.

Both run in this process on one thread; pythae is imported from this environment or from the site-packages folder given
as the first argument or in $PYTHAE (it needs nothing that torch does not bring: `pip install --no-deps --target DIR
pythae==0.1.2`). Its `get_nll` uses chunks of 100 draws whatever it is asked for, so k is 100 on both sides; it also
loops over images one at a time, and returns the mean of +log p under the name of its negative.
"""

from __future__ import annotations

import os
import sys

import timing  # first: it sets the number of threads
import torch

from likely.logprob import log_prob
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers

for folder in [*sys.argv[1:2], *filter(None, [os.environ.get("PYTHAE")])]:
    sys.path.append(folder)  # behind our own packages

from pythae.data.datasets import BaseDataset  # noqa: E402
from pythae.models import VAE, VAEConfig  # noqa: E402
from pythae.models.nn import BaseDecoder, BaseEncoder  # noqa: E402
from pythae.models.nn.default_architectures import ModelOutput  # noqa: E402

B, IMAGES, K = 128, 32, 100


class Encoder(BaseEncoder):
    """784-512-(16, 16), as ours."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(784, 512), torch.nn.SiLU())
        self.mean, self.log_var = torch.nn.Linear(512, 16), torch.nn.Linear(512, 16)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        h = self.body(x.flatten(1))
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    """16-512-784, as ours; pythae wants probabilities."""

    def __init__(self) -> None:
        super().__init__()
        layers = torch.nn.Linear(16, 512), torch.nn.SiLU(), torch.nn.Linear(512, 784), torch.nn.Sigmoid()
        self.body = torch.nn.Sequential(*layers)

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.body(z).reshape(-1, 1, 28, 28))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = Noise(0, B).integers(2, (1, 28, 28)).to(torch.uint8)
    floats = x.float()
    ours = build("vae", Integers((1, 28, 28), 2), preset="bernoulli")
    rival = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce"), Encoder(), Decoder())
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, rival)]
    if sizes[0] != sizes[1]:
        raise SystemExit(f"the models differ in size: {sizes}")
    adam, rival_adam = (torch.optim.Adam(model.parameters(), 1e-3) for model in (ours, rival))
    steps = iter(range(10**9))
    batch = BaseDataset(floats, torch.zeros(B))[torch.arange(B)]

    def step() -> None:
        adam.zero_grad()
        ours.loss(x, noise=Noise(next(steps), B)).backward()
        adam.step()
        ours.after_step()

    def rival_step() -> None:
        rival_adam.zero_grad()
        rival(batch).loss.backward()
        rival_adam.step()

    def weights() -> None:
        with torch.no_grad():
            ours.log_weight(x[:IMAGES], noise=Noise(0, IMAGES, K)).reshape(IMAGES, K).logsumexp(1)

    def door() -> None:
        log_prob(ours, x[:64], k=K)

    def rival_weights() -> None:
        with torch.no_grad():
            rival.get_nll(floats[:IMAGES], n_samples=K, batch_size=K)

    path, rows = timing.RESULTS / "vae.jsonl", timing.race({"ours": step, "rival": rival_step}, 15)
    fixed = {"parameters": sizes[0], "threads": 1}
    record(path, "train step, batch 128", rows, 1, **fixed)
    rows = timing.race({"ours": weights, "rival": rival_weights, "door": door}, 7)
    record(path, f"importance-weighted log p, k={K}, per image", rows, IMAGES, **fixed)
    through = timing.Timing(rows["door"].cpu * IMAGES / 64, *rows["door"][1:])
    record(path, f"the same through log_prob(), k={K}, per image", rows | {"ours": through}, IMAGES, **fixed)


def record(path, case: str, times, images: int, **more: object) -> None:
    each = {name: timing.Timing(t.cpu / images, *t[1:]) for name, t in times.items()}
    timing.record(path, timing.against("vae", case, "pythae 0.1.2", each, **more))


if __name__ == "__main__":
    main()
