"""Counter-based draws: row i gets numbers that depend on (seed, row id, draw, number of the call) alone.

So neither batching, nor the order of rows, nor the number of processes moves a result, and no global state is touched.
Each row has a 64-bit key; element j of a call is the output function of SplitMix64 at `key + j * golden ratio`
("Fast splittable pseudorandom number generators", Steele, Lea and Flood, 2014). All integer work is exact on every
device; the arithmetic is int64 that wraps around, which is what unsigned arithmetic modulo 2^64 does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """A 64-bit word as the int64 with the same bits."""
    return word - 2**64 if word >= 2**63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_STEP = _signed(0xD1342543DE82EF95)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Logical (unsigned) right shift."""
    return (word >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _mix(word: Tensor) -> Tensor:
    """The finaliser of SplitMix64: a bijection of 64-bit words in which every input bit moves every output bit."""
    word = (word ^ _shifted(word, 30)).mul_(_MIX_1)
    word = word.bitwise_xor_(_shifted(word, 27)).mul_(_MIX_2)
    return word.bitwise_xor_(_shifted(word, 31))


def _mix_int(word: int) -> int:
    """`_mix` of one word, unsigned."""
    word %= 2**64
    word = (word ^ word >> 30) * _MIX_1 % 2**64
    word = (word ^ word >> 27) * _MIX_2 % 2**64
    return word ^ word >> 31


@cache
def _root(n: int) -> int:
    """The fraction of the square root of prime number n (from 0), in units of 2^-64, as a signed word."""
    primes: list[int] = []
    candidate = 2
    while len(primes) <= n:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return _signed(math.isqrt(primes[n] << 128) % 2**64)


class Noise:
    """A source of draws for B rows, k draws each; every call is the next independent draw.

    `Noise(seed, n)` serves rows 0 .. n-1; `Noise(seed, ids)` serves the rows with these (int64) ids; `draws` is a
    number k, or the draw numbers themselves when a long evaluation is cut into pieces. Results have shape
    `(B * k, *shape)`, the draws of one row adjacent; `expand` brings data of B rows to that layout.
    """

    def __init__(self, seed: int, rows: int | Tensor, draws: int | range = 1) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed is {type(seed).__name__}; accepts an int")
        if isinstance(rows, int):
            rows = torch.arange(rows)
        if rows.ndim != 1 or rows.dtype != torch.int64:
            raise ValueError(f"rows has shape {tuple(rows.shape)} and {rows.dtype}; accepts a vector of int64 row ids")
        numbers = range(draws) if isinstance(draws, int) else draws
        if len(numbers) < 1:
            raise ValueError(f"draws is {draws}; accepts 1 or more")
        self.seed, self.rows, self.draws = seed, rows, len(numbers)
        self.calls = 0
        high, low = divmod(seed % 2**128, 2**64)
        start = _mix_int(_mix_int(low + _GOLDEN) + high)
        keys = _mix(rows * _GOLDEN + _signed(start))
        if numbers == range(1):
            self._keys, self._places = _mix(keys), torch.stack([rows, torch.zeros_like(rows)])
        else:
            number = torch.arange(numbers.start, numbers.stop, numbers.step, device=rows.device)
            self._keys = _mix(keys[:, None] + number * _MIX_2).flatten()
            self._places = torch.stack([rows.repeat_interleave(len(number)), number.repeat(len(rows))])

    @property
    def count(self) -> int:
        """B * k, the leading size of every draw."""
        return self._keys.shape[0]

    def expand(self, values: Tensor) -> Tensor:
        """Rows of `values` (B, ...), each repeated for its k draws: (B * k, ...)."""
        return values if self.draws == 1 else values.repeat_interleave(self.draws, 0)

    def at(self, index: Tensor) -> Noise:
        """The rows `index` of this source, from its present call on: rows may repeat, and then share their draws."""
        part = copy.copy(self)
        part.rows = self.rows[index]
        part._keys = self._keys.reshape(len(self.rows), self.draws)[index].flatten()
        part._places = self._places.reshape(2, len(self.rows), self.draws)[:, index].flatten(1)
        return part

    def skip_to(self, other: Noise) -> None:
        """Go on where `other`, a part of this source, has come to: what follows is independent of all its draws."""
        while self.calls < other.calls:
            self._next()

    def flat(self) -> Noise:
        """Every draw as a row of its own, from the present call on: for values that `expand` brought to that layout."""
        part = copy.copy(self)
        part.rows, part.draws = self.rows.repeat_interleave(self.draws), 1
        return part

    def uniform(self, shape: Iterable[int] = (), *, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform on the open interval (0, 1); float32 draws are the float64 draws cut to 23 bits."""
        dtype = dtype or torch.get_default_dtype()
        bits = 52 if dtype == torch.float64 else 23
        word = _shifted(self._words(shape), 64 - bits)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return word.to(wide).add_(0.5).mul_(2.0**-bits).to(dtype)

    def stratified(self) -> Tensor:
        """One uniform a draw, (B * k,) float64, spread evenly over neighbouring rows and over the draws of a row.

        Each is uniform on (0, 1) over seeds, but they depend on each other: an average over rows or draws of a smooth
        function of them is unbiased and varies far less than that of independent ones. Row i, draw j stand at the
        fraction of i sqrt(p) + j sqrt(q), moved as a whole by what seed and call say; every call has primes p and q of
        its own, and so has a seed of another high word, so that two calls are spread evenly over the square as well
        ("Quasi-Monte Carlo methods and pseudo-random numbers", Niederreiter, 1978).
        """
        self._next()
        moved = _mix_int(_mix_int(self.seed + self.calls * _STEP) + (self.seed >> 64))
        place = self.calls + 64 * ((self.seed >> 64) % 4)  # other primes for a source that is another by its high word
        along_rows, along_draws = (_root(2 * place + i) for i in (-2, -1))
        row, draw = self._places
        word = _shifted(row * along_rows + draw * along_draws + _signed(moved), 12)
        return word.double().add_(0.5).mul_(2.0**-52)

    def normal(self, shape: Iterable[int] = (), *, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal ("A note on the generation of random normal deviates", Box and Muller, 1958)."""
        dtype = dtype or torch.get_default_dtype()
        shape = tuple(shape)
        size = math.prod(shape)
        word = self._words((-(-size // 2),))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        radius = _shifted(word, 32).to(wide).add_(0.5).mul_(2.0**-32).log_().mul_(-2).clamp_(min=0).sqrt_()
        angle = (word & 0xFFFFFFFF).to(wide).mul_(2 * math.pi * 2.0**-32)
        pair = torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], 1)[:, :size]
        return pair.reshape(self.count, *shape).to(dtype)

    def gumbel(self, shape: Iterable[int] = (), *, dtype: torch.dtype | None = None) -> Tensor:
        """Standard Gumbel: the arg-max of logits plus this is a draw from their softmax."""
        return self.uniform(shape, dtype=dtype).log_().neg_().log_().neg_()

    def logistic(self, shape: Iterable[int] = (), *, dtype: torch.dtype | None = None) -> Tensor:
        """Standard logistic."""
        u = self.uniform(shape, dtype=dtype)
        return u.log().sub_((1 - u).log_())

    def integers(self, high: int, shape: Iterable[int] = ()) -> Tensor:
        """Uniform integers 0 .. high-1 (int64), high up to 2^31; the bias is below high / 2^31."""
        if not 1 <= high <= 2**31:
            raise ValueError(f"high is {high}; accepts 1 .. 2^31")
        return (_shifted(self._words(shape), 33) * high) >> 31

    def torch_seed(self) -> int:
        """A 63-bit seed for what cannot take draws from here (dropout, which runs in a forked global state)."""
        first = _signed((int(self._keys[0]) - self.calls * _STEP) % 2**64) if self.count else 0
        self._next()
        word = torch.tensor([_signed(self.seed % 2**64) ^ first if self.count else 0])
        return int(_shifted(_mix(word + _signed(self.calls * _GOLDEN % 2**64)), 1))

    def _next(self) -> Tensor:
        """The rows' keys, moved on by a call."""
        self.calls += 1
        self._keys = self._keys + _STEP  # not first + calls * _STEP: torch.compile cannot wrap its own integers around
        return self._keys

    def _words(self, shape: Iterable[int]) -> Tensor:
        """The next draw as raw 64-bit words, (count, *shape)."""
        shape = tuple(shape)
        key = _mix(self._next())
        offset = torch.arange(1, math.prod(shape) + 1, device=key.device) * _GOLDEN
        return _mix(key[:, None] + offset).reshape(self.count, *shape)
