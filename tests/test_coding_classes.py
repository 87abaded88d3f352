"""Joints as codecs: rows of every class come back, with labels or without, at what the joint says of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import likely as lk
from likely import registry
from likely.coding import Codec, CodecError, CorruptHeader, NumericsMismatch, container
from likely.coding.choice import scheme_for
from likely.families.joint import ClassConditional
from likely.logprob import sample, scoring
from likely.noise import Noise
from likely.space import Integers, Reals

SPACE, LABELS = Integers((3, 4), 5), Integers((), 3)
PARTS: dict[str, dict[str, Any]] = {
    "autoregressive": {"width": 6, "layers": 1, "kernel": 3},
    "mixture": {"components": 2},
    "vae": {"latent": 2, "hidden": (6,)},
}


def joint(family: str, separate: bool, shake: float = 0.4) -> Any:
    """A joint away from where it starts."""
    part = {"family": family, **PARTS[family]}
    model = registry.build("joint", SPACE, LABELS, part=part, separate=separate)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator)
    return model.eval()


MODELS = {f"{f}{', separate' * s}": joint(f, s) for f in PARTS for s in (False, True)}


def bits(model: Any, x: Tensor, y: Tensor | None) -> float:
    """-log2 p(x, y), or -log2 p(x), of all rows together."""
    nats = lk.log_prob(model, x, y).nats
    if y is not None:
        nats = nats + model.logits.detach().double().log_softmax(0)[y]
    return -float(nats.sum()) / math.log(2)


@given(
    name=st.sampled_from(sorted(MODELS)),
    n=st.integers(1, 40),
    group=st.none() | st.integers(1, 12),
    chunk=st.none() | st.integers(1, 50),
    seed=st.integers(0, 2**20),
    labelled=st.booleans(),
    classes=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_rows_come_back_in_their_order(
    name: str, n: int, group: int | None, chunk: int | None, seed: int, labelled: bool, classes: int
) -> None:
    """Whatever the groups, and where classes have few rows or none; half of the rows are likely, half anything."""
    model, r = MODELS[name], torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=r)
    x = sample(model, n, y, seed=seed)
    x[::2] = torch.randint(5, x[::2].shape, generator=r)
    rows = Codec(model).read(Codec(model, group=group, chunk=chunk).compress(x, y if labelled else None))
    assert torch.equal(rows.x.long(), x)
    assert (rows.y is None) == (not labelled)
    assert rows.y is None or torch.equal(rows.y, y)


@pytest.fixture(scope="module")
def digits() -> Any:
    return lk.load("digits")


@pytest.fixture(scope="module")
def mixtures(digits: Any) -> Any:
    """A mixture a class, fitted to the digits by a few passes of EM."""
    part = {"family": "mixture", "components": 8}
    model: Any = registry.build("joint", digits.space, digits.condition, part=part, separate=True)
    model.prepare(digits.train.x, digits.train.y, noise=Noise(0, len(digits.train.x)))
    for _ in range(5):
        model.absorb(model.statistics(digits.train.x, digits.train.y))
    return model.eval()


@pytest.mark.parametrize("labelled", [True, False])
def test_digits_cost_what_the_joint_says(mixtures: Any, digits: Any, labelled: bool) -> None:
    """Within 0.5 % of -log2 p(x, y), or of -log2 p(x); what is printed of it is that, too."""
    x, y = digits.test.x[:200], digits.test.y[:200] if labelled else None
    archive = container.read(Codec(mixtures, group=40).compress(x, y))  # every chunk was decoded again, or is raw
    says = bits(mixtures, x, y)
    assert archive.header["content"]["nll_bits"] == pytest.approx(says, abs=0.51)
    assert archive.header["coding"]["labels"] is labelled
    assert [entry.kind for entry in archive.entries] == [container.Kind.MODEL]
    assert 0 < 8 * archive.entries[0].size / says - 1 < 0.005


def test_the_bits_of_labels_come_back(digits: Any) -> None:
    """Where a row says nothing of its class, rows without labels cost log2 5 bits less than with them, each."""
    one: Any = registry.build("mixture", digits.space, components=1)
    one.prepare(digits.train.x, noise=Noise(0, len(digits.train.x)))
    one.absorb(one.statistics(digits.train.x))
    model, x = ClassConditional([one] * 5), digits.test.x[:200]
    y = torch.arange(len(x)) % 5
    kept, free = (Codec(model).report(x, labels) for labels in (y, None))
    assert kept.nll - free.nll == pytest.approx(math.log2(5) * len(x), rel=1e-3)
    assert 0 < free.overhead < 0.005
    assert kept.coded - free.coded > 0.8 * math.log2(5) * len(x)
    assert 0 < free.initial < 0.005 * free.coded


def test_a_part_sees_few_rows_at_once_whatever_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come sorted by their class, as from folders: what a part keeps in mind must not grow with that."""
    coder, seen = Codec(joint("mixture", True), group=60), []
    for part in coder.model.parts:
        monkeypatch.setattr(part, "start", lambda n, y=None, start=part.start: (seen.append(n), start(n, y))[1])
    x, y = sample(coder.model, 60, seed=0), torch.zeros(60, dtype=torch.int64)
    assert torch.equal(coder.decompress(coder.compress(x, y)).long(), x)
    assert max(seen) == 21  # 60 rows over 3 parts, and one more where it is checked


