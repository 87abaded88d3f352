"""Codecs and files: what went in comes out, as small as the model says, or a clear error."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from headers import put
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from likely import data, registry
from likely.coding import (
    Codec,
    CodecError,
    CorruptChunk,
    CorruptHeader,
    DecodeMismatch,
    ModelMismatch,
    NotACodecFile,
    NumericsMismatch,
    UnsupportedVersion,
    container,
)
from likely.coding.choice import schemes_of
from likely.coding.container import Chunk, Kind
from likely.coding.header import header_of
from likely.coding.latent import Lattice, prior_tables
from likely.coding.programs import looked_up
from likely.conformance import check
from likely.families.vae.latent import Gaussian, GaussianMixture
from likely.logprob import sample, scoring
from likely.noise import Noise
from likely.space import Integers, Reals
from likely.train import save
from likely.verbs import takes_y

TINY = {(family, name): tiny for family in registry.FAMILIES for name, tiny in registry.tiny(family).items()}


def codable(tiny: Any) -> bool:
    try:
        schemes_of(registry.build(tiny.config, tiny.space, tiny.condition))
    except TypeError:
        return False
    return True


CODABLE = {" / ".join(key): tiny for key, tiny in TINY.items() if codable(tiny)}


def make(name: str, *, shake: float = 0.3, seed: int = 1) -> nn.Module:
    """A tiny instance with its parameters moved away from where they start."""
    tiny = CODABLE[name]
    model = registry.build(tiny.config, tiny.space, tiny.condition, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def labels(model: Any, n: int) -> Tensor | None:
    if takes_y(model) and isinstance(model.condition, Reals):
        return torch.linspace(-2, 2, n * model.condition.dims).reshape(n, -1)
    return torch.arange(n) % model.condition.levels if takes_y(model) else None


def draws(model: Any, n: int, seed: int = 0) -> Tensor:
    return sample(model, n, labels(model, n), seed=seed)


@pytest.fixture(scope="module")
def digits() -> Any:
    return data.load("digits")


@pytest.fixture(scope="module")
def mixture(digits: Any) -> nn.Module:
    """A mixture fitted to the digits by a few passes of EM."""
    model: Any = registry.build("mixture", digits.space, components=20, seed=0)
    model.prepare(digits.train.x, noise=Noise(0, len(digits.train.x)))
    for _ in range(5):
        model.absorb(model.statistics(digits.train.x))
    return model.eval()


@pytest.fixture(scope="module")
def autoencoder(digits: Any) -> nn.Module:
    """A VAE trained on the digits for some seconds."""
    model: Any = registry.build("vae", digits.space, latent=6, hidden=(64,), seed=0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    for step in range(500):
        x = digits.train.x[torch.randint(len(digits.train.x), (64,), generator=order)]
        optimiser.zero_grad()
        model.loss(x, noise=Noise(step, 64)).backward()
        optimiser.step()
        model.after_step()
    return model.eval()


@pytest.fixture(scope="module")
def small() -> tuple[Codec, Tensor, bytes]:
    """A codec, rows, and a file that is small enough to try all of its bits."""
    model = make("mixture / categorical")
    coder = Codec(model, chunk=24)
    x = draws(model, 40)
    return coder, x, coder.compress(x, notes={"names": ["a", "b"]})


# There and back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODABLE)
def test_every_model_that_can_be_coded_gives_back_what_it_got(name: str) -> None:
    model = make(name)
    coder = Codec(model, group=5, chunk=12)
    space, n = model.space, 30
    generator = torch.Generator().manual_seed(3)
    anything = torch.randint(space.levels, (n, *space.shape), generator=generator)  # likely or not
    for x in (draws(model, n), anything):
        y = labels(model, n)
        rows = coder.read(coder.compress(x, y))
        assert torch.equal(rows.x.long(), x)
        assert rows.x.dtype == torch.uint8
        assert (rows.y is None) == (y is None)
        assert y is None or torch.equal(rows.y, y)


@pytest.mark.parametrize("name", CODABLE)
def test_what_a_file_says_of_its_model_is_what_the_model_says(name: str) -> None:
    """A sequential encoder adds log p up as it goes; 12 rows make three groups, the last of them filled up."""
    model = make(name)
    coder = Codec(model, group=5, chunk=10)
    x, y = draws(model, 12), labels(model, 12)
    said = header_of(container.read(coder.compress(x, y))).content.nll_bits
    assert said == pytest.approx(float(coder.expected_bits(x, y).sum()), abs=0.51)


def test_integer_flow_of_several_levels() -> None:
    """No tiny instance has room for a second level, whose parts have to come in the right order."""
    model: Any = registry.build("integer-flow", Integers((1, 4, 4), 5), depth=1, width=6, components=2, seed=1)
    assert len(model.bases) == 2
    assert model.bases[0].shape != model.bases[1].shape
    assert check(model, only="C1").passed


def test_families_that_must_be_codable() -> None:
    assert {name.split(" / ")[0] for name in CODABLE} >= {"mixture", "autoregressive", "integer-flow", "vae"}
    ordered = [name for name in CODABLE if name.startswith("autoregressive")]
    assert len(ordered) == len(registry.tiny("autoregressive"))


@given(
    n=st.integers(1, 40),
    group=st.integers(1, 12),
    chunk=st.integers(1, 50),
    seed=st.integers(0, 2**20),
    like=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_number_of_rows_in_any_groups_and_chunks(n: int, group: int, chunk: int, seed: int, like: bool) -> None:
    model = make("autoregressive / pixelcnn, colour, logistic")
    x = draws(model, n, seed) if like else torch.randint(2, (n, 3, 2, 2), generator=torch.Generator().manual_seed(seed))
    blob = Codec(model, group=group, chunk=chunk).compress(x)
    assert torch.equal(Codec(model).decompress(blob).long(), x)
    rows = container.read(blob).entries
    assert [e.rows for e in rows] == [min(chunk, n - low) for low in range(0, n, chunk)]


def test_digits_cost_what_the_model_says(mixture: nn.Module, digits: Any) -> None:
    """The test set as one file: within 0.5 % of its own likelihood, all of the container at most 256 bytes."""
    coder = Codec(mixture)
    report = coder.report(digits.test.x)
    assert report.raw == report.initial == 0
    assert 0 < report.overhead < 0.005
    assert report.header <= 8 * 256
    assert report.coded / (report.rows * report.dims) < 2.4
    assert float(coder.expected_bits(digits.test.x).sum()) == pytest.approx(report.nll, rel=1e-12)
    blob = coder.compress(digits.test.x)
    assert 8 * len(blob) == report.coded + report.header
    assert report.bits_per_dim == 8 * len(blob) / digits.test.x.numel()


def test_bits_back_costs_the_bound(autoencoder: nn.Module, digits: Any) -> None:
    """Within 0.5 % of the ELBO where the first group's initial bits are spread over many rows; two-part costs more."""
    x = digits.train.x
    with scoring(autoencoder):
        nats = torch.stack([autoencoder.elbo(x, noise=Noise(i, len(x))) for i in range(8)]).mean()  # ty: ignore
    bound = -float(nats) / math.log(2) * len(x)
    report = Codec(autoencoder, group=4).report(x)
    assert report.kind == "<="
    assert report.raw == 0
    assert abs(report.coded / bound - 1) < 0.005
    assert 0 < report.initial < 0.005 * report.coded
    single = Codec(autoencoder, scheme="two-part").report(x)
    assert single.initial == 0
    assert 1.01 < single.coded / bound < 1.15


