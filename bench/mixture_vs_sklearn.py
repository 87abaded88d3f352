"""EM, log p and sampling of Gaussian mixtures against scikit-learn's, from one start, in float64 on one thread."""

from __future__ import annotations

import warnings

import timing  # first: it sets the number of threads
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Rival

from likely.noise import Noise
from likely.registry import build
from likely.space import Reals

N, D, K, STEPS, FLOOR = 4096, 16, 32, 10, 1e-6
KIND = {"diagonal": "diag", "full": "full", "tied": "tied"}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    noise = Noise(0, N)
    centre = 3 * Noise(1, K).normal((D,), dtype=torch.float64)
    x = centre[noise.integers(K)] + noise.normal((D,), dtype=torch.float64)
    start = x[:K].clone()  # means; unit covariances, even weights
    array = x.numpy()
    for covariance, kind in KIND.items():
        ours = build("mixture", Reals((D,)), components=K, covariance=covariance, variance_floor=FLOOR).double()
        precision = {"diag": torch.ones(K, D), "full": torch.eye(D).expand(K, D, D), "tied": torch.eye(D)}[kind].numpy()

        def fit(ours: torch.nn.Module = ours) -> None:
            with torch.no_grad():
                for parameter in ours.parameters():
                    parameter.zero_()
                ours.mean.copy_(start)
            for _ in range(STEPS):
                ours.absorb(ours.statistics(x))
            ours.statistics(x)  # the rival ends with another E-step

        def rival_fit(kind: str = kind, precision=precision) -> Rival:
            rival = Rival(
                K,
                covariance_type=kind,
                tol=0,
                max_iter=STEPS,
                reg_covar=FLOOR,
                weights_init=[1 / K] * K,
                means_init=start.numpy(),
                precisions_init=precision,
            )
            return rival.fit(array)

        fitted = rival_fit()
        cases = {
            f"EM, {STEPS} steps": (fit, rival_fit),
            "log p": (
                torch.no_grad()(lambda ours=ours: ours.log_prob(x)),
                lambda rival=fitted: rival.score_samples(array),
            ),
            "sample": (
                torch.no_grad()(lambda ours=ours: ours.sample(N, noise=Noise(0, N))),
                lambda rival=fitted: rival.sample(N),
            ),
        }
        fit()
        apart = float((ours.log_prob(x).detach() - torch.from_numpy(fitted.score_samples(array))).abs().max())
        for case, (mine, other) in cases.items():
            times = timing.race({"ours": mine, "rival": other}, 9 if case[0] == "E" else 25)
            size = {"rows": N, "dims": D, "components": K, "covariance": covariance, "max_difference_nats": apart}
            row = timing.against("mixture_vs_sklearn", f"{covariance}: {case}", "scikit-learn GaussianMixture", times)
            timing.record(timing.RESULTS / "mixture.jsonl", row | size, ("scikit-learn",))


if __name__ == "__main__":
    main()
