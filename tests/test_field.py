"""A neural field as a file: whole numbers all the way, the same picture everywhere, or an error."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import laplace

from likely.coding import CodecError, CorruptChunk, CorruptHeader, DecodeMismatch, NumericsMismatch, container, tables
from likely.coding.ans import Stack
from likely.coding.container import Chunk, Kind
from likely.coding.fidelity import psnr
from likely.coding.field import file, fit
from likely.coding.field.file import compress, decompress, header_of, unpack
from likely.coding.field.grids import MOST_LEVELS, NEIGHBOURS, Grids, levels_of, shapes_of
from likely.coding.field.nets import (
    FRACTION,
    MOST_LATENT,
    PHASES,
    SCALES,
    Entropy,
    Weights,
    Widths,
    chosen,
    features,
    frozen,
    synthesise,
)
from likely.coding.tables import TOTAL
from likely.noise import Noise

sys.path.append(str(Path(__file__).parent))
from shell import Shell
from test_coding_forever import hammer

ROOT = Path(__file__).resolve().parent.parent


def scene(channels: int = 3, height: int = 21, width: int = 26, seed: int = 0) -> np.ndarray:
    """Slopes, an edge and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [120 + 60 * np.sin(x / 7 + c) + 50 * (y + x > height) - y for c in range(channels)]
    return np.clip(np.stack(planes) + rng.normal(0, 3, (channels, height, width)), 0, 255).astype(np.uint8)


def integers(channels: int = 3, levels: int = 4, seed: int = 0) -> Weights:
    """Weights that make every clamp and every rounding matter."""
    rng, widths = np.random.default_rng(seed), Widths(channels, levels, 5, 6)
    values = {
        name: rng.integers(-90, 91, shape) for shapes in widths.parts().values() for name, shape in shapes.items()
    }
    return Weights(widths, dict(zip(widths.parts(), (7, 5, 6, 4, 8), strict=True)), values)


def latents(height: int, width: int, seed: int = 0, reach: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-reach, reach + 1, shape) for shape in shapes_of(height, width)]


@pytest.fixture(scope="module")
def blob() -> bytes:
    return compress(scene(), lam=1e-3, steps=40)


# The order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (5, 7), (64, 3), (130, 70)])
def test_every_latent_has_one_place_and_its_neighbours_come_before_it(height: int, width: int) -> None:
    order = Grids(height, width)
    assert len(order.place) == len(set(order.place.tolist())) == sum(h * w for h, w in order.shapes)
    assert order.shapes[-1] == (1, 1) or len(order.shapes) == MOST_LEVELS
    when = np.full(order.size, -1)
    begin = 0
    for step, end in enumerate(order.ends):
        when[order.place[begin:end]] = step
        begin = end
    assert begin == len(order.place)
    own = when[order.place]
    assert (order.contexts(when, slice(None)) < own[:, None]).all()
    assert len(order.ends) <= width + 2 * (height - 1)