def test_few_rows_are_coded_in_two_parts(autoencoder: nn.Module, digits: Any) -> None:
    coder = Codec(autoencoder)
    for n, scheme in ((1, "two-part"), (19, "two-part"), (20, "bits-back")):
        blob = coder.compress(digits.test.x[:n])
        assert container.read(blob).header["coding"]["scheme"] == scheme
        assert torch.equal(coder.decompress(blob), digits.test.x[:n])
    with pytest.raises(ValueError, match="accepts two-part, bits-back"):
        Codec(autoencoder, scheme="sequential")


def test_damage_to_the_bits_that_were_borrowed_is_seen(autoencoder: nn.Module, digits: Any) -> None:
    """They change no pixel, so that only their own check can find it; no checksum stands in its way here."""
    coder, x = Codec(autoencoder, group=4, chunk=40), digits.test.x[:40]
    blob = coder.compress(x)
    data = bytearray(container.read(blob).chunk(0))
    lanes = data[0]
    data[2 + 8 * lanes] ^= 1  # the lowest word
    with pytest.raises(CorruptChunk, match="end where it began"):
        coder.decompress(rewritten(blob, chunks=lambda p: [p[0]._replace(data=bytes(data))]))


@pytest.mark.parametrize("name", ["normal", "mixture"])
def test_latents_cost_what_their_prior_says(name: str) -> None:
    """On a fine lattice the tables of all latents together charge log p(z) and the size of a cell."""
    r = torch.Generator().manual_seed(0)
    m = 1 if name == "normal" else 3
    mean, log_var = torch.randn(m, 4, generator=r).double(), 0.5 * torch.randn(m, 4, generator=r).double()
    weight = torch.randn(m, generator=r).double()
    prior: Any = Gaussian(mean, log_var) if m == 1 else GaussianMixture(weight, mean, log_var)
    lattice = Lattice(6, 8)
    z = mean[torch.arange(200) % m] + (log_var[torch.arange(200) % m] / 2).exp() * torch.randn(200, 4, generator=r)
    k = lattice.nearest(z)
    found = looked_up(prior_tables(prior, lattice, k), k)
    charged = np.concatenate([(24 - np.log2(f)).reshape(200, -1) for _, f in found], 1).sum(1)
    says = -prior.log_prob(lattice.value(k)).numpy() / math.log(2) + 4 * 6
    assert np.quantile(np.abs(charged - says), 0.95) < 0.05  # in the far tails frequencies are small integers
    assert np.abs((charged - says).mean()) < 0.01


