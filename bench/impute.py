"""How near completions come to the true conditional: `lk.impute` beside RePaint, at equal evaluations.

`python3 do.py bench impute [RUN DATA]`. Of Gaussians the conditional is known: the divergence of the draws' mean and
covariance from it, in nats a hidden dimension, and the extreme variances along the true ones (1 is right). Of a
diffusion RUN on test rows of DATA: the energy score of the hidden part, E|draw - truth| - E|draw - draw'| / 2, which
the true conditional makes least, with the root-mean-square error of one draw and of the mean of the draws.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import torch
from torch import Tensor

import likely as lk
from likely.tasks.gauge import Gauge
from likely.tasks.impute import completions
from likely.tasks.masks import hide

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from analytic import F64
from test_denoise import Known

EVALUATIONS, DRAWS = 120, 4000
Complete = Callable[[Gauge, Tensor, Tensor, lk.Noise], Tensor]


def ours(gauge: Gauge, x: Tensor, seen: Tensor, noise: lk.Noise) -> Tensor:
    """What `lk.impute` does."""
    *_, last = completions(gauge, x, seen, None, noise, EVALUATIONS // 4)
    return last


def repaint(repeats: int) -> Complete:
    """RePaint: ancestral steps, noisy copies of what is seen put in, each step `repeats` times with noise in between
    ("RePaint: inpainting using denoising diffusion probabilistic models", Lugmayr et al., 2022, algorithm 1)."""

    def run(gauge: Gauge, x: Tensor, seen: Tensor, noise: lk.Noise) -> Tensor:
        model, known = gauge.model, gauge.model.scaled(x)
        xi = lambda: noise.normal(known.shape[1:], dtype=known.dtype)  # noqa: E731
        z = xi()
        grid = torch.linspace(gauge.low, gauge.high, EVALUATIONS // repeats + 1, dtype=F64)
        for t, s in pairwise(grid):
            (a_t, s_t), (a, sd) = ((float(e.sigmoid().sqrt()), float((-e).sigmoid().sqrt())) for e in (t, s))
            fresh = sd * math.sqrt(-math.expm1(float(t - s)))
            kept = math.sqrt(sd**2 - fresh**2) / s_t
            for again in range(repeats):
                x_hat = model.denoise(z, t.expand(len(z)))
                z = kept * z + (a - kept * a_t) * x_hat + fresh * xi()
                z = torch.where(seen, a * known + sd * xi(), z)
                if again < repeats - 1:
                    z = a_t / a * z + math.sqrt(max(0.0, s_t**2 - (a_t / a * sd) ** 2)) * xi()
        return model.unscaled(z / a)

    return run


METHODS: dict[str, Complete] = {"likely": ours, **{f"repaint x {r}": repaint(r) for r in (1, 4, 10)}}


@torch.no_grad()
def gaussian(name: str, covariance: Tensor, mask: str, seen: Tensor) -> None:
    """A row for each method: draws for one row, against its conditional."""
    model = Known(covariance)
    x, C = model.draw(1, seed=5)[0], model.covariance
    gain = C[~seen][:, seen] @ torch.linalg.inv(C[seen][:, seen])
    mean, rest = model.mean[~seen] + gain @ (x[seen] - model.mean[seen]), C[~seen][:, ~seen] - gain @ C[seen][:, ~seen]
    for method, run in METHODS.items():
        drawn = run(Gauge(model, "bench"), x.expand(DRAWS, -1), seen.expand(DRAWS, -1), lk.Noise(1, DRAWS))
        w = torch.linalg.solve_triangular(torch.linalg.cholesky(rest), (drawn[:, ~seen] - mean).T, upper=False)
        covariance, offset = torch.cov(w), w.mean(1)
        kl = 0.5 * (covariance.trace() + offset.square().sum() - len(w) - covariance.logdet())
        values = torch.linalg.eigvalsh(covariance)
        row: dict[str, Any] = {"bench": "impute", "data": name, "hidden": mask, "method": method}
        row |= {"evaluations": EVALUATIONS, "draws": DRAWS, "divergence_per_dim": round(float(kl) / len(w), 5)}
        row |= {"mean_error": round(float(offset.square().mean().sqrt()), 4)}
        row |= {"least_variance": round(float(values.min()), 3), "most_variance": round(float(values.max()), 3)}
        record(RESULTS / "impute.jsonl", row)


@torch.no_grad()
def pictures(run: Path, data: str, rows: int = 24, draws: int = 4) -> None:
    """A row for each method and mask on a trained model."""
    model = lk.load_model(run)
    x = lk.load(data).test.x[:rows].repeat_interleave(draws, 0)
    for mask in ("right", "center", "random:0.5"):
        seen = hide(model.space, mask, 1).expand(len(x), *model.space.shape)
        for method, complete in METHODS.items():
            drawn = complete(Gauge(model, "bench"), x, seen, lk.Noise(1, len(x))).double()
            drawn, truth = (each[~seen].reshape(rows, draws, -1) for each in (drawn, x.double()))
            apart = torch.stack([torch.pdist(each).mean() for each in drawn])
            score = (drawn - truth).norm(dim=2).mean(1) - apart / 2
            one, mean = (drawn - truth).square().mean().sqrt(), (drawn.mean(1) - truth[:, 0]).square().mean().sqrt()
            figures = {"energy_score": score.mean(), "energy_score_stderr": score.std() / math.sqrt(rows)}
            figures |= {"one_draw_rmse": one, "mean_rmse": mean}
            row = {"bench": "impute", "data": data, "hidden": mask, "method": method, "evaluations": EVALUATIONS}
            row |= {"rows": rows, "draws": draws} | {key: round(float(value), 4) for key, value in figures.items()}
            record(RESULTS / "impute.jsonl", row)


def main() -> None:
    """The Gaussians, or a run."""
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        return pictures(Path(sys.argv[1]), sys.argv[2])
    i = torch.arange(16, dtype=F64)
    gap = i[:, None] - i
    cases = {"rough Gaussian": (-gap.abs() / 4).exp(), "smooth Gaussian": (-gap.square() / 8).exp() + 0.02 * (gap == 0)}
    masks = {"half": i < 8, "random:0.5": torch.tensor([True, False, False, True, False, True, True, False] * 2)}
    for name, covariance in cases.items():
        for mask, seen in masks.items():
            gaussian(name, 0.25 * covariance, mask, seen)


if __name__ == "__main__":
    main()
