"""What can be chosen about a mixture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from likely.config.base import FamilyConfig


class Mixture(FamilyConfig):
    """A mixture of products of categoricals and normals, or of Gaussians, fitted by EM."""

    family: Literal["mixture"] = "mixture"
    components: Annotated[int, Field(ge=1)] = 16
    """Components; with labels, of each class. One component and labels make naive Bayes or a discriminant analysis."""
    covariance: Literal["diagonal", "full", "tied"] = "diagonal"
    """How numbers depend on each other within a component: not at all; freely; alike in all components and classes.
    Integers and tables accept "diagonal" alone."""
    pseudo_count: Annotated[float, Field(gt=0)] = 0.1
    """Rows of each level that every categorical is taken to have seen beforehand (a symmetric Dirichlet prior)."""
    variance_floor: Annotated[float, Field(gt=0)] = 1e-3
    """Added to every variance, as a fraction of that dimension's variance in the data given to `prepare`. Full
    covariances want about 0.1 where a component has fewer rows than dimensions."""


PRESETS: dict[str, Mixture] = {
    "default": Mixture(),
    "small": Mixture(components=4),
    "large": Mixture(components=64),
    "full": Mixture(components=8, covariance="full", variance_floor=0.01),
    "tied": Mixture(components=8, covariance="tied"),
    "naive-bayes": Mixture(components=1),
    "linear-discriminant": Mixture(components=1, covariance="tied"),
    "quadratic-discriminant": Mixture(components=1, covariance="full", variance_floor=0.01),
}