def test_lattice() -> None:
    lattice = Lattice(3, 5)
    k = np.arange(lattice.size)
    assert lattice.value(k)[[0, -1]].tolist() == [-5, 5]
    assert np.array_equal(lattice.nearest(lattice.value(k)), k)
    assert lattice.nearest(torch.tensor([-9.0, 9.0, 0.07])).tolist() == [0, lattice.size - 1, 41]


def test_one_row_alone(mixture: nn.Module, digits: Any) -> None:
    coder, x = Codec(mixture), digits.test.x[:1]
    blob = coder.compress(x)
    assert torch.equal(coder.decompress(blob), x)
    assert len(blob) < 260


def test_bytes_do_not_depend_on_dtype_or_layout_or_how_often(mixture: nn.Module, digits: Any) -> None:
    x = digits.test.x[:20]
    first = Codec(mixture).compress(x)
    assert first == Codec(mixture).compress(x.long()) == Codec(mixture).compress(x.numpy().tolist())
    assert first == Codec(mixture).compress(np.asfortranarray(x.numpy()))
    assert first == Codec(mixture.double()).compress(x, verify=False)


def test_rows_that_do_not_become_smaller_stay_as_they_are() -> None:
    """A file is never larger than the raw bytes and its header."""
    model = make("mixture / categorical", shake=60)  # so sure of itself that most rows cost more than a byte a number
    n = 200
    x = torch.randint(2, (n, *model.space.shape), generator=torch.Generator().manual_seed(0))
    coder = Codec(model)
    kinds = {}
    for rows in (x, draws(model, n)):
        blob = coder.compress(rows)
        archive = container.read(blob)
        kinds[rows is x] = {e.kind for e in archive.entries}
        assert len(blob) <= rows.numel() + archive.overhead
        assert torch.equal(coder.decompress(blob).long(), rows)
    assert kinds == {True: {Kind.RAW}, False: {Kind.MODEL}}


def test_progress_counts_the_rows(mixture: nn.Module, digits: Any) -> None:
    coder, seen = Codec(mixture, chunk=40), []
    blob = coder.compress(digits.test.x[:100], progress=seen.append)
    assert seen == [40, 80, 100]
    seen.clear()
    coder.decompress(blob, progress=seen.append)
    assert seen == [40, 80, 100]


