"""Lossy codes: the rounded latents come back exactly, cost what the model says, and more of them show more."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from likely.coding.lossy import HALF, decode, encode, tables
from likely.conformance.report import Failed, promise
from likely.conformance.subject import Subject, inputs
from likely.logprob import scoring
from likely.space import Integers
from likely.verbs import Lossy


@promise
def latents(subject: Subject) -> str:
    """C2 Rounded latents come back exactly, cost what the model says, and a higher rate shows more.

    Pictures of the space's size and of another one, smooth and of noise, at every rate and between two, in float64:
    the decoder finds the very latents when the model sees one, two and five copies. The integer tables charge within
    0.5 % of the model's bits and 0.01 bits a latent. The bits that `rate_distortion` gives are those of the coded
    latents within 0.1 % and a bit. On the smooth pictures, for the model as given and after training, bits rise
    with the rate and the squared error falls.
    """
    subject.need(Lossy)
    gap = 0.0
    for state, model in subject.variants().items():
        with scoring(model):
            for kind, x in _pictures(subject).items():
                for rate in _rates(model):
                    gap = max(gap, _coded(model, x, rate, f"{kind}, rate {rate:g}, {state}"))
            if state != "perturbed":
                _rising(model, _pictures(subject)["smooth"], state)
    rates = len(_rates(subject.model))
    return f"{len(_pictures(subject))} pictures at {rates} rates; tables within {gap:.1e} of the model"


def _pictures(subject: Subject) -> dict[str, Tensor]:
    space = subject.space
    if not isinstance(space, Integers):
        raise Failed(f"a Lossy model lives in {space}; accepts pictures, Integers of (C, H, W)")
    channels, height, width = space.shape
    found = {}
    for kind, (h, w) in {"noise": (height, width), "another size": (height + 3, 2 * width + 5)}.items():
        found[kind] = inputs(Integers((channels, h, w), space.levels), 1, subject.seed)
    rows = torch.arange(2 * height)[:, None] + torch.arange(2 * width) / 3
    wave = (rows / 5 + torch.arange(channels)[:, None, None]).sin() * 0.4 + 0.5
    found["smooth"] = (wave * (space.levels - 1)).round().to(torch.uint8)[None]
    return found


def _rates(model: Any) -> list[float]:
    count = len(model.lams)
    return [*(float(r) for r in range(1, count + 1)), *([1.5] if count > 1 else [])]


def _coded(model: Any, x: Tensor, rate: float, what: str) -> float:
    """The relative difference between what the tables charge and what the model says."""
    stack, y, bits = encode(model, x, rate)
    data, size = stack.to_bytes(), tuple(x.shape[2:])
    for rows in (1, 2, 5):
        again = type(stack).from_bytes(data)
        if not torch.equal(decode(model, again, *size, rate, rows), y):
            raise Failed(f"other latents come back when the model sees {rows} copies ({what})")
        if not again.is_empty():
            raise Failed(f"the coder does not end where it began ({what})")
    charged, says = _charged(model, x, rate)
    ours, theirs = float(charged.sum()), float(says.sum())
    # Far out in the tail a table has 1 or, where its rounded distribution function takes its last step, 2 of 2^24.
    outliers = float((says > 22).sum())
    if not abs(ours - theirs) <= 0.005 * theirs + 0.01 * len(says) + outliers:
        raise Failed(f"the tables charge {ours:.1f} bits, the model says {theirs:.1f} ({what})")
    told = float(model.rate_distortion(x, torch.tensor([rate], dtype=torch.float64))[0])
    if not abs(told - bits) <= 0.001 * bits + 1:
        raise Failed(f"rate_distortion says {told:.1f} bits, the coded latents have {bits:.1f} ({what})")
    return abs(ours - theirs) / max(theirs, 1.0)


def _charged(model: Any, x: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Bits of every latent by the tables, and by the model."""
    at = torch.tensor([rate], dtype=torch.float64)
    program = model.groups(*x.shape[2:], at)
    charged, says = list[Tensor](), list[Tensor]()
    given = next(program)
    for value in model.latents(x, at):
        centre, table = tables(given)
        k = (given.rounded(value) - centre).round().clamp(-HALF, HALF - 1)
        _, frequency = table.interval(k.long().numpy().reshape(-1) + HALF)
        charged.append(24 - torch.from_numpy(frequency).double().log2())
        says.append(given.bits(k + centre).flatten())
        try:
            given = program.send(k + centre)
        except StopIteration:
            break
    return torch.cat(charged), torch.cat(says)


def _rising(model: Any, x: Tensor, state: str) -> None:
    found = [model.rate_distortion(x, torch.tensor([r], dtype=torch.float64)) for r in sorted(_rates(model))]
    bits, error = [float(b) for b, _ in found], [float(e) for _, e in found]
    if any(b < a for a, b in pairwise(bits)):
        raise Failed(f"bits at rising rates are {', '.join(f'{b:.1f}' for b in bits)} ({state}); accepts rising ones")
    if any(b > a for a, b in pairwise(error)):
        raise Failed(f"squared errors at rising rates are {', '.join(f'{e:.2f}' for e in error)}; accepts falling ones")
