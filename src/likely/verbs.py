"""What a model can be asked: one small protocol a verb.

A model has a verb only if it can keep the promise in the verb's docstring; a missing capability is a missing
method. `verb(x)` concerns p(x), `verb(x, y)` concerns p(x given y), and only `energy(x, y)` speaks of p(x, y). x is a
checked value of `model.space` with B rows, y a checked value of `model.condition` or None. Where a verb takes
`noise` with k draws a row, it answers with B * k values, the draws of one row adjacent.

A model may also have `views`, a mapping from names to functions without arguments that make other readings of it,
models of their own (a diffusion model's probability flow): see `view`.

A protocol check sees only that the methods are there; `likely.conformance` is what gives it meaning.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from likely.noise import Noise


@runtime_checkable
class Trainable(Protocol):
    """Learns by gradient; `players` is ("model",), or two names for an adversarial pair.

    A model whose loss is something else than minus a likelihood in nats, or a bound of it, has an attribute
    `surrogate = True`: progress then shows no bits. One whose gradients pass straight through a rounding has
    `straight_through = True`: the gradient of what stands behind a rounding is then a substitute for one that is zero.
    One whose gradient is that of its loss only in expectation over the noise (the Neumann series of a residual flow)
    has `gradient_in_expectation = True`. One that learns also from rows without a label, y = -1, has
    `unlabelled = True`. One that makes its own target and holds it still (stop-gradient) has `self_taught = True`, and
    its `loss` takes a `teacher`, the model whose targets they are, itself by default.
    """

    players: tuple[str, ...]

    def loss(self, x: Any, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        """A differentiable scalar, in nats per row where the loss is a likelihood."""
        ...


@runtime_checkable
class ClosedForm(Protocol):
    """Learns by steps of EM, or by its closed form in one."""

    def statistics(self, x: Any, y: Any = None) -> dict[str, Tensor]:
        """Sufficient statistics: they add over batches and ranks; "log_prob" and "count" are among them."""
        ...

    def absorb(self, statistics: dict[str, Tensor]) -> None:
        """The M-step: parameters from summed statistics."""
        ...


@runtime_checkable
class Samples(Protocol):
    """Draws in the raw space."""

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Any:
        """n values of the space; `noise` has n rows."""
        ...


@runtime_checkable
class Exact(Protocol):
    """A normalised, deterministic density or mass."""

    def log_prob(self, x: Any, y: Any = None) -> Tensor:
        """log p, (B,) in nats."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A lower bound whose expectation is at most log p: the mean of k draws is a bound again."""

    def elbo(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """One draw of the bound, (B * k,) in nats."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """Importance weights with E[exp log_weight] = p(x): the log-mean-exp of k draws is a tighter bound (IWAE)."""

    def log_weight(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """One draw of the log-weight, (B * k,) in nats."""
        ...


@runtime_checkable
class Estimated(Protocol):
    """An unbiased or consistent estimate of log p: on neither side of it.

    `unbiased` says which: True where the expectation over the noise is log p itself (Russian roulette), False where it
    only comes near (a solver's tolerance, a Markov chain's length).
    """

    unbiased: bool

    def log_prob_estimate(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """One draw of the estimate, (B * k,) in nats."""
        ...


@runtime_checkable
class Unnormalised(Protocol):
    """-log p up to one constant, the same for every x and y."""

    def energy(self, x: Any, y: Any = None) -> Tensor:
        """(B,) in nats; with y it concerns p(x, y)."""
        ...


@runtime_checkable
class Latent(Protocol):
    """Distributions over z, z given x, x given z."""

    def prior(self, y: Any = None) -> Any:
        """p(z), with `log_prob(z)` and `sample(noise)`."""
        ...

    def posterior(self, x: Any, y: Any = None) -> Any:
        """q(z given x), a batch of B."""
        ...

    def likelihood(self, z: Tensor, y: Any = None) -> Any:
        """p(x given z), with `log_prob(x)`, `mean` and `sample(noise)`."""
        ...


@runtime_checkable
class Invertible(Protocol):
    """A bijection: decode(encode(x)) is x."""

    def encode(self, x: Any, y: Any = None) -> Any:
        """x to z."""
        ...

    def decode(self, z: Any, y: Any = None) -> Any:
        """z to x."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """One site after the other, with a cache: the sampler and the decoder loop over the same step."""

    sites: int

    def start(self, n: int, y: Any = None) -> tuple[Any, Any]:
        """The state before the first site, and the first site's `Conditional`."""
        ...

    def step(self, state: Any, x_i: Tensor) -> tuple[Any, Any]:
        """Put in the value of a site; the new state and the next site's `Conditional` (None after the last)."""
        ...

    def to_sites(self, x: Any) -> Tensor:
        """(B, *shape) to (B, C, sites), the order in which `step` takes them."""
        ...

    def from_sites(self, x: Tensor) -> Any:
        """(B, C, sites) to (B, *shape)."""
        ...


@runtime_checkable
class Marginal(Protocol):
    """Any marginal and any conditional, exactly."""

    def log_marginal(self, x: Any, seen: Tensor, y: Any = None) -> Tensor:
        """log p of the cells marked in `seen` (B, *shape), the others summed out; (B,) in nats."""
        ...

    def sample_given(self, n: int, x: Any, seen: Tensor, y: Any = None, *, noise: Noise) -> Any:
        """n draws for each row of x that agree with its seen cells; B * n values, `noise` has n draws a row."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """The posterior mean of x_0, scaled, for x_t = alpha x_0 + sigma eps, alpha^2 = sigmoid(log_snr), alpha^2 + sigma^2
    = 1.

    What tasks need besides: `scaled(x)` and `unscaled(x_hat)`, an affine map with one scale between raw rows and x_0,
    and `log_snr_range`, the (lowest, highest) log-SNR that it was made for.
    """

    def denoise(self, x_t: Tensor, log_snr: Tensor, y: Any = None) -> Tensor:
        """E[x_0 given x_t], (B, *shape)."""
        ...


@runtime_checkable
class Joint(Protocol):
    """Exact class posterior.

    A joint without a normalised p(x given y) has an attribute `given_y = False`: its other verbs take no y.
    """

    def log_posterior(self, x: Any) -> Tensor:
        """log p(y given x) for every y, (B, K) in nats."""
        ...


@runtime_checkable
class JointBound(Protocol):
    """A bound for every class; a posterior made of it is an estimate.

    A model whose bounds want many draws to tell classes apart says how many in an attribute `draws`. One that draws the
    same noise for every class of a row, and takes `among` (B, m), the classes to ask for in each row, answering
    (B * k, m), has `some_classes = True`: hopeless classes can then be dropped early.
    """

    def log_joint_bound(self, x: Any, *, noise: Noise) -> Tensor:
        """One draw of a lower bound on log p(x, y) for every y, (B * k, K) in nats."""
        ...


@runtime_checkable
class Lossy(Protocol):
    """Pictures of any height and width as rounded latents: fewer bits, and not the same pictures.

    There is no log p(x) in it: bits are those of the latents. `lams` are the weights of the squared error (of numbers
    on the scale 0 .. 255, a mean over pixels and channels) against bits per pixel, one for each rate 1, 2, ..., rising;
    anything between two rates is a rate too. `multiple` is what heights and widths are filled up to inside.
    """

    lams: tuple[float, ...]
    multiple: int

    def latents(self, x: Tensor, rate: Tensor) -> list[Tensor]:
        """The numbers to be rounded, in groups (B, C, S), of x (B, C, H, W) at rates (B,)."""
        ...

    def groups(self, height: int, width: int, rate: Tensor) -> Any:
        """A program for B pictures: yields the `Rounded` of each group, takes its values, returns all of them."""
        ...

    def reconstruct(self, y: Tensor, height: int, width: int, rate: Tensor) -> Tensor:
        """Pictures (B, C, H, W) on the scale 0 .. 255, not yet rounded, from what `groups` returned."""
        ...

    def rate_distortion(self, x: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of the rounded latents under the model, and the mean squared error of the picture, (B,) each."""
        ...


VERBS: dict[str, Any] = {
    verb.__name__: verb
    for verb in (
        Trainable,
        ClosedForm,
        Samples,
        Exact,
        Bounded,
        Weighted,
        Estimated,
        Unnormalised,
        Latent,
        Invertible,
        Ordered,
        Marginal,
        Denoiser,
        Joint,
        JointBound,
        Lossy,
    )
}


_METHODS = {
    verb: [name for name in vars(verb) if name[0] != "_" and callable(vars(verb)[name])] for verb in VERBS.values()
}


def verbs(model: Any) -> tuple[str, ...]:
    """Names of the verbs that a model has, in the order of the table of families."""
    return tuple(name for name, verb in VERBS.items() if has(model, verb))


def has(model: Any, *needed: Any) -> bool:
    """Whether a model has every one of these protocols: their attributes, and their methods as methods.

    A plain protocol check would take a parameter that happens to be called `log_weight` for the verb.
    """
    return all(isinstance(model, verb) and all(callable(getattr(model, m)) for m in _METHODS[verb]) for verb in needed)


def takes_y(model: Any) -> bool:
    """Whether the verbs that give numbers about x, or draws of it, take y: those of a conditional model do, and those
    of a joint unless it says `given_y = False`."""
    return model.condition is not None and getattr(model, "given_y", True)


def require(model: Any, needed: Any, task: str) -> None:
    """Raise `TypeError` unless the model has one of the protocols `needed` (one, or a tuple of alternatives).

    The sentence says what the task needs, what this model is and what it can do.
    """
    options = needed if isinstance(needed, tuple) else (needed,)
    if not any(has(model, verb) for verb in options):
        want = " or ".join(verb.__name__ for verb in options)
        can = ", ".join(verbs(model)) or "no verb of likely.verbs"
        raise TypeError(f"{task} needs a model that is {want}; {name_of(model)} is {can}")


def name_of(model: Any) -> str:
    """What to call a model in a message: its family where it has one, else its class."""
    return getattr(getattr(model, "config", None), "family", None) or type(model).__name__


def view(model: Any, name: str) -> Any:
    """The view of a model with this name, a model of its own; `ValueError` names those that it has."""
    views = getattr(model, "views", {})
    if name not in views:
        have = ", ".join(views) or "no other views"
        raise ValueError(f"view is {name!r}; {name_of(model)} has {have}")
    return views[name]()