def test_files(small: Any, tmp_path: Path) -> None:
    coder, x, _ = small
    np.save(tmp_path / "x.npy", x.numpy())
    coder.compress_file(tmp_path / "x.npy", tmp_path / "x.lkz")
    coder.decompress_file(tmp_path / "x.lkz", tmp_path / "y.npz")
    assert np.array_equal(np.load(tmp_path / "y.npz")["x"], x.numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.lkz", "x.npy", "y.npz"]
    (tmp_path / "bad.lkz").write_bytes((tmp_path / "x.lkz").read_bytes()[:-1])
    with pytest.raises(CorruptHeader):
        coder.decompress_file(tmp_path / "bad.lkz", tmp_path / "z.npz")
    assert not (tmp_path / "z.npz").exists()
    assert not list(tmp_path.glob(".*"))


# Damage -------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_an_error(small: Any) -> None:
    coder, x, blob = small
    assert torch.equal(coder.decompress(blob).long(), x)
    for bit in range(8 * len(blob)):
        bad = bytearray(blob)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            coder.decompress(bytes(bad))


def test_every_truncation_and_extension_is_an_error(small: Any) -> None:
    coder, _, blob = small
    for size in range(len(blob)):
        with pytest.raises(CodecError):
            coder.decompress(blob[:size])
        with pytest.raises(CodecError):
            coder.decompress(blob[size + 1 :])
    for more in (b"\0", b"\n", blob):
        with pytest.raises(CodecError):
            coder.decompress(blob + more)
    with pytest.raises(NotACodecFile):
        coder.decompress(b"")
    with pytest.raises(NotACodecFile):
        coder.decompress(b"\x89PNG\r\n\x1a\n" + blob[8:])


def rewritten(blob: bytes, change: Any = None, chunks: Any = None) -> bytes:
    """A file with another header, or other chunks, and all checksums right."""
    archive = container.read(blob)
    header = json.loads(json.dumps(archive.header))
    if change is not None:
        change(header)
    parts = [Chunk(e.kind, e.rows, archive.chunk(i)) for i, e in enumerate(archive.entries)]
    return container.write(header, parts if chunks is None else chunks(parts))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (put("model", "sha256", to="0" * 32), ModelMismatch, "needs the model 0000"),
        (put("numerics", "fingerprint", to="0" * 16), NumericsMismatch, "other tables"),
        (put("numerics", "profile", to="int8"), UnsupportedVersion, "'int8'"),
        (put("numerics", "profile", to="int"), CorruptHeader, "numeric profile is int, its model's f64"),
        (put("coding", "coder", to="ans31"), UnsupportedVersion, "'ans31'"),
        (put("coding", "scheme", to="magic"), CorruptHeader, "'magic'"),
        (put("coding", "group", to=0), CorruptHeader, "coding.group"),
        (put("coding", "group", to=10**9), CorruptHeader, "coding.group"),
        (put("coding", "extra", to=0), CorruptHeader, "coding.extra"),
        (put("content", "rows", to=41), CorruptHeader, "40 rows"),
        (put("content", "sha256", to="0" * 32), DecodeMismatch, "hash differs"),
        (put("space", "levels", to=3), CorruptHeader, "space"),
        (put("space", to={"kind": "reals", "shape": [4]}), CorruptHeader, "Reals"),
    ],
)
def test_a_header_with_right_checksums_and_wrong_words(small: Any, change: Any, error: type, says: str) -> None:
    coder, _, blob = small
    with pytest.raises(error, match=says):
        coder.decompress(rewritten(blob, change))
    assert issubclass(error, CodecError)
    assert issubclass(CodecError, ValueError)


def test_chunks_with_right_checksums_and_wrong_bytes(small: Any) -> None:
    coder, _, blob = small
    assert rewritten(blob) == blob

    def flipped(byte: int) -> Any:
        def change(parts: list[Chunk]) -> list[Chunk]:
            data = bytearray(parts[0].data)
            data[byte] ^= 4
            return [parts[0]._replace(data=bytes(data)), *parts[1:]]

        return change

    size = len(container.read(blob).chunk(0))
    for byte in range(size):
        with pytest.raises(CorruptChunk):
            coder.decompress(rewritten(blob, chunks=flipped(byte)))
    with pytest.raises((CorruptChunk, DecodeMismatch)):  # chunks that have changed places
        coder.decompress(rewritten(blob, chunks=lambda p: [p[1], p[0], p[2]]))
    with pytest.raises(CorruptHeader):
        coder.decompress(rewritten(blob, chunks=lambda p: p[:1]))
    with pytest.raises(CorruptChunk):  # fewer bytes than rows
        coder.decompress(rewritten(blob, chunks=lambda p: [p[0]._replace(kind=Kind.RAW), *p[1:]]))
    with pytest.raises(CorruptChunk, match="levels"):
        raw = [Chunk(Kind.RAW, 40, bytes([200] * 240))]
        coder.decompress(rewritten(blob, chunks=lambda p: raw))


