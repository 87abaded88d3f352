"""Which scheme serves which model, and why none serves the others."""

from __future__ import annotations

import math
from typing import Any

from likely.coding.classes import Classes, OfClasses
from likely.coding.errors import CorruptHeader
from likely.coding.header import MOST_GROUP, Coding
from likely.coding.latent import FEW_ROWS, BitsBack, LatentScheme, Lattice, TwoPart, why_not
from likely.coding.latent_flow import LocalPrior
from likely.coding.local import FINE, LocalBitsBack, Movable
from likely.coding.programs import AnySize, Factored
from likely.coding.schemes import Scheme, Sequential
from likely.coding.tables import MOST
from likely.logprob import scoring
from likely.space import Integers, Reals
from likely.verbs import Latent, Lossy, Ordered, has, name_of, verbs

SEQUENTIAL, LATENT, LOCAL, LOCAL_PRIOR = (Sequential,), (TwoPart, BitsBack), (LocalBitsBack,), (LocalPrior,)


def coded(model: Any) -> Any:
    """What is coded of a model: of a hybrid p(y given x) p(x), the one of p(x)."""
    return getattr(model, "of_x", model)


def schemes_of(model: Any) -> tuple[type[Scheme], ...]:
    """The schemes that serve a model, at least one. Raises `TypeError` saying why where none does."""
    if (of_x := coded(model)) is not model:
        try:
            return schemes_of(of_x)
        except TypeError as error:
            told = "whose trunk can be a flow of couplings or an integer flow"
            raise TypeError(f"{error}; of a {name_of(model)} only p(x) is coded, {told}") from error
    space, condition = model.space, model.condition
    what = f"compress needs a model whose numbers can be coded; {name_of(model)}"
    if not isinstance(space, Integers):
        raise TypeError(f"{what} lives in {space}, and only Integers have code lengths")
    if space.levels > MOST:
        raise TypeError(f"{what} has {space.levels} levels; accepts at most {MOST}")
    if condition is not None and not isinstance(condition, Integers | Reals):
        raise TypeError(f"{what} is conditioned on {condition}; a file can hold labels and real vectors")
    if isinstance(condition, Integers) and condition.levels > MOST:
        raise TypeError(f"{what} is conditioned on {condition.levels} labels; accepts at most {MOST}")
    if isinstance(model, Classes):
        each = [schemes_of(part) for part in model.parts]
        if len(set(each)) > 1:
            ways = " and ".join(sorted({"/".join(scheme.name for scheme in one) for one in each}))
            raise TypeError(f"{what} has parts that are coded as {ways}; accepts parts that are coded alike")
        return each[0]
    if has(model, Ordered) or isinstance(model, Factored):
        return SEQUENTIAL
    if has(model, Latent):
        with scoring(model):
            lacks = why_not(model)
            if not lacks:
                return LOCAL_PRIOR if isinstance(model.prior(), Movable) else LATENT
        raise TypeError(f"{what} is Latent, but {lacks}")
    if isinstance(model, Movable):
        try:
            model.moves()
        except TypeError as error:
            raise TypeError(f"{what} is a flow, but {error}") from error
        return LOCAL
    if has(model, Lossy):
        raise TypeError(f"{what} is Lossy: what it codes comes back changed; likely.coding.LossyCodec does that")
    can = ", ".join(verbs(model)) or "nothing that likely.verbs knows"
    raise TypeError(
        f"{what} is {can}; accepts Ordered, Latent with normal posteriors, a flow of couplings, or an integer flow"
    )


def tiled(model: Any) -> None:
    """Raises `TypeError` saying why where a model cannot code pictures of any sizes."""
    what = f"pictures of any sizes need a model that says so; {name_of(model)}"
    if not isinstance(model, AnySize):
        raise TypeError(f"{what} has no `at`; accepts pictures of {model.space} alone, with likely.coding.Codec")
    if model.condition is not None:
        raise TypeError(f"{what} is conditioned on {model.condition}; accepts models of p(x)")


