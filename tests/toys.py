"""Small right models, one for each group of verbs, for tests that need a model and no family."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.noise import Noise
from likely.observation import Conditional, observation
from likely.space import Integers, Reals


class Model(nn.Module):
    """What every toy has."""

    players = ("model",)
    condition: Any = None
    config: Any = None

    def loss(self, x: Any, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        return -self.log_prob(x, y).mean()


def drawn(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(Noise(seed, 1).normal(shape, dtype=torch.float32)[0])


class Independent(Model):
    """Exact, Samples: every site a categorical of its own, given a label where there is one."""

    def __init__(self, space: Integers, condition: Integers | None = None) -> None:
        super().__init__()
        self.space, self.condition = space, condition
        self.logits = drawn(1 if condition is None else condition.levels, space.dims, space.levels)

    def _log(self, n: int, y: Any) -> Tensor:
        return (self.logits.expand(n, -1, -1) if y is None else self.logits[y]).log_softmax(2)

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        flat = x.reshape(len(x), self.space.dims, 1).long()
        return self._log(len(x), y).gather(2, flat).sum((1, 2))

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        log = self._log(n, y)
        return (log + noise.gumbel(log.shape[1:], dtype=log.dtype)).argmax(2).reshape(n, *self.space.shape)


class Chain(Model):
    """Exact, Samples, Ordered: each bit's logit is linear in the earlier bits. Two levels."""

    def __init__(self, space: Integers) -> None:
        super().__init__()
        self.space, self.sites = space, space.dims
        self.weight, self.bias = drawn(space.dims, space.dims), drawn(space.dims, seed=1)
        self.observation = observation("bernoulli", Integers((space.dims,), 2))

    def _logits(self, bits: Tensor) -> Tensor:
        return bits @ self.weight.tril(-1).T + self.bias

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        return self.log_prob_sites(x).sum(1)

    def log_prob_sites(self, x: Tensor, y: Any = None) -> Tensor:
        bits = x.flatten(1).to(self.bias.dtype)
        return F.logsigmoid(self._logits(bits) * (2 * bits - 1))

    def to_sites(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 1, self.sites)

    def from_sites(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.space.shape)

    def start(self, n: int, y: Any = None) -> tuple[Any, Any]:
        return (0, self.bias.expand(n, -1)), Conditional(self.observation, self.bias[:1].expand(n, 1))

    def step(self, state: Any, x_i: Tensor) -> tuple[Any, Any]:
        i, logits = state
        logits = logits + x_i.to(logits.dtype) * self.weight.tril(-1)[:, i]
        last = i + 1 == self.sites
        return (i + 1, logits), None if last else Conditional(self.observation, logits[:, i + 1 : i + 2])

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        u = noise.uniform((self.sites, 1), dtype=self.bias.dtype)
        state, each = self.start(n)
        values = []
        for i in range(self.sites):
            values.append(each.sample(u[:, i]))
            state, each = self.step(state, values[-1])
        return torch.cat(values, 1).reshape(n, *self.space.shape)


class Affine(Model):
    """Exact, Samples, Invertible: z = (x - shift(x_before, y)) exp(-scale(x_before, y)), z standard normal; 2-D."""

    def __init__(self, condition: Integers | None = None) -> None:
        super().__init__()
        self.space, self.condition = Reals((2,)), condition
        classes = 1 if condition is None else condition.levels
        self.first, self.second, self.inner = drawn(classes, 2), drawn(classes, 2, 3, seed=1), drawn(3, seed=2)

    def _of(self, first: Tensor, y: Any) -> tuple[Tensor, ...]:
        label = torch.zeros(len(first), dtype=torch.int64) if y is None else y
        hidden = torch.tanh(first[:, None] + self.inner)
        out = (self.second[label] * hidden[:, None]).sum(2)
        return self.first[label, 0], self.first[label, 1].tanh(), out[:, 0], out[:, 1].tanh()

    def encode(self, x: Tensor, y: Any = None) -> Tensor:
        shift, scale, below, inner = self._of(x[:, 0], y)
        return torch.stack([(x[:, 0] - shift) * (-scale).exp(), (x[:, 1] - below) * (-inner).exp()], 1)

    def decode(self, z: Tensor, y: Any = None) -> Tensor:
        shift, scale, _, _ = self._of(z[:, 0], y)
        first = z[:, 0] * scale.exp() + shift
        _, _, below, inner = self._of(first, y)
        return torch.stack([first, z[:, 1] * inner.exp() + below], 1)

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        _, scale, _, inner = self._of(x[:, 0], y)
        z = self.encode(x, y)
        return -0.5 * z.square().sum(1) - math.log(2 * math.pi) - scale - inner

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        return self.decode(noise.normal((2,), dtype=self.inner.dtype), y)