def test_another_version(small: Any) -> None:
    coder, _, blob = small
    for at in (8, 10):  # version 3, for 2 is known as well; a flag
        bad = bytearray(blob)
        bad[at] += 2
        with pytest.raises(UnsupportedVersion, match="version"):
            coder.decompress(bytes(bad))


def test_another_model(small: Any) -> None:
    _, _, blob = small
    other = Codec(make("mixture / categorical", seed=2))
    with pytest.raises(ModelMismatch) as caught:
        other.decompress(blob)
    assert caught.value.need == container.read(blob).header["model"]["sha256"]
    assert caught.value.have == other.hash
    with pytest.raises(ModelMismatch, match="Integers"):
        Codec(make("autoregressive / made")).decompress(blob)


def test_the_fingerprint_sees_a_model_that_answers_otherwise(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights, other numbers: as on a machine whose arithmetic is not the writer's."""
    coder, _, blob = small
    other = Codec(make("mixture / categorical"))
    assert other.hash == coder.hash
    with torch.no_grad():
        other.model.logits += 0.02 * torch.arange(other.model.logits.shape[2])[:, None]
    with pytest.raises(NumericsMismatch):
        other.decompress(blob)


def test_rows_that_do_not_come_back_are_stored(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose tables move with the size of the batch: what verification is for."""
    _, x, _ = small
    model = make("mixture / categorical")
    inner = type(model)._conditional

    def moody(self: Any, state: Any) -> Any:
        found = inner(self, state)
        return found._replace(parameters=found.parameters * (1 + 0.1 * (len(found.parameters) % 2)))

    monkeypatch.setattr(type(model), "_conditional", moody)
    coder = Codec(model, group=8)
    blob = coder.compress(x)
    assert {e.kind for e in container.read(blob).entries} == {Kind.RAW}
    assert torch.equal(coder.decompress(blob).long(), x)


# Refusals -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compressed(small: Any) -> None:
    coder, x, blob = small
    for bad, error, says in (
        (x.float(), TypeError, "float32"),
        (torch.full((2, *x.shape[1:]), math.nan), TypeError, "float32"),
        (x + 200, ValueError, "holds values"),
        (-x - 1, ValueError, "holds values"),
        (x[:0], ValueError, "x is empty"),
        (x[0], ValueError, "shape"),
    ):
        with pytest.raises(error, match=says):
            coder.compress(bad)
    with pytest.raises(ValueError, match="limit"):
        Codec(coder.model, limit=100).compress(x)
    with pytest.raises(CorruptHeader, match="limit"):
        Codec(make("mixture / categorical"), limit=100).decompress(blob)
    with pytest.raises(ValueError, match="y was given"):
        coder.compress(x, torch.zeros(40))
    with pytest.raises(ValueError, match="group is 0"):
        Codec(coder.model, group=0)


REFUSED = {  # family: the words that say why, and the instances that are refused where others are coded
    "residual": ("residual is ", None),
    "continuous-flow": ("continuous-flow is Trainable, Samples, Estimated; accepts Ordered", None),
    "diffusion": ("diffusion is Trainable, Samples, Bounded", None),
    "meanflow": ("meanflow is Trainable, Samples, Denoiser; accepts Ordered", None),
    "consistency": ("consistency is Trainable, Samples; accepts Ordered", None),
    "hybrid": ("whose trunk can be a flow of couplings or an integer flow", {"residual, bytes", "ODE, bytes"}),
    "hyperprior": ("what it codes comes back changed; likely.coding.LossyCodec does that", None),
}


def test_every_model_of_integers_is_coded_or_says_why_not() -> None:
    """Those that are coded are the ones of the tests above, all of which come back."""
    found: dict[str, set[str]] = {}
    for (family, name), tiny in TINY.items():
        if isinstance(tiny.space, Integers) and f"{family} / {name}" not in CODABLE:
            found.setdefault(family, set()).add(name)
            with pytest.raises(TypeError, match="compress needs a model whose numbers can be coded; ") as caught:
                Codec(registry.build(tiny.config, tiny.space, tiny.condition))
            assert REFUSED[family][0] in str(caught.value)
    everything = {f: {n for (g, n), t in TINY.items() if f == g and isinstance(t.space, Integers)} for f in REFUSED}
    assert found == {family: some or everything[family] for family, (_, some) in REFUSED.items()}


def test_models_that_cannot_code_say_why() -> None:
    for family, fields, space, says in (
        ("mixture", {}, Reals((2,)), "only Integers have code lengths"),
        ("flow", {}, Reals((2,)), "Integers"),
    ):
        with pytest.raises(TypeError, match=says):
            Codec(registry.build(family, space, **fields))
    with pytest.raises(TypeError, match="at most 65536"):
        Codec(registry.build("autoregressive", Integers((2,), 70000), observation="logistic", network="made"))


# Other machines -----------------------------------------------------------------------------------------------------

ELSEWHERE = """
import json, sys, hashlib
import torch
torch.set_num_threads(int(sys.argv[2]))
import likely as lk
from pathlib import Path
folder, found = Path(sys.argv[1]), {}
for path in sorted(folder.glob("*.safetensors")):
    model = lk.load_model(path)
    x = torch.load(folder / f"{path.stem}.pt", weights_only=True)
    found[path.stem] = {"back": torch.equal(lk.Codec(model).decompress((folder / f"{path.stem}.lkz").read_bytes()), x)}
    image = torch.arange(64 * 48 * 48).reshape(1, 64, 48, 48).sin()
    weight = torch.arange(64 * 64 * 9).reshape(64, 64, 3, 3).cos()
    bits = torch.nn.functional.conv2d(image, weight).numpy().tobytes()
    found[path.stem]["float32"] = hashlib.sha256(bits).hexdigest()
print(json.dumps(found))
"""


def elsewhere(folder: Path, threads: int = 1, **environment: str) -> dict[str, dict[str, Any]]:
    """What a process under another environment makes of the files in a folder."""
    source = str(Path(__file__).parent.parent / "src")
    merged = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": str(threads), **environment}
    words = [sys.executable, "-c", ELSEWHERE, str(folder), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, env=merged, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def written(mixture: Any, autoencoder: Any, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of this process: models beside what they compressed."""
    folder = tmp_path_factory.mktemp("written")
    pixels = registry.build("autoregressive", digits.space, network="pixelcnn", width=8, layers=1, components=5)
    shifts = registry.build("integer-flow", digits.space, depth=2, width=24)
    shifts.prepare(digits.train.x, noise=Noise(0, 512))
    for name, model in (("mixture", mixture), ("vae", autoencoder), ("pixelcnn", pixels), ("integer-flow", shifts)):
        model = model.float()
        save(model, folder / f"{name}.safetensors")
        x = digits.test.x[:21]
        torch.save(x, folder / f"{name}.pt")
        blob = Codec(model).compress(x)
        assert Kind.RAW not in {e.kind for e in container.read(blob).entries} or name == "integer-flow"
        (folder / f"{name}.lkz").write_bytes(blob)
    return folder


def test_another_machine_decodes_the_same_bits(written: Path) -> None:
    """Without vector instructions and on two threads; that float32 does differ there shows that it is elsewhere."""
    here = elsewhere(written)
    there = elsewhere(written, 2, ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_CBWR="COMPATIBLE")
    assert all(each["back"] for each in (*here.values(), *there.values()))
    assert here["vae"]["float32"] != there["vae"]["float32"]


@pytest.mark.long
@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "default"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"MKL_CBWR": "COMPATIBLE"},
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_other_machines_decode_the_same_bits(written: Path, environment: dict[str, str], threads: int) -> None:
    assert all(each["back"] for each in elsewhere(written, threads, **environment).values())
