"""Detection against planted truths: a model whose density is known, strangers that are more likely than its data."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

from likely import registry
from likely.noise import Noise
from likely.space import Column, Integers, Reals, Rows, Table
from likely.tasks.codecs import code_lengths
from likely.tasks.detect import METHODS, compare, detect, doctor
from likely.tasks.detect.background import mutate, simplified, worth
from likely.tasks.detect.detector import diagnose
from likely.tasks.detect.scores import density_of_states
from likely.tasks.detect.statistics import STATISTICS, Context, measure
from likely.tasks.detect.strangers import adapt, made

SPACE = Integers((1, 8, 8), 32)


class Smooth(nn.Module):
    """Pixels in raster order, each near the one before: p(x_i given x_(i-1)) goes with exp(-|x_i - x_(i-1)| / b).

    Exact, and the Nalisnick effect in its purest form: the most likely images of all are the constant ones.
    """

    space, condition = SPACE, None

    def __init__(self, width: float = 4.0) -> None:
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor(math.log(width), dtype=torch.float64))

    def table(self) -> Tensor:
        """(levels, levels): log p(next given last)."""
        levels = torch.arange(SPACE.levels)
        return (-(levels[:, None] - levels).abs() / self.log_width.exp()).log_softmax(1)

    def log_prob(self, x: Tensor, y: None = None) -> Tensor:
        flat = x.flatten(1).long()
        steps = self.table()[flat[:, :-1], flat[:, 1:]]
        return steps.sum(1) - math.log(SPACE.levels)


@pytest.fixture(scope="module")
def model() -> Smooth:
    return Smooth()


def draws(n: int, seed: int) -> Tensor:
    """n images from `Smooth`, pixel after pixel by inverse distribution function."""
    table = Smooth().table().exp().cumsum(1).detach().numpy()
    rng = np.random.default_rng(seed)
    x = np.zeros((n, SPACE.dims), np.int64)
    x[:, 0] = rng.integers(0, SPACE.levels, n)
    for i in range(1, SPACE.dims):
        x[:, i] = (table[x[:, i - 1]] < rng.random((n, 1))).sum(1).clip(0, SPACE.levels - 1)
    return torch.tensor(x).reshape(n, *SPACE.shape)


@pytest.fixture(scope="module")
def inside() -> Tensor:
    return draws(120, 1)


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return draws(300, 2)


# verdicts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["typicality", "complexity", "dose"])
def test_strangers_that_are_more_likely_than_the_data_are_found(model, inside, held_out, method) -> None:
    x = torch.cat([inside[:40], made(inside[40:50], SPACE)["constant"][0]])
    assert float(measure(model, x, ("log_p",), Context())["log_p"].argmax()) >= 40  # the strangers are more likely
    result = detect(model, x, held_out, method, fdr=0.1)
    assert result.outside[40:].all()
    assert int(result.outside[:40].sum()) <= 4
    assert result.verdict(45).startswith("outside")
    assert result.verdict(int((~result.outside).nonzero()[0])).startswith(("inside", "doubtful"))
    json.dumps(result.to_json(), allow_nan=False)


def test_the_baseline_lets_them_in(model, inside, held_out) -> None:
    x = torch.cat([inside[:40], made(inside[40:50], SPACE)["constant"][0]])
    result = detect(model, x, held_out, "nll", fdr=0.1)
    assert not result.outside[40:].any()
    assert (result.p_value[40:] == 1).all()


@pytest.mark.parametrize("method", ["nll", "typicality", "complexity", "gradient", "dose"])
def test_p_values_of_inside_rows_are_super_uniform(model, method) -> None:
    # 20 calibrations of 40 rows (20 of them fit), 30 fresh rows each: the mean of P(p <= 0.2), within 5 standard errors
    low = []
    for seed in range(20):
        result = detect(model, draws(30, 100 + seed), draws(40, seed), method, fdr=0.2)
        low.append(float((result.p_value <= 0.2 + 1e-9).double().mean()))
    assert np.mean(low) <= 0.2 + 5 * np.std(low) / math.sqrt(20)
    assert np.mean(low) >= 0.2 - 1 / 21 - 5 * np.std(low) / math.sqrt(20)


def test_a_score_does_not_depend_on_its_neighbours(model, inside, held_out) -> None:
    whole = detect(model, inside[:9], held_out[:40], "dose", fdr=0.2)
    alone = detect(model, inside[3:4], held_out[:40], "dose", fdr=0.2)
    assert whole.score[3] == alone.score[0]
    assert whole.p_value[3] == alone.p_value[0]


def test_refusals_say_why(model, inside, held_out) -> None:
    with pytest.raises(ValueError, match="method is 'magic'; accepts nll, typicality"):
        detect(model, inside, held_out, "magic")
    with pytest.raises(ValueError, match="ratio cannot be had: .* `likely detect RUN --method ratio`"):
        detect(model, inside, held_out, "ratio")
    with pytest.raises(ValueError, match=r"sure cannot be had: .* Joint or JointBound; Smooth is Exact"):
        detect(model, inside, held_out, "sure")
    with pytest.raises(ValueError, match=r"energy cannot be had: .* Unnormalised; Smooth is Exact"):
        detect(model, inside, held_out, "energy")
    with pytest.raises(ValueError, match="resolve shares of at least"):
        detect(model, inside, held_out[:20], "nll", fdr=0.01)
    with pytest.raises(ValueError, match="held_out has 3 rows"):
        detect(model, inside, held_out[:3], "nll")
    plane = registry.build("flow", Reals((2,)), depth=1, width=4)
    with pytest.raises(ValueError, match=r"complexity cannot be had: a code length needs integers"):
        detect(plane, torch.zeros(2, 2), torch.randn(50, 2), "complexity")
    result = detect(plane, torch.zeros(2, 2), torch.randn(80, 2), "dose")
    assert set(result.statistics) == {"log_p", "gradient"}
    assert "a code length needs integers" in result.notes[0]
    other = registry.build("flow", Reals((3,)), depth=1, width=4)
    with pytest.raises(ValueError, match=r"background is about Reals\(\(3,\)\)"):
        detect(plane, torch.zeros(2, 2), torch.randn(80, 2), "ratio", background=other)


def test_sure_and_ratio_are_what_they_say() -> None:
    tiny = registry.tiny("joint")["mixture"]
    joint = registry.build(tiny.config, tiny.space, tiny.condition)
    x = Noise(0, 60).integers(3, (2, 2))
    posterior = joint.log_posterior(x).detach()
    sure = detect(joint, x[:20], x[20:], "sure", fdr=0.2).score
    assert torch.equal(sure.argsort(), posterior[:20].max(1).values.argsort())
    second = registry.build(tiny.config, tiny.space, tiny.condition, seed=1)
    ratio = detect(joint, x[:20], x[20:], "ratio", fdr=0.2, background=second).score
    assert torch.allclose(ratio, (joint.log_prob(x) - second.log_prob(x)).detach().double()[:20])


# statistics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("autoregressive", "causal"),
        ("autoregressive", "pixelcnn, colour, one-hot inputs"),
        ("vae", "bernoulli"),
        ("flow", "glow, image"),
        ("flow", "dequantised"),
        ("joint", "autoregressive"),
        ("mixture", "table"),
    ],
)
def test_gradient_norm_against_one_row_at_a_time(family: str, name: str) -> None:
    from likely.tasks.describe import blank

    tiny = registry.tiny(family)[name]
    model = registry.build(tiny.config, tiny.space, tiny.condition).eval()
    x = model.space.check(blank(tiny.space, 3))
    found = STATISTICS["gradient"].call(model, x, Context(seed=5))
    for i in range(3):
        row, noise = model.space.take(x, slice(i, i + 1)), Noise(5, torch.tensor([i]))
        verb = getattr(model, "log_prob", None)
        value = verb(row) if verb else model.log_weight(row, noise=noise)
        slopes = torch.autograd.grad(value.sum(), list(model.parameters()), allow_unused=True)
        norm = sum(g.double().square().sum() for g in slopes if g is not None).sqrt()
        assert float(found[i]) == pytest.approx(float(norm.log()), abs=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_code_lengths_are_the_shortest_file_without_its_header(inside) -> None:
    space = Integers((3, 8, 8), 256)
    x = Noise(0, 3).integers(256, space.shape).to(torch.uint8)
    x[1] = 7
    found = code_lengths(x, space)
    empty = np.zeros((8, 8, 3), np.uint8)
    for i in range(3):
        sizes = []
        for options in ({"format": "PNG", "optimize": True}, {"format": "WEBP", "lossless": True, "quality": 100}):
            size = []
            for pixels in (x[i].permute(1, 2, 0).numpy(), empty):
                buffer = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, **options)
                size.append(buffer.tell())
            sizes.append(8 * max(0, size[0] - size[1]))
        assert found[i] == min(sizes)
    assert found[1] < 200 < 8 * 8 * 3 * 7 < found[0]
    order = torch.tensor([2, 0, 1])
    assert torch.equal(code_lengths(x[order], space), found[order])
    bits = Integers((400,), 2)
    rows = torch.cat([torch.zeros(1, 400), torch.ones(1, 400), Noise(0, 1).integers(2, (400,))]).long()
    lengths = code_lengths(rows, bits)
    assert lengths[0] == 0
    assert lengths[1] < 50 < 300 < lengths[2]
    wide = code_lengths(Noise(0, 2).integers(100_000, (50,)) * torch.tensor([[0], [1]]), Integers((50,), 100_000))
    assert wide[0] == 0
    assert 50 * math.log2(100_000) < wide[1] < 50 * 32
    with pytest.raises(ValueError, match="accept Integers"):
        code_lengths(torch.zeros(1, 2), Reals((2,)))
    assert code_lengths(x[:0], space).shape == (0,)


def test_dose_is_a_kernel_density_and_picks_its_width() -> None:
    rng = torch.Generator().manual_seed(0)
    held = {"a": torch.randn(200, generator=rng).double() * 3 + 5, "b": torch.randn(200, generator=rng).double()}
    new = {"a": torch.tensor([5.0, 5.0, 40.0]).double(), "b": torch.tensor([0.0, 9.0, 0.0]).double()}
    stack = lambda v: np.stack([v["a"], v["b"]], 1)  # noqa: E731
    z = (stack(held) - stack(held).mean(0)) / stack(held).std(0, ddof=1)
    widths = np.logspace(-1.3, 0.5, 19)
    best = max(widths, key=lambda h: KernelDensity(bandwidth=h).fit(z[::2]).score(z[1::2]))
    assert 0.1 < best < 1
    truth = KernelDensity(bandwidth=best).fit(z)
    at = (stack(new) - stack(held).mean(0)) / stack(held).std(0, ddof=1)
    found = density_of_states(held)(new)
    assert found.tolist() == pytest.approx(truth.score_samples(at).tolist(), rel=1e-9)
    odd = density_of_states(held)({"a": torch.tensor([-math.inf]).double(), "b": torch.zeros(1).double()})
    assert odd.tolist() == [-math.inf]  # a row of probability zero is outside, not an error
    flat = density_of_states({"a": held["a"], "b": torch.ones(200).double()})(new)
    assert flat.isfinite().all()


def test_typicality_and_complexity_by_hand(model, inside, held_out) -> None:
    values = measure(model, inside, ("log_p", "code"), Context())
    held = measure(model, held_out, ("log_p", "code"), Context())
    truth = -(-values["log_p"] + held["log_p"].mean()).abs()
    assert torch.allclose(METHODS["typicality"].fit(held)(values), truth)
    bits = values["log_p"] / math.log(2) + values["code"]
    assert torch.allclose(METHODS["complexity"].fit(held)(values), bits)


# the doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_knows_a_codec_when_it_sees_one(model, inside) -> None:
    class Codec(Smooth):
        def log_prob(self, x: Tensor, y: None = None) -> Tensor:
            return -code_lengths(x, SPACE) * math.log(2)

    mixed = torch.cat([inside, made(inside[:60], SPACE)["blurred"][0]])
    ill = doctor(Codec(), mixed)
    assert ill.ill
    assert ill.sentence.startswith("your likelihood is mostly complexity")
    assert ill.rho.value == pytest.approx(1)
    well = doctor(registry.build("mixture", SPACE, components=2), mixed)
    assert not well.ill
    assert well.rho.low < well.rho.value < well.rho.high
    assert (
        "needs integers" in doctor(registry.build("flow", Reals((2,)), depth=1, width=4), torch.zeros(20, 2)).sentence
    )


def test_doctor_has_the_right_sign_and_interval() -> None:
    rng, missed = np.random.default_rng(0), 0
    for _ in range(100):
        a = rng.normal(size=80)
        b = 0.6 * a + 0.8 * rng.normal(size=80)
        found = diagnose({"log_p": torch.tensor(-a), "code": torch.tensor(b)})
        assert found.rho.value > 0
        missed += not found.rho.low <= 6 / math.pi * math.asin(0.3) <= found.rho.high  # Spearman of a Gaussian pair
    assert missed <= 14  # 5 expected; P(X > 14) < 1e-3
    assert diagnose({"log_p": torch.zeros(3), "code": torch.zeros(3)}).rho is None
    assert diagnose({"log_p": torch.zeros(30), "code": torch.arange(30.0)}).rho is None


# comparison -----------------------------------------------------------------------------------------------------------


def test_comparison_shows_the_failure_and_its_fixes(model, inside, held_out) -> None:
    other = Noise(3, 50).integers(256, (3, 12, 16)).to(torch.uint8)
    result = compare(model, inside, held_out, {"elsewhere": (other, Integers((3, 12, 16), 256))})
    assert list(result.sets) == ["elsewhere", "constant", "noise", "blurred", "negatives", "turned"]
    constant = result.sets["constant"].by_method
    assert constant["nll"].auroc.value == 0
    for method in ("typicality", "complexity", "dose"):
        assert constant[method].auroc.value > 0.99
    assert result.sets["noise"].by_method["nll"].auroc.value > 0.99
    # the model cannot tell negatives from data: they have the same density, and no score may claim otherwise
    assert 0.4 < result.sets["negatives"].by_method["typicality"].auroc.value < 0.6
    assert result.sets["constant"].batches == 1
    assert result.inside.bits[0] > result.sets["constant"].bits[0]
    assert set(result.refused) == {"ratio", "sure", "energy"}
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert "luma" in record["outside"]["elsewhere"]["rule"]
    assert record["outside"]["constant"]["methods"]["nll"]["fpr95"]["value"] == 1
    with pytest.raises(ValueError, match="ratio cannot be had"):
        compare(model, inside, held_out, {}, ("ratio",))


def test_strangers_are_made_as_said() -> None:
    x = Noise(0, 4).integers(256, (3, 6, 6)).to(torch.uint8)
    space = Integers((3, 6, 6), 256)
    sets = {name: rows for name, (rows, _) in made(x, space).items()}
    for rows in sets.values():
        assert space.check(rows).shape == x.shape
    assert torch.equal(sets["constant"][1, 2], x[1, 2].double().mean().round().long().expand(6, 6))
    assert torch.equal(sets["negatives"] + x, torch.full_like(x, 255).long())
    assert torch.equal(sets["turned"][0, :, 0], x[0, :, :, -1])
    flat = torch.full((1, 3, 6, 6), 9)
    assert torch.equal(made(flat, space)["blurred"][0], flat)
    assert sets["blurred"].double().std() < 0.5 * x.double().std()
    table = Table((Column("a"), Column("b", ("x", "y"), missing=True)))
    rows = Rows(torch.tensor([[1.0, 0], [2.0, 1], [3.0, 1]]), torch.tensor([[True, True], [True, False], [True, True]]))
    other = table.check(made(rows, table)["shuffled"][0])
    assert sorted(other.cells[:, 0].tolist()) == [1, 2, 3]
    assert int(other.seen.sum()) == 5


def test_adapting_follows_its_rule() -> None:
    grey, colour = Integers((1, 28, 28), 256), Integers((3, 32, 32), 256)
    x = Noise(0, 2).integers(256, grey.shape).to(torch.uint8)
    out, rule = adapt(x, grey, colour)
    assert out.shape == (2, 3, 32, 32)
    assert torch.equal(out[:, 0], out[:, 2])
    assert rule == "grey copied into three channels; 28x28 to 32x32, bilinear with antialiasing"
    same, rule = adapt(x, grey, grey)
    assert same is x
    assert rule == "as it is"
    flat, rule = adapt(torch.full((1, 1, 105, 105), 1), Integers((1, 105, 105), 2), grey)
    assert (flat == 255).all()
    assert rule.endswith("2 levels to 256")
    pure = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    pure[:, 1] = 255
    assert (adapt(pure, Integers((3, 4, 4), 256), Integers((1, 4, 4), 256))[0] == 150).all()  # .587 * 255
    with pytest.raises(ValueError, match="only images can be adapted"):
        adapt(torch.zeros(1, 2), Reals((2,)), grey, "points")
    with pytest.raises(ValueError, match="has 2 channels"):
        adapt(torch.zeros(1, 2, 4, 4).long(), Integers((2, 4, 4), 256), grey)


# the background -------------------------------------------------------------------------------------------------------


def test_mutation_hits_the_share_it_says() -> None:
    x = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    out = mutate(x, SPACE, 0.3, Noise(0, 400))
    assert out.dtype == torch.uint8
    assert SPACE.check(out).float().mean() > 0
    share = float((out != 0).double().mean())
    assert share == pytest.approx(0.3 * 31 / 32, abs=5 * math.sqrt(0.21 / 25_600))
    assert torch.equal(out, mutate(x, SPACE, 0.3, Noise(0, 400)))
    points = torch.arange(400.0)[:, None].expand(400, 2)
    moved = mutate(points, Reals((2,)), 0.5, Noise(1, 400))
    assert set(moved.flatten().tolist()) <= set(range(400))
    assert 0.3 < float((moved != points).double().mean()) < 0.6
    table = Table((Column("a"), Column("b", missing=True)))
    rows = table.check(np.array([[1.0, math.nan], [2.0, 5.0]] * 50))
    both = mutate(rows, table, 0.5, Noise(0, 100))
    table.check(both)
    assert (both.cells[both.seen[:, 1], 1] == 5).all()
    with pytest.raises(ValueError, match="rate is 0"):
        mutate(x, SPACE, 0, Noise(0, 400))


def test_a_background_says_what_it_is_worth() -> None:
    figures = {"rate": 0.1, "tuned_on": "500 held-out rows against blurred copies"}
    told = worth(figures | {"auroc_tuned": 0.113})
    assert told.startswith(
        "do not rely on ratio: the background (mutation rate 0.1) tells 500 held-out rows from blurred"
    )
    assert worth(figures | {"auroc_tuned": 0.97}).endswith("with AUROC 0.970")


def test_simplified_copies_are_simpler(inside) -> None:
    assert code_lengths(simplified(inside, SPACE), SPACE).mean() < code_lengths(inside, SPACE).mean()
    bits = Noise(0, 300).integers(2, (20,))
    simple = simplified(bits, Integers((20,), 2))
    assert 0.1 < float((simple != bits).double().mean()) < 0.4