class Switch(Model):
    """Weighted, Bounded, Samples: a hidden state of three, bits independent given it, an amortised posterior."""

    def __init__(self, space: Integers) -> None:
        super().__init__()
        self.space = space
        self.prior_logits, self.bits = drawn(3), drawn(3, space.dims, seed=1)
        self.encoder, self.bias = drawn(3, space.dims, seed=2), drawn(3, seed=3)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z given x) and log p(x, z), (B, 3)."""
        bits = x.flatten(1).to(self.bias.dtype)
        log_q = (bits @ self.encoder.T + self.bias).log_softmax(1)
        like = F.logsigmoid(self.bits * (2 * bits[:, None] - 1)).sum(2)
        return log_q, like + self.prior_logits.log_softmax(0)

    def log_weight(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        log_q, log_joint = (noise.expand(part) for part in self._parts(x))
        z = (log_q + noise.gumbel((3,), dtype=log_q.dtype)).argmax(1, keepdim=True)
        return (log_joint - log_q).gather(1, z)[:, 0]

    def elbo(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        """The KL in closed form, the reconstruction by one draw."""
        log_q, log_joint = (noise.expand(part) for part in self._parts(x))
        log_z = self.prior_logits.log_softmax(0)
        z = (log_q + noise.gumbel((3,), dtype=log_q.dtype)).argmax(1, keepdim=True)
        return (log_joint - log_z).gather(1, z)[:, 0] - (log_q.exp() * (log_q - log_z)).sum(1)

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        """The expectation over z is a sum here, so that its gradient is exact."""
        log_q, log_joint = self._parts(x)
        return (log_q.exp() * (log_q - log_joint)).sum(1).mean()

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        z = (self.prior_logits + noise.gumbel((3,), dtype=self.bias.dtype)).argmax(1)
        u = noise.uniform((self.space.dims,), dtype=self.bias.dtype)
        return (u < self.bits[z].sigmoid()).long().reshape(n, *self.space.shape)


class Gauss(nn.Module):
    """A normal with mean and log-scale (B, d) as the `Latent` verbs hand it out."""

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        super().__init__()
        self.mean, self.log_scale = mean, log_scale

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.mean) * (-self.log_scale).exp()
        return (-0.5 * z.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, noise: Noise) -> Tensor:
        z = noise.normal(self.mean.shape[1:], dtype=self.mean.dtype)
        return noise.expand(self.mean.expand(noise.count // noise.draws, -1)) + z * self.log_scale.exp()


class LinearGaussian(Model):
    """Weighted, Bounded, Latent, Samples: z standard normal in R, x = W z + b + s e in R^2, a linear encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Reals((2,))
        self.weight, self.bias, self.log_s = drawn(2, 1), drawn(2, seed=1), nn.Parameter(torch.tensor(-0.3))
        self.encoder, self.centre, self.log_q = drawn(1, 2, seed=2), drawn(1, seed=3), nn.Parameter(torch.tensor(-0.5))

    def prior(self, y: Any = None) -> Gauss:
        return Gauss(self.weight.new_zeros(1, 1), self.weight.new_zeros(1, 1))

    def posterior(self, x: Tensor, y: Any = None) -> Gauss:
        mean = x.to(self.bias.dtype) @ self.encoder.T + self.centre
        return Gauss(mean, self.log_q.expand_as(mean))

    def likelihood(self, z: Tensor, y: Any = None) -> Gauss:
        mean = z @ self.weight.T + self.bias
        return Gauss(mean, self.log_s.expand_as(mean))

    def exact_posterior(self) -> None:
        """Set the encoder to p(z given x) (Probabilistic principal component analysis, Tipping and Bishop, 1999)."""
        with torch.no_grad():
            precision = 1 + self.weight.square().sum() * (-2 * self.log_s).exp()
            self.encoder.copy_(self.weight.T * (-2 * self.log_s).exp() / precision)
            self.centre.copy_(-self.encoder @ self.bias)
            self.log_q.copy_(-0.5 * precision.log())

    def evidence(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + (2 * self.log_s).exp() * torch.eye(2, dtype=x.dtype)
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)

    def _draw(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Gauss]:
        q = self.posterior(x)
        q = Gauss(noise.expand(q.mean), noise.expand(q.log_scale))
        z = q.mean + noise.normal((1,), dtype=self.bias.dtype) * q.log_scale.exp()
        return z, noise.expand(x.to(self.bias.dtype)), q

    def log_weight(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        z, x, q = self._draw(x, noise)
        return self.likelihood(z).log_prob(x) + self.prior().log_prob(z) - q.log_prob(z)

    def elbo(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        z, x, q = self._draw(x, noise)
        kl = 0.5 * ((2 * q.log_scale).exp() + q.mean.square() - 1 - 2 * q.log_scale).sum(1)
        return self.likelihood(z).log_prob(x) - kl

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        return -self.elbo(x, noise=noise).mean()

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        z = noise.normal((1,), dtype=self.bias.dtype)
        return self.likelihood(z).mean + noise.normal((2,), dtype=self.bias.dtype) * self.log_s.exp()


class Classes(Model):
    """Exact, Joint, Samples: p(y) p(x given y) over `Independent` or `Affine` parts."""

    def __init__(self, part: Model) -> None:
        super().__init__()
        self.part, self.space, self.condition = part, part.space, part.condition
        self.logits = drawn(self.condition.levels, seed=9)

    def _every(self, x: Tensor) -> Tensor:
        each = [self.part.log_prob(x, torch.full((len(x),), c)) for c in range(len(self.logits))]
        return torch.stack(each, 1) + self.logits.log_softmax(0)

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        return self._every(x).logsumexp(1) if y is None else self.part.log_prob(x, y)

    def log_posterior(self, x: Tensor) -> Tensor:
        return self._every(x).log_softmax(1)

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        return -self._every(x).gather(1, y[:, None]).mean()

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        picked = (self.logits + noise.gumbel(self.logits.shape, dtype=self.logits.dtype)).argmax(1)
        return self.part.sample(n, picked if y is None else y, noise=noise)


class Normal(Model):
    """Exact, Marginal, Samples: a normal in R^d with a full covariance."""

    def __init__(self, d: int = 2) -> None:
        super().__init__()
        self.space = Reals((d,))
        self.mean, self.lower = drawn(d), drawn(d, d, seed=1)

    @property
    def _factor(self) -> Tensor:
        return self.lower.tril(-1) + self.lower.diagonal().tanh().exp().diag()

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        return self.log_marginal(x, torch.ones_like(x, dtype=torch.bool))

    def log_marginal(self, x: Tensor, seen: Tensor, y: Any = None) -> Tensor:
        covariance = self._factor @ self._factor.T
        eye = torch.eye(len(self.mean), dtype=x.dtype)
        both = seen[:, :, None] & seen[:, None, :]
        block = torch.where(both, covariance, eye)  # unseen coordinates: independent, worth nothing below
        gap = torch.where(seen, x - self.mean, 0)
        inner = torch.linalg.solve(block, gap[..., None])[..., 0]
        seen_dims = seen.sum(1).to(x.dtype)
        return -0.5 * (gap * inner).sum(1) - 0.5 * torch.logdet(block) - 0.5 * seen_dims * math.log(2 * math.pi)

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        return noise.normal(self.mean.shape, dtype=self.mean.dtype) @ self._factor.T + self.mean

    def sample_given(self, n: int, x: Tensor, seen: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        """Matheron's rule: a joint draw, corrected by its error in the seen cells."""
        covariance = self._factor @ self._factor.T
        eye = torch.eye(len(self.mean), dtype=x.dtype)
        x, seen = noise.expand(x), noise.expand(seen)
        free = noise.normal(self.mean.shape, dtype=self.mean.dtype) @ self._factor.T + self.mean
        block = torch.where(seen[:, :, None] & seen[:, None, :], covariance, eye)
        gap = torch.where(seen, x - free, 0)
        moved = free + torch.linalg.solve(block, gap[..., None])[..., 0] @ covariance
        return torch.where(seen, x, moved)


class OnlySamples(Model):
    """Samples: what a GAN can promise, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.weight = Reals((2,)), drawn(2, 2)

    def loss(self, x: Any, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        return self.weight.square().mean()

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        return noise.normal((2,), dtype=self.weight.dtype) @ self.weight.T


BITS = Integers((2, 3), 2)
LABELS = Integers((), 2)

TOYS = {
    "independent": lambda: Independent(Integers((2, 2), 3)),
    "independent, labels": lambda: Independent(BITS, LABELS),
    "chain": lambda: Chain(BITS),
    "affine": Affine,
    "affine, labels": lambda: Affine(LABELS),
    "switch": lambda: Switch(BITS),
    "linear gaussian": LinearGaussian,
    "classes of bits": lambda: Classes(Independent(BITS, LABELS)),
    "classes of reals": lambda: Classes(Affine(LABELS)),
    "normal": Normal,
    "normal in 5-D": lambda: Normal(5),
    "only samples": OnlySamples,
}


def shaken(model: nn.Module, seed: int = 0, size: float = 0.3) -> nn.Module:
    """The model with noise on every parameter: nothing is zero or the identity any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
    return model