def test_labels_cost_what_their_frequency_says(digits: Any) -> None:
    model, y = joint("mixture", True), torch.zeros(3000, dtype=torch.int64)
    with torch.no_grad():
        model.logits.copy_(torch.tensor([0.9, 0.05, 0.05]).log())
    x = sample(model, 3000, y, seed=0)
    report = Codec(model).report(x, y)
    assert report.nll - bits(model.parts[0], x, None) == pytest.approx(3000 * -math.log2(0.9), rel=1e-3)
    assert report.overhead < 0.005


def test_bits_back_costs_the_bound(digits: Any) -> None:
    """A VAE a class: within 1 % of its bound, by labels or without."""
    part = {"family": "vae", "latent": 4, "hidden": (32,)}
    model: Any = registry.build("joint", digits.space, digits.condition, part=part, seed=0)
    x, y = digits.train.x[:400], digits.train.y[:400]
    optimiser, order = torch.optim.Adam(model.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for step in range(300):
        rows = torch.randint(len(x), (64,), generator=order)
        optimiser.zero_grad()
        model.loss(x[rows], y[rows], noise=Noise(step, 64)).backward()
        optimiser.step()
        model.after_step()
    model = model.eval()
    with scoring(model):
        prior = model.logits.log_softmax(0)[y]
        given = [model.elbo(x, y, noise=Noise(i, len(x))) + prior for i in range(8)]
        free = [model.elbo(x, noise=Noise(i, len(x))) for i in range(4)]
    for labels, nats in ((y, given), (None, free)):
        bound = -float(torch.stack(nats).mean()) / math.log(2) * len(x)
        archive = container.read(Codec(model, group=8).compress(x, labels))
        assert [entry.kind for entry in archive.entries] == [container.Kind.MODEL]
        assert abs(8 * archive.entries[0].size / bound - 1) < 0.01


def test_every_damage_is_seen() -> None:
    """Files without labels; a damaged word of those that were borrowed changes no number of any row."""
    model = MODELS["mixture, separate"]
    coder, x = Codec(model, group=3, chunk=12), sample(model, 24, seed=0)
    blob = coder.compress(x)
    for bit in range(0, 8 * len(blob), 3):
        bad = bytearray(blob)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            coder.decompress(bytes(bad))


def saying(blob: bytes, labels: bool | None) -> bytes:
    """A file whose header says something else of labels, with the right checksums."""
    archive = container.read(blob)
    archive.header["coding"]["labels"] = labels
    chunks = [container.Chunk(e.kind, e.rows, archive.chunk(i)) for i, e in enumerate(archive.entries)]
    return container.write(archive.header, chunks)


def test_a_header_that_lies_about_labels() -> None:
    model = MODELS["mixture, separate"]
    blob = Codec(model).compress(sample(model, 9, seed=0))
    with pytest.raises(CorruptHeader, match="labels"):
        Codec(model).decompress(saying(blob, None))
    with pytest.raises(NumericsMismatch):  # another scheme, which another probe fits
        Codec(model).decompress(saying(blob, True))
    plain = registry.build("mixture", SPACE, components=2)
    with pytest.raises(CorruptHeader, match="labels"):
        Codec(plain).decompress(saying(Codec(plain).compress(sample(model, 9, seed=0)), False))


@pytest.mark.parametrize("labelled", [True, False])
def test_parts_that_answer_by_the_batch_are_stored(labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding again sees every part in batches of another size, however few rows of its class there are."""
    coder, y = Codec(joint("autoregressive", True)), torch.arange(30) % 3
    x, part = sample(coder.model, 30, y, seed=0), coder.model.parts[2]
    kinds = [[e.kind for e in container.read(coder.compress(x, y if labelled else None)).entries]]
    start = part.start

    def start_of_batch(n: int, y: Any = None) -> Any:
        state, each = start(n, y)
        return state, type(each)(each.observation, each.parameters + 0.1 * n)

    monkeypatch.setattr(part, "start", start_of_batch)
    blob = coder.compress(x, y if labelled else None)
    kinds.append([e.kind for e in container.read(blob).entries])
    assert kinds == [[container.Kind.MODEL], [container.Kind.RAW]]
    assert torch.equal(coder.decompress(blob).long(), x)


def test_parts_are_coded_alike_or_not_at_all() -> None:
    ordered, latent = (registry.build(f, SPACE, **PARTS[f]) for f in ("autoregressive", "vae"))

    class Weighing(nn.Module):
        """An `Ordered` part that is `Weighted`, so that a joint takes it beside a VAE."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.space, self.condition, self.players = ordered, SPACE, None, ("model",)
            self.sites, self.start, self.step = ordered.sites, ordered.start, ordered.step
            self.to_sites, self.from_sites, self.loss = ordered.to_sites, ordered.from_sites, ordered.loss

        def log_weight(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
            return self.inner.log_prob(noise.expand(x))

    with pytest.raises(TypeError, match="parts that are coded as sequential and two-part/bits-back"):
        Codec(ClassConditional([Weighing(), latent]))
    with pytest.raises(TypeError, match="flow"):
        Codec(registry.build("hybrid", SPACE, LABELS, trunk="residual"))
    with pytest.raises(ValueError, match="y holds values"):
        Codec(MODELS["mixture"]).compress(torch.zeros(2, 3, 4, dtype=torch.int64), torch.tensor([0, 3]))


def test_a_latent_parts_grid_reaches_as_far_as_the_farthest() -> None:
    model = joint("vae", True)
    schemes: Any = scheme_for(model, 30, name="bits-back")
    assert len({part.lattice for part in schemes.parts}) == 1


# Hybrids, and conditions that are no labels ---------------------------------------------------------------------------


def test_of_a_hybrid_the_model_of_x_is_coded() -> None:
    tiny = registry.tiny("hybrid")["integers"]
    model: Any = registry.build(tiny.config, tiny.space, tiny.condition, seed=1)
    x = sample(model, 40, seed=0)
    coder = Codec(model)
    assert torch.equal(coder.decompress(coder.compress(x)).long(), x)
    says = -float(lk.log_prob(model, x).nats.sum()) / math.log(2)
    assert float(coder.expected_bits(x).sum()) == pytest.approx(says, rel=1e-5)
    assert Codec(model.trunk).hash == coder.hash


def test_vectors_come_back_to_the_last_bit() -> None:
    tiny = registry.tiny("integer-flow")["vector condition"]
    model = registry.build(tiny.config, tiny.space, tiny.condition, seed=1)
    y = 10.0 ** torch.linspace(-44, 38, 80).reshape(40, 2) * torch.tensor([1.0, -1.0])
    x = torch.randint(tiny.space.levels, (40, 2), generator=torch.Generator().manual_seed(0))
    for labels in (y, torch.zeros(40, 2), torch.linspace(-2, 2, 80).reshape(40, 2)):
        for group in (None, 7):
            rows = Codec(model).read(Codec(model, group=group).compress(x, labels))
            assert torch.equal(rows.x.long(), x)
            assert rows.y is not None
            assert torch.equal(rows.y.view(torch.int32), labels.view(torch.int32))
    assert isinstance(tiny.condition, Reals)
    with pytest.raises(ValueError, match=r"give y\.float\(\)"):
        Codec(model).compress(x, y.double() / 3)
    with pytest.raises(ValueError, match="y is None"):
        Codec(model).compress(x)
