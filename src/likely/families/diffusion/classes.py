"""The diffusion model of a joint, p(x, y) = p(y) p(x given y): a diffusion classifier that knows its p(x).

One network serves all classes: it is told the label y, and bounds log p(x given y) by the terms of
`likely.families.diffusion.model`. p(y) are the class frequencies of the training data. Which class explains x best is
then a comparison of bounds under the *same* times and noises, whose common part cancels
("Your Diffusion Model is Secretly a Zero-Shot Classifier", Li, Prabhudesai, Duggal, Brown, Pathak, 2023).

p(x) = sum_y p(y) p(x given y) is harder than it looks: a log-sum-exp of noisy bounds is no bound, for log-sum-exp is
convex and its expectation rises with the noise. See `elbo`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from likely.config.diffusion import Diffusion as Config
from likely.elimination import bound_of_mixture
from likely.families.diffusion.model import Process
from likely.noise import Noise
from likely.space import Integers, Reals


class ClassDiffusion(Process):
    """p(y) and a diffusion model of x given y. Verbs: Trainable, Samples, Bounded, Denoiser, JointBound.

    Training rows with y = -1 have no label: the network learns them as it learns rows whose label is hidden.
    """

    condition: Integers
    unlabelled = True
    some_classes = True
    draws = 32
    """Draws a row that telling classes apart takes, where nothing else is asked for."""

    def __init__(
        self,
        config: Config,
        space: Integers | Reals,
        condition: Integers,
        net: nn.Module,
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__(config, space, condition, net, reader)
        self.register_buffer("logits", torch.zeros(condition.levels))  # of p(y); no gradient reaches it
        self.logits: Tensor

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Centre and scale of reals, and p(y): the class frequencies, one more of each."""
        super().prepare(x, y, noise=noise)
        if y is None:
            raise ValueError("y is None; a joint p(x, y) learns from labels")
        count = torch.bincount(y[y >= 0], minlength=self.condition.levels).to(self.logits) + 1
        self.logits.copy_((count / count.sum()).log())

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n draws of x; without y the class is drawn from p(y) first."""
        if y is None:
            y = (self.logits + noise.gumbel((self.condition.levels,), dtype=self.logits.dtype)).argmax(1)
        return super().sample(n, y, noise=noise)

    def elbo(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """A bound on log p(x given y), or on log p(x) of the mixture of all classes, (B * k,) in nats.

        Without y: let b(y) be one draw of the bound on log p(x, y). For every distribution r over classes that does not
        depend on b's noise,

            E_{y ~ r} E[b(y) - log r(y)] <= E_{y ~ r}[log p(x, y) - log r(y)] <= log p(x),

        the second step being Jensen's inequality, an equality where r is the posterior. So r is made of the k draws of
        one set, r = softmax of the mean of b, and judged on a second set, of later calls of `noise` and hence
        independent of the first. (Noise shared by both would let r pick the classes that were lucky: a bound no more.)
        Each draw of the second set takes one class y ~ r, so the whole costs k (K + 1) looks at the network.
        """
        if y is None:
            return self.log_joint(x, noise=noise)[0]
        return -self.elbo_terms(x, y, noise=noise).total

    def log_joint_bound(self, x: Tensor, *, noise: Noise, among: Tensor | None = None) -> Tensor:
        """A bound on log p(x, y) for every y under the same times and noises, (B * k, K) in nats.

        Only the classes `among` (B, m) of each row where given: (B * k, m).
        """
        rows = torch.arange(x.shape[0], device=x.device)
        if among is None:
            among = torch.arange(self.condition.levels, device=x.device).expand(len(rows), -1)
        bounds = []
        for label in among.unbind(1):
            same = noise.at(rows)
            bounds.append(self.elbo(x, label, noise=same))
        noise.skip_to(same)
        return torch.stack(bounds, 1) + self.logits.log_softmax(0)[noise.expand(among)]

    def log_joint(self, x: Tensor, *, noise: Noise) -> tuple[Tensor, Tensor]:
        """`elbo` of x, (B * k,), and `log_joint_bound`, (B * k, K), in one pass."""
        first = self.log_joint_bound(x, noise=noise)
        log_r = first.reshape(x.shape[0], noise.draws, -1).mean(1).log_softmax(1)
        return bound_of_mixture(self, x, log_r, noise=noise), first
