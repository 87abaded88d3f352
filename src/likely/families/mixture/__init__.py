"""Mixtures, fitted by EM: p(x given y) = sum_k pi[y, k] p(x given y, k).

    over Integers   p(x given y, k) = prod_d Categorical(x_d; theta[y, k, d])
    over Reals      p(x given y, k) = Normal(x; mu[y, k], Sigma[y, k]), Sigma diagonal, full, or tied (one for all)
    over a Table    p(x given y, k) = prod over the seen cells of a categorical or a normal each

Without a condition there is one class. Every class has `components` components of its own; "tied" shares the
covariance between all components of all classes, so that one component with labels is linear discriminant analysis,
with "full" quadratic discriminant analysis, and with "diagonal" naive Bayes. Missing cells are summed out exactly, in
training as well, which is right when cells are missing at random.

Two priors keep the M-step away from degenerate parameters: `pseudo_count` is added to the count of every level, and
`variance_floor` times the data's own variance of a dimension to every variance of it. A component that no row belongs
to keeps its parameters and a weight near zero. All arithmetic is done in float64, whatever the parameters' type.

"Maximum likelihood from incomplete data via the EM algorithm" (Dempster, Laird and Rubin, 1977);
"k-means++: the advantages of careful seeding" (Arthur and Vassilvitskii, 2007);
conditionals of a Gaussian mixture: "Supervised learning from incomplete data via an EM approach" (Ghahramani and
Jordan, 1994); draws from a conditioned Gaussian by correcting unconditional ones (Matheron's rule): "Conditional
random fields" in "Mining Geostatistics" (Journel and Huijbregts, 1978).
"""

from __future__ import annotations

from typing import Any

from likely.config.mixture import Mixture as Config
from likely.families import Tiny
from likely.families.mixture.base import Mixture
from likely.families.mixture.gaussian import GaussianMixture
from likely.families.mixture.products import CategoricalMixture, DiagonalMixture, TableMixture
from likely.space import Column, Integers, Reals, Space, Table

__all__ = ["TINY", "CategoricalMixture", "DiagonalMixture", "GaussianMixture", "Mixture", "TableMixture", "model"]


def model(config: Config, space: Space, condition: Space | None, build: Any) -> Mixture:
    """The mixture over `space`; raises `ValueError` where covariance or condition does not fit."""
    if condition is not None and not (isinstance(condition, Integers) and condition.shape == ()):
        raise ValueError(f"condition is {condition}; a mixture accepts labels, Integers((), classes), or None")
    if isinstance(space, Reals):
        kind = DiagonalMixture if config.covariance == "diagonal" else GaussianMixture
        return kind(config, space, condition)
    if config.covariance != "diagonal":
        raise ValueError(f"covariance is {config.covariance!r}; a mixture over {space} accepts 'diagonal'")
    return (CategoricalMixture if isinstance(space, Integers) else TableMixture)(config, space, condition)


_TABLE = Table(
    (
        Column("a", None, missing=True),
        Column("b", ("no", "yes", "maybe"), missing=True),
        Column("c"),
        Column("d", ("left", "right")),
    )
)

TINY: dict[str, Tiny] = {
    "categorical": Tiny(Config(components=3), Integers((2, 3), 2)),
    "categorical-labels": Tiny(Config(components=2), Integers((4,), 3), Integers((), 3)),
    "diagonal": Tiny(Config(components=3), Reals((2,))),
    "diagonal-labels": Tiny(Config(components=2), Reals((2,)), Integers((), 2)),
    "full": Tiny(Config(components=2, covariance="full"), Reals((3,))),
    "full-labels": Tiny(Config(components=2, covariance="full"), Reals((2,)), Integers((), 2)),
    "tied": Tiny(Config(components=3, covariance="tied"), Reals((2,))),
    "tied-labels": Tiny(Config(components=1, covariance="tied"), Reals((2,)), Integers((), 3)),
    "table": Tiny(Config(components=2), _TABLE),
    "table-labels": Tiny(Config(components=1), _TABLE, Integers((), 2)),
}
