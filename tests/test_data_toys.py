"""Toys with their entropies, and the order in which training sees rows."""

import math

import pytest
import torch

from likely.data import batch_indices, load, toys
from likely.noise import Noise
from likely.space import Reals

# --- toys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in toys.TOYS if n != "spirals"])
def test_recorded_entropy_is_the_integral(name):
    # Spectral accuracy: the midpoint rule on a smooth density; the checkerboard's squares are whole numbers of cells.
    assert toys.entropy(name, 120) == pytest.approx(toys.TOYS[name].entropy, abs=2e-6 if name != "rings" else 2e-4)


@pytest.mark.parametrize("name", list(toys.TOYS))
def test_draws_follow_the_density(name):
    """E[-log p] of draws is the entropy only if the generator and the density are of one distribution; 5 standard
    errors. A second, sharper look: 64 cells of the plane against the integral of the density over them."""
    toy, n = toys.TOYS[name], {"spirals": 1500, "moons": 6000}.get(name, 20_000)
    x, _ = toy.draw(Noise(1, n))
    surprise = -toy.log_density(x)
    error = 5 * float(surprise.std()) / math.sqrt(n) + 1e-6
    assert float(surprise.mean()) == pytest.approx(toy.entropy, abs=error)

    cells, fine = 8, {"spirals": 8, "moons": 8}.get(name, 20)
    step = 2 * toy.half_width / (cells * fine)
    axis = (torch.arange(cells * fine, dtype=torch.float64) + 0.5) * step - toy.half_width
    p = toy.log_density(torch.cartesian_prod(axis, axis)).exp().reshape(cells, fine, cells, fine).sum((1, 3)) * step**2
    assert float(p.sum()) == pytest.approx(1, abs=2e-3)
    where = ((x + toy.half_width) / (2 * toy.half_width) * cells).floor().long().clamp(0, cells - 1)
    counts = torch.zeros(cells, cells, dtype=torch.float64).index_put_(
        (where[:, 0], where[:, 1]), torch.ones(n).double(), True
    )
    big = p * n > 10
    chi2 = float(((counts - p * n).square() / (p * n))[big].sum())
    assert chi2 < int(big.sum()) + 6 * math.sqrt(2 * int(big.sum()))


def test_toys_load():
    data = load("moons", rows=1000, seed=3)
    assert data.space == Reals((2,))
    assert data.record["rows"] == {"train": 800, "valid": 100, "test": 100}
    assert data.record["entropy_nats"] == toys.TOYS["moons"].entropy
    assert data.record["seed"] == 3
    assert data.condition.levels == 2
    assert load("checkerboard", rows=50).condition is None
    assert torch.equal(load("moons", rows=1000, seed=3).train.x, data.train.x)
    assert not torch.equal(load("moons", rows=1000, seed=4).train.x, data.train.x)
    assert torch.equal(load("moons", rows=2000, seed=3).train.x[:800], data.train.x)  # row i depends on i and the seed


def test_labels_name_the_piece_that_a_point_is_of():
    x, y = toys.TOYS["circles"].draw(Noise(0, 2000))
    radius = x.norm(dim=1)
    assert float(radius[y == 0].mean()) == pytest.approx(3, abs=0.05)
    assert float(radius[y == 1].mean()) == pytest.approx(1.5, abs=0.05)


# --- batches ------------------------------------------------------------------------------------------------------


def test_every_epoch_shows_every_row_once():
    n, batch = 103, 10
    seen = torch.cat([batch_indices(n, batch, step, seed=5) for step in range(31)])
    for epoch in range(3):
        rows = seen[epoch * n : (epoch + 1) * n]
        assert sorted(rows.tolist()) == list(range(n))
        assert rows.tolist() != list(range(n))
    assert seen[:n].tolist() != seen[n : 2 * n].tolist()


def test_a_step_needs_no_history():
    late = batch_indices(50, 8, 123, seed=1)
    for step in range(20):
        batch_indices(50, 8, step, seed=1)
    assert torch.equal(batch_indices(50, 8, 123, seed=1), late)
    assert not torch.equal(batch_indices(50, 8, 123, seed=2), late)
    batch_indices(50, 8, 123, seed=1).zero_()  # what a caller does with its batch must not reach the next one
    assert torch.equal(batch_indices(50, 8, 123, seed=1), late)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_processes_share_the_same_global_batch(world):
    for step in range(12):
        whole = batch_indices(21, 8, step, seed=0)
        assert whole.dtype == torch.int64
        assert len(whole) == 8
        parts = [batch_indices(21, 8, step, seed=0, rank=r, world=world) for r in range(world)]
        assert all(len(part) == 8 // world for part in parts)
        assert torch.equal(torch.cat(parts), whole)


def test_a_batch_can_be_larger_than_the_data():
    assert torch.bincount(batch_indices(3, 9, 0, seed=0)).tolist() == [3, 3, 3]
    assert batch_indices(1, 4, 7, seed=0).tolist() == [0, 0, 0, 0]


def test_first_rows_are_uniform():
    # Over 600 seeds each of 4 rows comes first 150 times, give or take 4 standard deviations of 10.6.
    first = torch.tensor([int(batch_indices(4, 1, 0, seed)) for seed in range(600)])
    assert (first.bincount(minlength=4) - 150).abs().max() < 43


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 0, 0), "n is 0"),
        ((9, 0, 0, 0), "batch is 0"),
        ((9, 4, -1, 0), "step is -1"),
        ((9, 4, 0, 0, 2, 2), "rank is 2; accepts 0 .. 1"),
        ((9, 5, 0, 0, 0, 2), "2 processes cannot share equally"),
    ],
)
def test_bad_batches(arguments, message):
    rank, world = arguments[4:] or (0, 1)
    with pytest.raises(ValueError, match=message):
        batch_indices(*arguments[:4], rank=rank, world=world)
