"""The coder: tables of integers, the stack in NumPy and in plain Python, and what cannot be wrong about either."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtr

from likely.coding import ans, plain, tables
from likely.coding.ans import Stack, Underflow, pseudorandom
from likely.coding.growing import Growing
from likely.coding.tables import TOTAL, Located, Table, Uniform, Weighed, on_grid


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def listed(n: int, size: int, seed: int = 0, spread: int = 900) -> Weighed:
    return Weighed.from_logits(rng(seed).integers(-spread, spread, (n, size)))


def located(n: int, size: int, parts: int = 3, seed: int = 0, function: str = "logistic") -> Located:
    r = rng(seed)
    logits, centre = r.integers(-900, 900, (n, parts)), r.integers(-size * 64, size * 320, (n, parts))
    return Located(size, logits, centre, r.integers(-1000, 2000, (n, parts)), function)


KINDS = {
    "listed": lambda n, size, seed: listed(n, size, seed),
    "uniform": lambda n, size, seed: Uniform(n, size),
    "logistic": lambda n, size, seed: located(n, size, seed=seed),
    "normal": lambda n, size, seed: located(n, size, 1, seed, "normal"),
}


def cumulative(table: Table) -> np.ndarray:
    """Everything below each symbol, (N, size + 1)."""
    return table.below(np.tile(np.arange(table.size + 1), (len(table), 1)))


# Tables -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(size=st.integers(1, 300), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_tables_sum_exactly_and_leave_nothing_out(kind: str, size: int, seed: int) -> None:
    table = KINDS[kind](4, size, seed)
    below = cumulative(table)
    assert (below[:, 0] == 0).all()
    assert (below[:, -1] == TOTAL).all()
    assert (np.diff(below, axis=1) >= 1).all()
    c = rng(seed).integers(0, TOTAL, 4)
    for edge in (c, np.zeros_like(c), np.full_like(c, TOTAL - 1), below[np.arange(4), rng(seed).integers(0, size, 4)]):
        start, frequency = table.interval(table.find(edge))
        assert ((start <= edge) & (edge < start + frequency)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_table_are_its_rows(kind: str) -> None:
    table = KINDS[kind](9, 17, 3)
    part = table.rows(slice(4, 7))
    assert len(part) == 3
    assert np.array_equal(cumulative(part), cumulative(table)[4:7])


def test_tables_are_the_distributions_they_are_made_from() -> None:
    """Within what the grid of the parameters and 24 bits allow: the tables cost less than 1e-4 bits a symbol."""
    r = rng(1)
    logits = r.normal(0, 3, (200, 40))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = np.diff(Weighed.from_logits(on_grid(torch.from_numpy(logits))).in_full().cumulative, axis=1) / TOTAL
    assert 0 <= (p * np.log2(p / q)).sum(1).max() < 1e-4
    for function, cdf in (("logistic", expit), ("normal", ndtr)):
        weight, mean, log_scale = r.normal(0, 1, (100, 4)), r.uniform(-20, 280, (100, 4)), r.uniform(-2, 4, (100, 4))
        edges = np.arange(257) - 0.5
        each = cdf((edges[None, :, None] - mean[:, None]) / np.exp(log_scale)[:, None])
        share = np.exp(weight) / np.exp(weight).sum(1, keepdims=True)
        f = (each * share[:, None]).sum(2)
        f[:, 0], f[:, -1] = 0, 1
        p = np.diff(f, axis=1)
        parts = (on_grid(torch.from_numpy(part)) for part in (weight, mean, log_scale))
        q = np.diff(cumulative(Located(256, *parts, function)), axis=1) / TOTAL
        assert 0 <= np.where(p > 0, p * np.log2(np.maximum(p, 1e-300) / q), 0).sum(1).max() < 1e-4


def test_many_weights_are_worked_on_in_blocks() -> None:
    logits = rng(1).integers(-900, 900, (900, 300))
    table = Weighed.from_logits(logits)  # 270,000 numbers: several blocks
    for row in (0, 217, 218, 219, 899):
        alone = Weighed.from_logits(logits[row : row + 1])
        assert np.array_equal(cumulative(table.rows(slice(row, row + 1))), cumulative(alone))
        c = rng(row).integers(0, TOTAL, 200)
        expected = np.searchsorted(cumulative(alone)[0], c, side="right") - 1
        assert np.array_equal(Weighed(np.repeat(table.mass[row : row + 1], 200, 0)).find(c), expected)


def test_frozen_tables_are_what_they_are_called() -> None:
    t = np.arange(-24 * 256, 24 * 256 + 1) / 256
    for name, function in (("logistic", expit), ("normal", ndtr)):
        assert np.abs(tables._function(name)[0] / 2**30 - function(t)).max() < 2**-29
    inverse, limit = tables._scales()
    scale = np.exp(np.arange(len(inverse)) / 256 - 6)
    assert np.abs(inverse * scale / 2**40 - 1).max() < 1e-4
    assert np.abs(limit / scale / (24 * 256) - 1).max() < 0.1
    assert math.log2(float((limit.astype(float) * inverse).max())) < 62
    assert np.abs(tables._exponentials() / 2**30 - np.exp(-np.arange(22 * 256 + 1) / 256)).max() < 2**-29


def test_frozen_tables_are_the_same_everywhere() -> None:
    """Files depend on them: a change here is a new version of the format."""
    import hashlib

    digest = hashlib.sha256()
    for part in (tables._exponentials(), *tables._scales(), *tables._function("logistic"), *tables._function("normal")):
        digest.update(part.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "aafea1b46fd0f42d"


def test_extreme_parameters_still_make_tables() -> None:
    infinite = torch.tensor([[-math.inf, 0.0, 1e30], [0.0, -math.inf, -math.inf]], dtype=torch.float64)
    below = cumulative(Weighed.from_logits(on_grid(infinite)))
    assert (np.diff(below, axis=1) >= 1).all()
    assert below[0, 2] == 2
    wild = torch.tensor([[1e300, -1e300, 5.0]], dtype=torch.float64)
    grid = on_grid(wild)
    for function in ("logistic", "normal"):
        below = cumulative(Located(7, grid * 0, grid, grid, function))
        assert (np.diff(below, axis=1) >= 1).all()
        assert below[0, -1] == TOTAL
    with pytest.raises(ValueError, match="NaN"):
        on_grid(torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="size is 65537"):
        Uniform(1, 65537)
    with pytest.raises(ValueError, match="parts"):
        Located(4, *[np.zeros((1, 1025), np.int64)] * 3, "normal")


def test_grid_hides_the_last_bits_of_floats() -> None:
    x = torch.linspace(-30, 30, 10001, dtype=torch.float64)
    assert np.array_equal(on_grid(x), on_grid(x * (1 + 1e-15)))
    assert on_grid(torch.tensor([0.5, 1 / 256, -3.0])).tolist() == [128, 1, -768]


def test_tables_in_full_are_the_same() -> None:
    for kind in KINDS.values():
        table = kind(7, 40, 2)
        assert np.array_equal(table.in_full().cumulative, cumulative(table))


# The stack ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 6])
@given(lanes=st.integers(1, 9), sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_both_coders_write_the_same_bytes_and_read_them_back(few: int, lanes: int, sizes: list[int], seed: int) -> None:
    """The definition in Python integers, and the stack with and without its own use of that."""
    r, pile = rng(seed), [listed(n, int(rng(n).integers(1, 8)), seed + n, 2500) for n in sizes]
    symbols = [r.integers(0, table.size, len(table)) for table in pile]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ans, "FEW", few)
        stack, states, words = Stack(lanes), [2**32] * lanes, []
        for table, each in zip(reversed(pile), reversed(symbols), strict=True):
            start, frequency = table.interval(each)
            stack.push(start, frequency)
            plain.push(states, words, start.tolist(), frequency.tolist())
        data = stack.to_bytes()
        numbers = [(lanes, 2), *((state, 8) for state in states), *((word, 4) for word in words)]
        assert data == b"".join(number.to_bytes(size, "little") for number, size in numbers)
        assert len(data) * 8 == stack.bits
        stack = Stack.from_bytes(data)
        assert stack.to_bytes() == data
        for table, each in zip(pile, symbols, strict=True):
            assert np.array_equal(stack.pop(table), each)
            assert plain.pop(states, words, table.in_full().lists()) == each.tolist()
        assert stack.is_empty()
        assert not words
        assert states == [2**32] * lanes


def test_a_stack_is_as_long_as_the_information_on_it() -> None:
    """Pushing costs log2(1 / frequency): within 0.02 % of it on a long stream, apart from the lanes' own 64 bits."""
    for size, lanes in ((2, 1), (16, 7), (256, 64)):
        table = listed(20000, size, size)
        c = rng(size).integers(0, TOTAL, len(table))
        start, frequency = table.interval(table.find(c))
        stack = Stack(lanes)
        stack.push(start, frequency)
        bits = float((24 - np.log2(frequency)).sum())
        assert -64 * lanes <= stack.bits - bits <= 64 * lanes + 0.0002 * bits + 48


