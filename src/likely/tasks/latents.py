"""Walks among codes: from one row to another, and along the directions in which codes differ most.

A code z of x is the posterior's mean for a `Latent` model, and `encode(x)` for an `Invertible` one; back again go the
likelihood's mean, rounded to the space, and `decode(z)`. Between two codes the way is a great circle's, with the length
changing evenly: codes of a normal prior in many dimensions all have about one length, and a straight line would leave
that shell ("Sampling generative networks", White, 2016). Directions are the principal axes of training rows' codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likely.logprob import BATCH, check_condition, device_of, scoring
from likely.tasks.denoise import rounded
from likely.verbs import Invertible, Latent, has, name_of, require


@dataclass(frozen=True)
class Axes:
    """The `mean` (*code) of codes, orthonormal `directions` (k, *code), the codes' standard deviation along each (k,),
    and the share (k,) of the codes' variance that it holds."""

    mean: Tensor
    directions: Tensor
    deviations: Tensor
    shares: Tensor

    def at(self, places: Tensor) -> Tensor:
        """Codes (n, *code) at (n, m) deviations from the mean along the first m directions."""
        moved = (places.to(self.directions) * self.deviations[: places.shape[1]]) @ self.directions[
            : places.shape[1]
        ].flatten(1)
        return self.mean + moved.reshape(len(places), *self.mean.shape)

    def places(self, z: Tensor) -> Tensor:
        """Where codes (n, *code) are along all directions, in deviations, (n, k)."""
        return (z.to(self.mean) - self.mean).flatten(1) @ self.directions.flatten(1).T / self.deviations


def has_codes(model: Any) -> bool:
    """Whether rows of this model have codes to walk among."""
    return has(model, Latent) or has(model, Invertible)


class Codes:
    """A model's codes, in float64. Raises `TypeError` for a model without them, or whose codes are integers."""

    def __init__(self, model: Any) -> None:
        require(model, (Latent, Invertible), "a walk among codes")
        self.model, self.space = model, model.space

    def encode(self, x: Any, y: Any = None) -> Tensor:
        """Codes (n, *code) of rows x (n, *shape)."""
        x = self.space.check(x, "x")
        y = check_condition(self.model, y, self.space.len(x))
        latent = has(self.model, Latent)
        z = self._batched(lambda x, y: self.model.posterior(x, y).mean if latent else self.model.encode(x, y), x, y)
        if not z.dtype.is_floating_point:
            raise TypeError(f"{name_of(self.model)} has integers for codes; a walk needs codes of real numbers")
        return z.double()

    def decode(self, z: Tensor, y: Any = None) -> Any:
        """Values of the space (n, *shape) from codes: what they most plainly stand for, without noise."""
        y = check_condition(self.model, y, len(z))
        latent = has(self.model, Latent)

        def back(z: Tensor, y: Any) -> Tensor:
            return self.model.likelihood(z, y).mean if latent else self.model.decode(z, y)

        kind = next((p.dtype for p in self.model.parameters() if p.dtype.is_floating_point), torch.get_default_dtype())
        return rounded(self._batched(back, z.to(kind), y), self.space)

    def axes(self, x: Any, y: Any = None, count: int = 6) -> Axes:
        """The `count` directions in which the codes of rows x differ most."""
        from sklearn.decomposition import PCA

        z = self.encode(x, y)
        most = min(len(z) - 1, z[0].numel())
        if not 1 <= count <= most:
            raise ValueError(f"count is {count}; accepts 1 .. {most} with {len(z)} rows and {z[0].numel()} dimensions")
        found = PCA(count, svd_solver="full").fit(z.flatten(1).numpy())
        shape, tensor = z.shape[1:], lambda values: torch.tensor(values, dtype=torch.float64)
        directions = tensor(found.components_).reshape(count, *shape)
        deviations = tensor(found.explained_variance_).clamp(min=1e-30).sqrt()
        return Axes(tensor(found.mean_).reshape(shape), directions, deviations, tensor(found.explained_variance_ratio_))

    def between(self, a: Any, b: Any, steps: int = 8, y: Any = None) -> Any:
        """`steps` values of the space on the way from row a (1, *shape) to row b, both decoded codes included."""
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            raise ValueError(f"steps is {steps!r}; accepts the number of pictures on the way, 2 or more")
        z = self.encode(self.space.concat([a, b]), y)
        way = great_circle(z[0], z[1], torch.linspace(0, 1, steps, dtype=torch.float64))
        return self.decode(way, None if y is None else y[:1].expand(steps))

    def _batched(self, call: Any, rows: Tensor, y: Any) -> Tensor:
        """call on canonical batches, as all scores are made: what a row gets does not depend on the others."""
        device, done = device_of(self.model), []
        with scoring(self.model):
            for start in range(0, max(len(rows), 1), BATCH):
                here = rows[start : start + BATCH]
                full = torch.cat([here, here.new_zeros(BATCH - len(here), *here.shape[1:])]).to(device)
                given = None
                if y is not None:
                    given = self.model.condition.pad(y[start : start + BATCH], BATCH).to(device)
                done.append(call(full, given)[: len(here)].cpu())
        return torch.cat(done)


def great_circle(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points (n, *shape) at the shares t (n,) of the way from a to b: the direction along a great circle, the length
    evenly. Where a or b is 0, or both point the same or the opposite way, a straight line."""
    p, q = a.flatten(), b.flatten()
    sizes = p.norm(), q.norm()
    t = t[:, None].to(p)
    line = (1 - t) * p + t * q
    if min(sizes) > 0:
        angle = torch.dot(p / sizes[0], q / sizes[1]).clamp(-1, 1).acos()
        if float(angle.sin()) > 1e-6:
            turned = (((1 - t) * angle).sin() * p / sizes[0] + (t * angle).sin() * q / sizes[1]) / angle.sin()
            line = turned * ((1 - t) * sizes[0] + t * sizes[1])
    return line.reshape(len(t), *a.shape)