def test_contexts_are_those_of_the_definition() -> None:
    """Looked up in two dimensions, one latent at a time, with zeros outside of the grids."""
    order, grids = Grids(11, 6), latents(11, 6)
    found = order.contexts(order.flat(grids), slice(None))
    where = order.flat([1000 * level + np.arange(g.size).reshape(g.shape) for level, g in enumerate(grids)])
    for number, row in zip(where[order.place], found, strict=True):
        grid = grids[number // 1000]
        y, x = divmod(int(number % 1000), grid.shape[1])
        inside = [y + dy >= 0 and 0 <= x + dx < grid.shape[1] for dy, dx in NEIGHBOURS]
        wanted = [int(grid[y + dy, x + dx]) if ok else 0 for (dy, dx), ok in zip(NEIGHBOURS, inside, strict=True)]
        assert row.tolist() == wanted
    assert all(np.array_equal(a, b) for a, b in zip(order.grids(order.flat(grids)), grids, strict=True))


def test_the_wavefront_decodes_what_one_latent_after_the_other_does() -> None:
    weights, grids = integers(levels=5), latents(9, 8, reach=3)
    data = file.pack(fit.Fitted(grids, weights, 0))
    at_once, _, _ = unpack(data, (3, 9, 8))
    _, stack, _ = file.unpack_weights(data, (3, 9, 8))
    order, entropy = Grids(9, 8), Entropy(weights)
    flat = order.empty()
    for i, place in enumerate(order.place):
        index, add = entropy(order.contexts(flat, slice(i, i + 1)))
        flat[place] = (stack.pop(chosen(index)) + add)[0]
    assert stack.is_empty()
    for one, wave, given in zip(order.grids(flat), at_once, grids, strict=True):
        assert np.array_equal(one, given)
        assert np.array_equal(wave, given)


# The networks, against plain Python integers -------------------------------------------------------------------------


def dense(weights: Weights, w: str, b: str, a: list[int], clamp: bool) -> list[int]:
    groups = {name: group for group, shapes in weights.widths.parts().items() for name in shapes}
    k, j = weights.exponents[groups[w]], weights.exponents[groups[b]]
    out = []
    for row, offset in zip(weights.values[w].tolist(), weights.values[b].tolist(), strict=True):
        total = sum(x * y for x, y in zip(row, a, strict=True)) * 2**j + offset * 2 ** (FRACTION + k)
        value = total // 2 ** (k + j)
        out.append(min(max(value, 0), 256 << FRACTION) if clamp else value)
    return out


@pytest.mark.parametrize("fine", [True, False])
def test_entropy_network_in_integers(fine: bool) -> None:
    """Not fine: large weights on small values, where a unit in a hidden value moves the answer."""
    weights, rng = integers(seed=3), np.random.default_rng(1)
    contexts = rng.integers(-40, 41, (50, len(NEIGHBOURS)))
    contexts[0], contexts[1] = MOST_LATENT, -MOST_LATENT
    if not fine:
        weights = Weights(weights.widths, {**weights.exponents, "entropy": 9}, dict(weights.values))
        contexts = rng.integers(-1, 2, (50, len(NEIGHBOURS)))
        weights.values["w3"][:] *= 45
    index, add = Entropy(weights)(contexts)
    for row, i, a in zip(contexts.tolist(), index.tolist(), add.tolist(), strict=True):
        h1 = dense(weights, "w1", "b1", [c << FRACTION for c in row], True)
        h2 = [x + y for x, y in zip(h1, dense(weights, "w2", "b2", h1, True), strict=True)]
        mu, log_scale = dense(weights, "w3", "b3", h2, False)
        sixteenths = min(max((mu + 128) // 256, -MOST_LATENT * 16), MOST_LATENT * 16)
        phase, scale = divmod(i, SCALES)
        assert 16 * (a + 255) + phase - 8 == sixteenths
        assert scale == min(max((log_scale + 256 + int(3.75 * 4096)) // 512, 0), 63)
    assert len(set(index.tolist())) > 5


def test_hidden_values_have_a_ceiling() -> None:
    """Of 256: then a mean of 32, and a pixel of 160."""
    weights = integers(levels=1)
    weights = Weights(
        weights.widths, dict.fromkeys(weights.exponents, 3), {k: 0 * v for k, v in weights.values.items()}
    )
    weights.values["w1"][0, 0] = weights.values["v1"][0, 0] = 4095
    weights.values["w3"][0, 0] = weights.values["v2"][0, 0] = 1
    weights.values["a2"][0] = -31 * 8 - 4
    index, add = Entropy(weights)(np.full((1, len(NEIGHBOURS)), MOST_LATENT))
    assert (index[0] // SCALES - 8, add[0] + 255) == (0, 32)
    assert synthesise(weights, [np.array([[MOST_LATENT]])])[0, 0, 0] == 160


def test_synthesis_in_integers() -> None:
    weights, grids = integers(levels=3, seed=5), latents(4, 3, seed=2)
    height, width = 4, 3

    def doubled(grid: list[list[int]], h: int, w: int) -> list[list[int]]:
        """16 times the bilinear upsampling."""

        def line(values: list[int], n: int) -> list[int]:
            near = [values[0], *values, values[-1]]
            pairs = [v for i in range(1, len(near) - 1) for v in (near[i - 1] + 3 * near[i], 3 * near[i] + near[i + 1])]
            return pairs[:n]

        wide = [line(row, w) for row in grid]
        return [list(row) for row in zip(*(line(list(column), h) for column in zip(*wide, strict=True)), strict=True)]

    up = []
    for level, grid in enumerate(grids):
        whole = grid.tolist()
        for finer in range(level - 1, -1, -1):
            whole = doubled(whole, *grids[finer].shape)
        up.append([[v * 4096 // 16**level for v in row] for row in whole])
    o = [[[0] * width for _ in range(height)] for _ in range(3)]
    for y in range(height):
        for x in range(width):
            h = dense(weights, "v1", "a1", [plane[y][x] for plane in up], True)
            for c, value in enumerate(dense(weights, "v2", "a2", h, False)):
                o[c][y][x] = value
    for w, b, clamp in (("v3", "a3", True), ("v4", "a4", False)):
        flat = Weights(weights.widths, weights.exponents, weights.values | {w: weights.values[w].reshape(3, -1)})
        new = [[list(row) for row in plane] for plane in o]
        for y in range(height):
            for x in range(width):
                rows, columns = [min(max(y + d, 0), 3) for d in (-1, 0, 1)], [min(max(x + d, 0), 2) for d in (-1, 0, 1)]
                near = [min(max(o[c][r][s], -(2**22)), 2**22) for c in range(3) for r in rows for s in columns]
                for c, value in enumerate(dense(flat, w, b, near, clamp)):
                    new[c][y][x] = min(max(o[c][y][x], -(2**22)), 2**22) + value
        o = new
    wanted = np.clip((np.array(o) * 64 + (128 << 12) + 2048) >> 12, 0, 255)
    found = synthesise(weights, grids)
    assert np.array_equal(found, wanted)
    assert (found % 255 > 0).mean() > 0 and len(np.unique(found)) > 4


def test_upsampling_loses_nothing_in_float64() -> None:
    """Six doublings of the largest latents: parts of 2^-24 and integers of 2^7 fit, so any order of sums is exact."""
    rng = np.random.default_rng(0)
    grids = [
        torch.from_numpy(rng.integers(-127, 128, shape).astype(np.float64))[None, None] for shape in shapes_of(97, 65)
    ]
    found = features(grids)
    assert found.shape == (1, 7, 97, 65)
    assert torch.equal((found * 2**24).round(), found * 2**24)


def test_sums_that_float64_could_round_are_refused() -> None:
    weights = integers()
    weights.values["w2"][0, 0] = 1 << 40
    with pytest.raises(ValueError, match=r"w2 reach \d+; integers are exact below 2\^53"):
        Entropy(weights)


def test_laplace_in_frozen_tables() -> None:
    t = np.arange(-24 * 256, 24 * 256 + 1) / 256
    assert np.abs(tables._function("laplace")[0] / 2**30 - laplace.cdf(t)).max() < 2**-29


def test_frozen_tables_are_distributions_with_the_mean_and_scale_that_they_say() -> None:
    listed, _ = frozen()
    frequency = np.diff(listed.cumulative, axis=1)
    assert frequency.min() >= 1
    assert (frequency.sum(1) == TOTAL).all()
    symbols = np.arange(listed.size) - 255
    mean = (frequency * symbols).sum(1) / TOTAL
    phase, scale = np.divmod(np.arange(PHASES * SCALES), SCALES)
    narrow = scale < 40
    assert np.abs(frequency[scale < 56].argmax(1) - 255).max() <= 1  # half a cell away both neighbours have the same
    assert np.allclose(mean[narrow & (scale > 30)], (phase[narrow & (scale > 30)] - 8) / 16, atol=0.03)
    b = np.exp(-3.75 + scale / 8)
    wide = (scale >= 40) & (scale < 56)
    away = (frequency[wide] * np.abs(symbols)).sum(1) / TOTAL
    assert np.allclose(away, b[wide], rtol=0.05)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1, 1, 7), (3, 5, 1), (1, 17, 30), (3, 33, 20)])
def test_there_and_back(shape: tuple[int, int, int]) -> None:
    x = scene(*shape)
    made = compress(x, steps=12)
    found = decompress(made)
    assert found.shape == x.shape and found.dtype == np.uint8
    header = header_of(container.read(made))
    decibel = float(psnr(torch.from_numpy(x)[None], torch.from_numpy(found)[None]))
    assert header.content.psnr == (None if np.array_equal(x, found) else pytest.approx(decibel, abs=1e-3))
    assert header.content.ms_ssim is None
    assert np.array_equal(decompress(made), found)


def test_the_longer_it_is_fitted_the_better_and_lambda_decides_how_small(blob: bytes) -> None:
    x = scene()

    def cost(made: bytes, lam: float) -> float:
        error = ((decompress(made).astype(float) - x) / 255) ** 2
        return float(error.mean()) + lam * 8 * len(made) / x[0].size

    longer, small = compress(x, lam=1e-3, steps=160), compress(x, lam=2e-2, steps=40)
    assert cost(longer, 1e-3) < 0.9 * cost(blob, 1e-3)
    assert len(small) < 0.9 * len(blob)
    assert ((decompress(small).astype(float) - x) ** 2).mean() > ((decompress(blob).astype(float) - x) ** 2).mean()


def test_real_numbers_and_integers_agree() -> None:
    """What the gradient sees is what the file holds: bits within a percent, the error of pixels too."""
    x = scene(3, 40, 48)
    fitted = fit.fit(x, file.widths_for(*x.shape), 1e-3, 120)
    data = file.pack(fitted)
    grids, weights, bits = unpack(data, x.shape)
    assert all(np.array_equal(a, b) for a, b in zip(grids, fitted.grids, strict=True))
    assert all(np.array_equal(weights.values[name], value) for name, value in fitted.weights.values.items())
    field = fit._Field(x, weights.widths, 1e-3, Noise(0, 1))
    units = {name: weights.exponents[group] for group, shapes in weights.widths.parts().items() for name in shapes}
    net = {name: torch.from_numpy(value * 2.0 ** -units[name]).float() for name, value in weights.values.items()}
    flat = torch.cat([torch.from_numpy(grid).float().flatten() for grid in grids])
    _, error, rate = field.loss(flat, net)
    assert abs(8 * len(data) - bits - 80 - float(rate.detach())) < 32 + 0.01 * float(rate.detach())  # whole words
    found = synthesise(weights, grids)
    assert ((found.astype(float) - x) ** 2).mean() / 255**2 == pytest.approx(float(error.detach()), rel=0.02)


def test_same_seed_same_file_and_nobody_elses_noise(blob: bytes) -> None:
    before = torch.get_rng_state()
    assert compress(scene(), lam=1e-3, steps=40) == blob
    assert torch.equal(torch.get_rng_state(), before)
    assert compress(scene(), lam=1e-3, steps=40, seed=1) != blob


def test_other_machines_decode_the_same(blob: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.lkz").write_bytes(blob)
    code = (
        "import hashlib, pathlib, torch; from likely.coding.field.file import decompress; torch.set_num_threads(2); "
        "print(hashlib.sha256(decompress(pathlib.Path('a.lkz').read_bytes()).tobytes()).hexdigest())"
    )
    machine = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "2", **machine}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(decompress(blob).tobytes()).hexdigest()


def test_a_file_of_before_is_read() -> None:
    """Written on 2026-11-25: networks, tables and order are part of the format."""
    found = decompress(base64.b64decode(GOLDEN))
    assert np.abs(found - scene(1, 20, 24).astype(float)).mean() < 16


GOLDEN = """
    iUxLWg0KGgoBAAAAYAAAALyXWj+rxhOs8DDKSy0tSszRTctMzUkBipckJuWkAo1UskhMSjU3NjRAC7mC4jygMUaWeubGpkgeTDGw
    SDM2TUtMNElKM021sDQ2SzY1SjNJMzYxTDQ1TTMCewThQAMdI5PYWgAIDgMNAwUDDAURBgkBAJsy3jsfwqQAgkQHZaTGVvPRu0kc
    OmE6//EvVPmZBhgPokm6jTqO0TwLpDxNKGZM1CbSwdFVq1lxyVEN4bJfY3jbCmmaFHrODlBGL2dny1hUqbrwe0Arf+Pp1dF7VQ3W
    LqbQqerL6a2qIgichUI3Z6TPzv4krqxnJWZIbO4kEYkpGJc31IHT/g1gppkuLHter8EzM7x+MmDWYNO0Y2K2GSMN3s4hh++gHI3y
    2AC9q0mIxUFywHLQWZGdxhXt2RNVPqpwtQ9jTommmmv1rgm5wCDxlr6YAQAAAOIAAACw+v48VgEAAAAAAADO/ZJkChoKDVpLTIk=
"""

# Damage --------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    made = compress(scene(1, 6, 6), steps=4)
    for i in range(8 * len(made)):
        bad = bytearray(made)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises(CodecError):
            decompress(bytes(bad))
    for size in range(len(made)):
        with pytest.raises(CodecError):
            decompress(made[:size])


def test_random_damage(blob: bytes) -> None:
    told = hammer(lambda bad: [decompress(bad)], blob, 600, 3)
    assert told["decoded"] > 0
    assert told["refused"] > 0.9 * 600
    assert told["slowest"] < 5


def test_damage_behind_a_right_checksum_is_noticed(blob: bytes) -> None:
    """The coder's end and the content's hash catch what no CRC sees."""
    archive = container.read(blob)
    data, seen = archive.chunk(0), set()
    for i in range(0, 8 * len(data), 61):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises((CorruptChunk, DecodeMismatch)) as caught:
            decompress(container.write(archive.header, [Chunk(Kind.MODEL, 1, bytes(bad))]))
        seen.add(type(caught.value))
    for size in range(0, len(data), 97):
        with pytest.raises((CorruptChunk, DecodeMismatch)):
            decompress(container.write(archive.header, [Chunk(Kind.MODEL, 1, data[:size])]))
    assert CorruptChunk in seen


def test_a_word_below_the_bottom_is_noticed(blob: bytes) -> None:
    """Everything decodes, and something is left."""
    data = container.read(blob).chunk(0)
    bottom = 2 + 2 * 5 + 2 + 8
    with pytest.raises(CorruptChunk, match="does not end where it began"):
        unpack(data[:bottom] + b"\1\2\3\4" + data[bottom:], (3, 21, 26))


def test_only_the_hash_sees_another_weight(blob: bytes) -> None:
    archive = container.read(blob)
    grids, weights, _ = unpack(archive.chunk(0), (3, 21, 26))
    weights.values["a2"][0] += 1
    data = file.pack(fit.Fitted(grids, weights, 0))
    with pytest.raises(DecodeMismatch):
        decompress(container.write(archive.header, [Chunk(Kind.MODEL, 1, data)]))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"shape": [3, 1 << 20, 1 << 20]}, CorruptHeader, r"1,099,511,627,776 pixels; accepts 2,097,152 \(limit\)"),
        ({"shape": [2, 21, 26]}, CorruptHeader, "accepts .1 or 3"),
        ({"shape": [3, 0, 26]}, CorruptHeader, "accepts .1 or 3"),
        ({"shape": [3, -21, -26]}, CorruptHeader, "accepts .1 or 3"),
        ({"shape": [3, 22, 26]}, CodecError, ""),
        ({"what": 1}, CorruptHeader, "what"),
        ({"coding": {"scheme": "neural-field", "tables": "00000000"}}, NumericsMismatch, "tables are 00000000"),
        ({"coding": {"scheme": "neural-field", "tables": "8abe7310", "coder": "x"}}, CodecError, "coder is 'x'"),
    ],
)
def test_headers_that_lie(blob: bytes, change: dict[str, Any], error: type[CodecError], match: str) -> None:
    archive = container.read(blob)
    with pytest.raises(error, match=match):
        decompress(container.write(archive.header | change, [Chunk(Kind.MODEL, 1, archive.chunk(0))]))


def test_latents_out_of_range_are_refused() -> None:
    weights, grids = integers(), latents(5, 5)
    grids[0][2, 2] = MOST_LATENT + 1
    data = file.pack(fit.Fitted(grids, weights, 0))
    with pytest.raises(CorruptChunk, match="a latent is 128; accepts 127"):
        unpack(data, (3, 5, 5))


def test_a_stack_of_many_lanes_is_refused(blob: bytes) -> None:
    data = container.read(blob).chunk(0)
    with pytest.raises(CorruptChunk, match="2 lanes; accepts 1"):
        unpack(data[:12] + Stack(2).to_bytes(), (3, 21, 26))


@pytest.mark.parametrize(
    ("picture", "options", "error", "match"),
    [
        (np.zeros((3, 4, 4)), {}, TypeError, "picture has numbers of type float64; accepts uint8"),
        (np.full((3, 4, 4), np.nan), {}, TypeError, "accepts uint8"),
        (np.zeros((4, 4), np.uint8), {}, ValueError, "1 or 3 channels"),
        (np.zeros((4, 4, 4), np.uint8), {}, ValueError, "1 or 3 channels"),
        (np.zeros((3, 0, 4), np.uint8), {}, ValueError, "none of them 0"),
        (np.zeros((1, 9, 9), np.uint8), {"limit": 80}, ValueError, "81 pixels; a neural field accepts 80 or fewer"),
        (np.zeros((1, 2, 2), np.uint8), {"lam": 0.0}, ValueError, "lam is 0.0; accepts a number above 0"),
        (np.zeros((1, 2, 2), np.uint8), {"lam": float("nan")}, ValueError, "lam is nan"),
        (np.zeros((1, 2, 2), np.uint8), {"steps": 0}, ValueError, "steps is 0; accepts 1 or more"),
        (np.zeros((1, 2, 2), np.uint8), {"steps": True}, ValueError, "steps is True"),
    ],
)
def test_what_is_refused(picture: Any, options: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        compress(picture, **{"steps": 2, **options})


# Stopping, and the command line --------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_reached() -> None:
    """The steps without noise follow all the same, a quarter as many; Ctrl-C among them ends those."""

    def stops(*when: int) -> Any:
        def stop(step: int, *_: float) -> None:
            if step in when:
                raise KeyboardInterrupt

        return stop

    x = scene(1, 12, 12)
    widths = file.widths_for(*x.shape)
    assert fit.fit(x, widths, 1e-3, 50).steps == 50
    assert fit.fit(x, widths, 1e-3, 50, progress=stops(8)).steps == 8 + 2
    assert fit.fit(x, widths, 1e-3, 50, progress=stops(20, 22)).steps == 22
    assert decompress(compress(x, steps=50, progress=stops(8))).shape == x.shape


@pytest.mark.parametrize("lam", [1e-12, 1e9])
def test_extreme_lambdas(lam: float) -> None:
    x = scene(3, 9, 9)
    assert decompress(compress(x, lam=lam, steps=20)).shape == x.shape


def test_ctrl_c_before_the_first_step_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_softly", stop)
    with pytest.raises(KeyboardInterrupt):
        compress(scene(1, 12, 12), steps=50)


def test_one_picture_there_and_back(shell: Shell) -> None:
    x = scene(3, 30, 40)
    Image.fromarray(x.transpose(1, 2, 0)).save("p.png")
    record = shell.json("compress", "--field", "p.png", "-o", "p.lkz", "--steps", 30, "--lam", 0.002)
    assert record["bytes"] == Path("p.lkz").stat().st_size
    assert record["steps_taken"] == 30
    assert record["weights_bytes"] + record["latents_bytes"] + record["container_bytes"] == pytest.approx(
        record["bytes"], abs=0.2
    )
    told = shell.json("info", "p.lkz")
    assert told == {key: record[key] for key in told}
    status, out, _ = shell("info", "p.lkz")
    assert status == 0
    assert "lossy" in out and "bits/pixel, PSNR" in out and "weights in" in out
    shell.json("decompress", "p.lkz", "-o", "back")
    back = np.asarray(Image.open("back/p.png")).transpose(2, 0, 1)
    assert float(psnr(torch.from_numpy(x)[None], torch.from_numpy(back.copy())[None])) == pytest.approx(
        record["psnr"], abs=1e-3
    )


def test_mistakes_get_a_sentence(shell: Shell) -> None:
    Image.fromarray(scene(1, 8, 8)[0]).save("p.png")
    Path("there.lkz").write_bytes(b"x")
    Path("no.png").write_bytes(b"no picture")
    assert "--force" in shell.mistake("compress", "--field", "p.png", "-o", "there.lkz")
    assert Path("there.lkz").read_bytes() == b"x"
    assert "run is missing" in shell.mistake("compress")
    assert "needs no run" in shell.mistake("compress", "runs/a", "--field", "p.png")
    assert "no file; accepts one picture" in shell.mistake("compress", "--field", "gone.png")
    assert "cannot be read" in shell.mistake("compress", "--field", "no.png")
    assert "steps is 0" in shell.mistake("compress", "--field", "p.png", "--steps", 0)
    assert "lam is -1" in shell.mistake("compress", "--field", "p.png", "--lam", "-1")
    assert not Path("p.lkz").exists()


def test_levels() -> None:
    assert [levels_of(1, n) for n in (1, 2, 3, 4, 5, 64, 65, 4096)] == [1, 2, 3, 3, 4, 7, 7, 7]