def scheme_for(
    model: Any, rows: int, group: int | None = None, name: str | None = None, labelled: bool = True
) -> Scheme:
    """The scheme for so many rows of a model; `name` asks for one of those that serve it.

    Joints may have rows that are not `labelled`.
    """
    known = {scheme.name: scheme for scheme in schemes_of(model)}
    if name is not None and name not in known:
        raise ValueError(f"scheme is {name!r}; {name_of(model)} accepts {', '.join(known)}")
    if isinstance(model, Classes):
        if group is None and SEQUENTIAL[0].name in known:
            group = min(_most(model) * len(model.parts), MOST_GROUP)
            if not labelled:  # the first group's labels, all of them lost, at most some thousandths of what rows take
                raw, label = model.space.dims * math.log2(model.space.levels), math.log2(model.condition.levels)
                group = min(group, max(1, int(rows * 0.001 * raw / label)))
        return _joined(model, [scheme_for(part, rows, group, name) for part in model.parts], labelled)
    if SEQUENTIAL[0].name in known:
        return Sequential(model, min(group or _most(model), rows))
    if LocalBitsBack.name in known:
        return LocalBitsBack(model, min(group or min(64, max(1, (1 << 18) // model.space.dims)), rows))
    few = rows < FEW_ROWS if name is None else name == TwoPart.name
    with scoring(model):
        # every group borrows once, so groups grow with the rows: their initial bits stay some thousandths of the whole
        if few and TwoPart.name in known:
            return TwoPart(model, min(group or 64, rows))
        chained = BitsBack if BitsBack.name in known else LocalPrior
        return chained(model, group or min(max(rows // 64, 1), 64))


def scheme_of(model: Any, coding: Coding) -> Scheme:
    """The scheme that a file's header names. Raises `CorruptHeader` where it is none of the model's."""
    known = {scheme.name: scheme for scheme in schemes_of(model)}
    if coding.scheme not in known:
        raise CorruptHeader(f"its scheme is {coding.scheme!r}; {name_of(model)} is coded as {', '.join(known)}")
    if (coding.labels is not None) != isinstance(model, Classes):
        raise CorruptHeader(f"it says of labels {coding.labels}, and its model is {name_of(model)}")
    if isinstance(model, Classes):
        own = coding.model_copy(update={"labels": None})
        return _joined(model, [scheme_of(part, own) for part in model.parts], bool(coding.labels))
    if coding.scheme == Sequential.name:
        return Sequential(model, coding.group)
    if coding.scheme == LocalBitsBack.name:
        if coding.fine is None or not 8 <= coding.fine <= FINE:
            raise CorruptHeader(f"its lattice has {coding.fine} bits; this likely knows 8 .. {FINE}")
        return LocalBitsBack(model, coding.group, coding.fine)
    if coding.fine is None or coding.reach is None or Lattice(coding.fine, coding.reach).size > MOST:
        raise CorruptHeader(f"its latents are on a grid of {coding.fine} bits up to {coding.reach}")
    latent: dict[str, Any] = {scheme.name: scheme for scheme in (BitsBack, TwoPart, LocalPrior)}
    return latent[coding.scheme](model, coding.group, Lattice(coding.fine, coding.reach))


def _most(model: Any) -> int:
    """A network works best on many rows at once, up to some 10^5 numbers that it keeps in mind for each layer."""
    return min(256, max(16, (1 << 18) // model.space.dims))


def _joined(model: Any, parts: list[Scheme], labelled: bool) -> OfClasses:
    """The scheme of a joint; its parts' latents are all on the grid that reaches farthest, the one that is written."""
    latent = [part for part in parts if isinstance(part, LatentScheme)]
    for part in latent:
        part.lattice = max((each.lattice for each in latent), key=lambda lattice: lattice.reach)
    return OfClasses(model, parts, labelled)