def test_popping_random_bits_draws_from_the_table() -> None:
    table = Weighed.from_logits(np.tile(rng().integers(-500, 500, (1, 5)), (40000, 1)))
    p = np.diff(cumulative(table)[0]) / TOTAL
    stack = Stack(8, "bits")
    symbols = stack.pop(table)
    found = np.bincount(symbols, minlength=5)
    assert ((found - 40000 * p) ** 2 / (40000 * p)).sum() < 18.5  # chi-squared with 4 degrees of freedom: 99.9 %
    bits = float((24 - np.log2(table.interval(symbols)[1])).sum())
    assert abs(32 * stack.borrowed - bits) < 32 * 8 + 0.001 * bits
    stack.push(*table.interval(symbols))
    assert stack.is_empty()


@given(seed=st.integers(0, 2**32), lanes=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_borrowed_bits_come_back(seed: int, lanes: int) -> None:
    """Any mixture of pushes and pops, undone, leaves the stack as it was made, borrowed words and all."""
    r, stack, done = rng(seed), Stack(lanes, "some name"), []
    for _ in range(12):
        kind = list(KINDS)[int(r.integers(4))]  # listed ones take the way through plain integers
        table = KINDS[kind](int(r.integers(1, 40)), 50, int(r.integers(2**31)))
        if r.random() < 0.5:
            done.append((table, stack.pop(table), True))
        else:
            symbols = r.integers(0, 50, len(table))
            stack.push(*table.interval(symbols))
            done.append((table, symbols, False))
    stack = Stack.from_bytes(stack.to_bytes(), "some name")
    for table, symbols, popped in reversed(done):
        if popped:
            stack.push(*table.interval(symbols))
        else:
            assert np.array_equal(stack.pop(table), symbols)
    assert stack.is_empty()


def test_damage_to_a_stack_shows_at_its_end() -> None:
    table = listed(60, 4)
    stack = Stack(2)
    symbols = rng(5).integers(0, 4, 60)
    stack.push(*table.interval(symbols))
    data = stack.to_bytes()
    unseen = 0
    for bit in range(16, 8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            other = Stack.from_bytes(bytes(bad))
            other.pop(table)
            unseen += other.is_empty()
        except ValueError:
            pass
    assert not unseen


def test_seed_words_are_looked_at() -> None:
    """Damage at the bottom of a bits-back stack may change no symbol: looking at the words that come back finds it."""
    table, pushed, stack = listed(60, 9), listed(60, 2, 8), Stack(1, "a")
    first, second = stack.pop(table), stack.pop(table)
    stack.push(*pushed.interval(np.ones(60, np.int64)))
    data = stack.to_bytes()

    def undone(data: bytes, name: str = "a") -> Stack:
        other = Stack.from_bytes(data, name)
        symbols = other.pop(pushed)
        harmless.append(np.array_equal(symbols, np.ones(60)))
        other.push(*table.interval(second))
        other.push(*table.interval(first))
        return other

    harmless: list[bool] = []
    assert undone(data).is_empty()
    assert not undone(data, "b").is_empty()
    for bit in range(8 * 10, 8 * 14):  # the lowest word
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        assert not undone(bytes(bad)).is_empty()
    assert sum(harmless) > 10


def test_stack_refuses() -> None:
    for table in (listed(20, 200), located(20, 200)):
        with pytest.raises(Underflow):
            Stack(1).pop(table)
    with pytest.raises(ValueError, match="lanes is 0"):
        Stack(0)
    for data in (b"", b"\x01", b"\x00\x00", b"\x01\x00" + bytes(7), b"\x01\x00" + bytes(8), b"\xff\xff" + bytes(90)):
        with pytest.raises(ValueError, match="bytes hold no stack|below 2"):
            Stack.from_bytes(data)
    assert pseudorandom("x", 5).tolist() == pseudorandom("x", 9)[:5].tolist()


# The stack whose lanes come one by one ------------------------------------------------------------------------------


@given(most=st.integers(1, 90), sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_growing_gives_back_what_was_pushed(most: int, sizes: list[int], seed: int) -> None:
    """Symbols that say much, or next to nothing: then there are no words for a lane to begin with."""
    r, kinds = rng(seed), list(KINDS)
    pile = [KINDS[kinds[int(r.integers(4))]](n, int(r.integers(1, 60)), seed + n) for n in sizes]
    symbols = [table.find(r.integers(0, TOTAL, len(table))) for table in pile]
    stack = Growing(most)
    for table, each in zip(reversed(pile), reversed(symbols), strict=True):
        stack.push(*table.interval(each))
    data = stack.to_bytes()
    stack = Growing.from_bytes(data, sum(sizes))
    assert stack.to_bytes() == data
    for table, each in zip(pile, symbols, strict=True):
        assert np.array_equal(stack.pop(table), each)
    assert stack.is_empty()


@pytest.mark.parametrize("most", [1, 8, 200])
def test_a_lane_costs_five_bits(most: int) -> None:
    """Not 48: all lanes but the first begin with bits that are there anyway, and end without one that is not used."""
    table = listed(12000, 16, 3)
    symbols = table.find(rng(4).integers(0, TOTAL, len(table)))
    start, frequency = table.interval(symbols)
    stack = Growing(most)
    stack.push(start, frequency)
    bits = float((24 - np.log2(frequency)).sum())
    assert abs(8 * len(stack.to_bytes()) - bits - 48 - 4.5 * most) < 40 + 0.5 * most + 0.0002 * bits


def test_damage_to_a_growing_stack_shows_at_its_end() -> None:
    table = listed(120, 4)
    stack = Growing(3)  # of 4 that so many symbols may have: another number shows
    stack.push(*table.interval(rng(5).integers(0, 4, 120)))
    data, unseen = stack.to_bytes(), 0
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            other = Growing.from_bytes(bytes(bad), 120)
            other.pop(table)
            unseen += other.is_empty()
        except ValueError:
            pass
    assert not unseen
    for size in range(len(data)):
        with pytest.raises(ValueError):
            other = Growing.from_bytes(data[:size], 120)
            other.pop(table)
            if not other.is_empty():
                raise ValueError
    with pytest.raises(Underflow):
        Growing.from_bytes(data, 119).pop(table)
    with pytest.raises(ValueError, match="most is 0"):
        Growing(0)


def test_few_lanes_pop_the_same_from_tables_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    table = located(700, 90)
    symbols = table.find(rng(6).integers(0, TOTAL, 700))
    found = []
    for most in (8, -1):
        monkeypatch.setattr(ans, "LIST", most)
        for stack in (Stack(3), Growing(3)):
            stack.push(*table.interval(symbols))
            assert np.array_equal(stack.pop(table), symbols)
            assert stack.is_empty()
        borrowing = Stack(3, "name")
        found.append((borrowing.pop(table), borrowing.to_bytes()))
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_stirring_twice_is_nothing() -> None:
    stack = Stack(5, "likely/test")
    before = stack.to_bytes()
    stack.stir(3)
    assert stack.to_bytes() != before
    stack.stir(3)
    assert stack.to_bytes() == before


def test_what_is_popped_from_stirred_bits_is_uniform_whatever_was_pushed() -> None:
    """Bits-back pops z under q where the last z was pushed under the prior: one far out gives one far out again."""
    found = []
    for stirred in (False, True):
        stack = Stack(1024, "likely/test")
        stack.push(np.full(1024, TOTAL - 64), np.full(1024, 64))  # a code in the far tail, in every lane
        if stirred:
            stack.stir(0)
        found.append(np.bincount(stack.pop(Uniform(1024, 8)), minlength=8))
    assert found[0].tolist() == [0] * 7 + [1024]
    assert ((found[1] - 128) ** 2 / 128).sum() < 45  # chi-square with 7 degrees of freedom: p = 1e-7
