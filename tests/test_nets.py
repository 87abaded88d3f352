"""Networks with a clock: U-Net, DiT and MLP keep one contract, whatever the sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from likely.logprob import BATCH
from likely.nets import dit, unet
from likely.nets.attention import Attention, forward_mode
from likely.nets.clocked import ClockedMLP
from likely.nets.dit import DiT, positions
from likely.nets.embedding import Condition, waves
from likely.nets.unet import UNet

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": (1, 2), "attention": (1,)}
"""A U-Net of two levels."""
UNETS: dict[str, dict[str, Any]] = {
    "ddpm": SMALL | {"scale": False},
    "scale and shift": SMALL,
    "efficient": SMALL | {"order": "efficient", "rescale": True},
}
NETS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    **{f"unet, {name}": (lambda c, o=None, s=s, **k: UNet(c, o, **s, **k), (7, 10)) for name, s in UNETS.items()},
    "unet, sequence": (lambda c, o=None, **k: UNet(c, o, dims=1, **SMALL, **k), (11,)),
    "dit": (lambda c, o=None, **k: DiT(c, o, width=16, depth=2, **k), (4, 6)),
    "dit, sequence": (lambda c, o=None, **k: DiT(c, o, dims=1, patch=3, width=16, depth=2, **k), (12,)),
    "mlp": (lambda c, o=None, **k: ClockedMLP(c, o, width=16, **k), ()),
}


def shaken(net: nn.Module) -> nn.Module:
    """Without zeros, so that every part has its effect; in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return net.eval()


def inputs(n: int, channels: int, sites: tuple[int, ...], **sizes: int) -> tuple[Tensor, Tensor, Condition]:
    made = {
        "vector": lambda: torch.randn(n, sizes["vector"]),
        "tokens": lambda: torch.randn(n, 5, sizes["tokens"]),
        "image": lambda: torch.randn(n, sizes["image"], *sites),
    }
    parts = {name: make() for name, make in made.items() if name in sizes}
    if "tokens" in parts:
        parts["mask"] = torch.arange(5) < torch.randint(0, 6, (n, 1))  # also rows without any token
    return torch.randn(n, channels, *sites), torch.linspace(-15, 15, n, dtype=torch.float64), Condition(**parts)


def built(name: str, channels: int = 2, outputs: int | None = None, **more: int) -> tuple[nn.Module, tuple[int, ...]]:
    make, sites = NETS[name]
    return make(channels, outputs, **more), sites


# The contract -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("channels", "outputs"), [(1, None), (3, None), (4, 8)])
def test_shapes_zero_at_first_and_both_dtypes(name: str, channels: int, outputs: int | None) -> None:
    net, sites = built(name, channels, outputs)
    x, log_snr, _ = inputs(3, channels, sites)
    y = net(x, log_snr)
    assert y.shape == (3, channels if outputs is None else outputs, *sites) and y.dtype == torch.float32
    assert not y.any()
    y = shaken(net)(x, log_snr)
    assert y.std() > 1e-3
    wide = net.double()(x.double(), log_snr)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), y, atol=1e-4, rtol=1e-4)
    assert net(x[:0].double(), log_snr[:0]).shape == (0, *y.shape[1:])


@pytest.mark.parametrize("order", ["ddpm", "efficient"])
@pytest.mark.parametrize("sites", [(1, 1), (2, 3), (5, 5), (8, 17), (28, 28)])
def test_unet_takes_any_size(order: str, sites: tuple[int, int]) -> None:
    net = shaken(UNet(1, width=8, multipliers=(1, 1, 2), blocks=(1, 1, 1), order=order))
    assert net(torch.randn(2, 1, *sites), torch.zeros(2)).shape == (2, 1, *sites)


@pytest.mark.parametrize("name", NETS)
def test_everything_given_is_used_row_by_row(name: str) -> None:
    """Moving the clock or a part of the condition in one row moves that row's answer, and no other row's."""
    sizes = {"vector": 3, "image": 2} | ({} if name == "mlp" else {"tokens": 6})
    net, sites = built(name, **sizes)
    net = shaken(net)
    x, log_snr, c = inputs(4, 2, sites, **sizes)
    if c.mask is not None:
        c.mask[1, :2] = True
    before = net(x, log_snr, c)
    for part in ("log_snr", *sizes, *(["mask"] if c.mask is not None else [])):
        changed = {k: getattr(c, k).clone() for k in ("vector", "tokens", "mask", "image") if getattr(c, k) is not None}
        clock = log_snr.clone()
        if part == "log_snr":
            clock[1] += 0.5
        elif part == "mask":
            changed["mask"][1] = ~changed["mask"][1]
        else:
            changed[part][1] = torch.randn_like(changed[part][1])
        moved = (net(x, clock, Condition(**changed)) - before).flatten(1).abs().amax(1)
        assert moved[1] > 1e-4, part
        assert moved[[0, 2, 3]].max() < 1e-5, part


@pytest.mark.parametrize("name", [name for name in NETS if name != "mlp"])
def test_masked_tokens_are_not_read(name: str) -> None:
    net, sites = built(name, tokens=6)
    net = shaken(net)
    x, log_snr, c = inputs(4, 2, sites, tokens=6)
    noisy = Condition(tokens=torch.where(c.mask[:, :, None], c.tokens, 100 * torch.randn_like(c.tokens)), mask=c.mask)
    torch.testing.assert_close(net(x, log_snr, noisy), net(x, log_snr, c))
    nothing = Condition(tokens=c.tokens, mask=torch.zeros_like(c.mask))
    assert net(x, log_snr, nothing).isfinite().all()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [8, 28], ids=["small", "larger"])
def test_rows_do_not_know_their_batch(name: str, size: int) -> None:
    """In the canonical batch of scores a row's answer is the same to the last bit, whoever the other rows are."""
    sizes = {"vector": 3} | ({} if name == "mlp" else {"tokens": 6})
    net, sites = built(name, 1, **sizes)
    sites = tuple(size if "unet" in name else 12 for _ in sites)
    x, log_snr, c = inputs(BATCH, 1, sites, **sizes)
    with torch.no_grad():
        every = shaken(net)(x, log_snr, c)
        order = torch.randperm(BATCH)
        assert torch.equal(net(x[order], log_snr[order], c.take(order)), every[order])
        alone = torch.full((BATCH,), 7)
        assert torch.equal(net(x[alone], log_snr[alone], c.take(alone)), every[alone])


@pytest.mark.parametrize("name", NETS)
def test_doubled_batch_is_two_batches(name: str) -> None:
    """Guidance runs with and without the caption as one batch."""
    sizes = {"vector": 3} | ({} if name == "mlp" else {"tokens": 6})
    net, sites = built(name, **sizes)
    net = shaken(net)
    x, log_snr, c = inputs(3, 2, sites, **sizes)
    without = Condition(
        torch.zeros_like(c.vector), c.tokens, None if c.mask is None else torch.zeros_like(c.mask), c.image
    )
    both = net(torch.cat([x, x]), torch.cat([log_snr, log_snr]), Condition.concat([c, without]))
    parts = torch.cat([net(x, log_snr, c), net(x, log_snr, without)])
    torch.testing.assert_close(both, parts)
    assert not torch.allclose(*both.chunk(2))


@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_every_parameter(name: str) -> None:
    sizes = {"vector": 3, "image": 2} | ({} if name == "mlp" else {"tokens": 6})
    net, sites = built(name, **sizes)
    x, log_snr, c = inputs(3, 2, sites, **sizes)
    if c.mask is not None:
        c.mask[0] = True
    shaken(net)(x, log_snr, c).square().mean().backward()
    still = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # a key's bias adds the same to all logits of a query, up to its norm
    assert not still


@pytest.mark.parametrize("name", NETS)
def test_tangents(name: str) -> None:
    """`torch.func.jvp` by x and by the clock agrees with a difference, and can itself be trained through."""
    net, sites = built(name)
    net = shaken(net).double()
    x, log_snr, _ = inputs(3, 2, sites)
    x, u, one = x.double(), torch.randn(x.shape, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    with forward_mode():
        y, along = torch.func.jvp(net, (x, log_snr), (u, one))
    h = 1e-5
    difference = (net(x + h * u, log_snr + h * one) - net(x - h * u, log_snr - h * one)) / (2 * h)
    torch.testing.assert_close(along, difference, atol=1e-7, rtol=1e-6)
    (y - (y - along).detach()).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_fused_attention_still_has_no_tangents() -> None:
    """The reason for `forward_mode`: when this fails, it can go."""
    net, x = Attention(8, 4), torch.randn(2, 5, 8)
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(net, (x,), (x,))


@pytest.fixture
def tracing() -> Iterator[None]:
    """Importing PyTorch's tracer switches the argument checks of all distributions off: they are put back."""
    import torch._dynamo

    yield
    Distribution.set_default_validate_args(True)
    torch._dynamo.reset()


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("name", ["unet, ddpm", "unet, efficient", "dit", "mlp"])
def test_traced_as_one_graph(name: str) -> None:
    """No Python in it depends on data: `torch.compile(fullgraph=True)` takes it (here without a compiler behind)."""
    sizes = {"vector": 3} | ({} if name == "mlp" else {"tokens": 6})
    net, sites = built(name, **sizes)
    net = shaken(net)
    x, log_snr, c = inputs(3, 2, sites, **sizes)
    traced = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(x, log_snr, c), net(x, log_snr, c))


@pytest.mark.parametrize("name", NETS)
def test_dropout_is_on_in_training_alone(name: str) -> None:
    net, sites = built(name, dropout=0.5)
    net = shaken(net)
    x, log_snr, _ = inputs(3, 2, sites)
    assert torch.equal(net(x, log_snr), net(x, log_snr))
    net.train()
    assert not torch.equal(net(x, log_snr), net(x, log_snr))


def test_channels_last_is_the_same_network() -> None:
    net = shaken(UNet(2, **UNETS["efficient"], tokens=6))
    x, log_snr, c = inputs(3, 2, (7, 10), tokens=6)
    before = net(x, log_snr, c)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last), log_snr, c), before)


def test_clock_is_of_order_one() -> None:
    """The network reads waves of log-SNR / 4, in the precision of the log-SNR, cast at the end."""
    net, seen = ClockedMLP(2), []
    net.embedding.clock.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    log_snr = torch.tensor([-20.0, 0.1, 13.3], dtype=torch.float64)
    net(torch.zeros(3, 2), log_snr)
    features = seen[0].shape[1]
    slowest = seen[0][:, features // 2]
    assert torch.equal(slowest, (log_snr / 4 * 0.125).sin().float())
    fastest = seen[0][:, -1]
    assert torch.equal(fastest, (log_snr / 4 * 16).sin().float())


@pytest.mark.parametrize("scale", [True, False])
def test_block_against_its_formula(scale: bool) -> None:
    block = shaken(UNet(1, width=8, multipliers=(1,), blocks=(1,), attention=(), scale=scale).down[0])
    h, e = torch.randn(2, 8, 4, 4), torch.randn(2, 32)
    r = block.one(F.silu(block.norm_one(h)))
    m = block.modulate(e)[:, :, None, None]
    r = (1 + m[:, :8]) * block.norm_two(r) + m[:, 8:] if scale else block.norm_two(r + m)
    torch.testing.assert_close(block(h, e, None, None), h + block.two(F.silu(r)))


def test_a_clock_is_read_by_pairs() -> None:
    with pytest.raises(ValueError, match="width is 7; accepts even numbers"):
        UNet(1, width=7)


def test_rescaled_sums() -> None:
    """Zero at first, a block with `rescale` is h / sqrt 2."""
    block = UNet(1, **UNETS["efficient"]).middle[1]
    h, e = torch.randn(2, 16, 4, 4), torch.randn(2, 32)
    torch.testing.assert_close(block(h, e, None, None), h / 2**0.5)


# What each is -------------------------------------------------------------------------------------------------------


def test_ddpm_has_its_published_size() -> None:
    """35.7 million parameters for CIFAR-10 (Ho, Jain, Abbeel, 2020, appendix B): 35,746,307 in the authors' code."""
    with torch.device("meta"):
        net = UNet(3, **unet.PRESETS["ddpm"])
    assert sum(p.numel() for p in net.parameters()) == 35_746_307
    assert net(torch.empty(2, 3, 32, 32, device="meta"), torch.empty(2, device="meta")).shape == (2, 3, 32, 32)


def test_presets_build() -> None:
    with torch.device("meta"):
        count = {n: sum(p.numel() for p in UNet(3, **s).parameters()) for n, s in unet.PRESETS.items()}
        small = sum(p.numel() for p in DiT(3, **dit.PRESETS["small"]).parameters())
    assert count["tiny"] < 2e6 < count["efficient"] < count["ddpm"]
    assert 30e6 < small < 36e6  # DiT-S has 33 million


def test_attention_stands_at_its_levels_alone() -> None:
    net = UNet(1, width=8, multipliers=(1, 1, 1), blocks=(2, 2, 2), attention=(1,))
    with_sites = [part.sites is not None for part in (*net.down, *net.middle, *net.up) if isinstance(part, unet.Block)]
    assert with_sites == [False, False, True, True, False, False, True, False, *[False] * 3, *[True] * 3, *[False] * 3]


def test_efficient_order_keeps_blocks_off_the_full_size() -> None:
    """Of all blocks only the last one sees the input's size."""
    net = UNet(1, width=8, multipliers=(1, 2), blocks=(1, 2), attention=(1,), order="efficient")
    seen: list[tuple[int, ...]] = []
    for part in net.modules():
        if isinstance(part, unet.Block):
            part.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape[2:])))
    net(torch.randn(1, 1, 16, 8), torch.zeros(1))
    assert seen == [(8, 4), (4, 2), (4, 2), (4, 2), (4, 2), (4, 2), (4, 2), (8, 4), (16, 8)]


def test_waves_tell_log_snrs_apart() -> None:
    """Over lambda in -20 .. 20 no two clocks look alike, and near ones look near."""
    log_snr = torch.linspace(-20, 20, 401, dtype=torch.float64)
    w = waves(log_snr / 4, 32)
    assert w.shape == (401, 32) and w.abs().max() <= 1
    torch.testing.assert_close(w[:, :16] ** 2 + w[:, 16:] ** 2, torch.ones(401, 16, dtype=torch.float64))
    distance, apart = torch.cdist(w, w), (log_snr[:, None] - log_snr).abs()
    near = distance[(apart > 0) & (apart < 0.15)]
    assert near.min() > 0.1 and near.max() < distance[apart > 4].min()


def test_positions_tell_sites_apart() -> None:
    p = positions((5, 9), 16, torch.float32, torch.device("cpu"))
    assert p.shape == (45, 16)
    assert (torch.cdist(p, p) + 10 * torch.eye(45)).min() > 0.1
    grid = p.reshape(5, 9, 16)
    assert torch.equal(grid[2, :, :4], grid[2, :1, :4].expand(9, -1))  # the first half is the row's
    assert torch.equal(grid[:, 3, 8:], grid[:1, 3, 8:].expand(5, -1))  # the second the column's


@pytest.mark.parametrize("axis", [2, 3])
def test_dit_knows_where_a_patch_stands(axis: int) -> None:
    """Without positions it could not tell moved patches from the picture."""
    net, x = shaken(DiT(1, width=16, depth=2)), torch.randn(1, 1, 8, 8)
    moved = net(x.roll(2, axis), torch.zeros(1)).roll(-2, axis)
    assert not torch.allclose(moved, net(x, torch.zeros(1)), atol=1e-3)


def test_attention_against_sums() -> None:
    layer = Attention(6, 3, tokens=3, norm=True).double()
    h, t = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.rand(2, 5) < 0.5
    q, k, v = layer.qkv(h).reshape(2, 4, 3, 2, 3).unbind(2)
    k_t, v_t = layer.tokens(t).reshape(2, 5, 2, 2, 3).unbind(2)
    k, v = torch.cat([k, k_t], 1), torch.cat([v, v_t], 1)
    q, k = (a / (a.square().mean(-1, keepdim=True) + torch.finfo(a.dtype).eps).sqrt() for a in (q, k))
    logits = torch.einsum("bihd,bjhd->bhij", q, k) / 3**0.5
    logits[:, :, :, 4:] += torch.where(mask, 0.0, -torch.inf)[:, None, None]
    a = torch.einsum("bhij,bjhd->bihd", logits.softmax(-1), v).reshape(2, 4, 6)
    torch.testing.assert_close(layer(h, t, mask), layer.out(a))


def test_conditions_take_and_concat() -> None:
    _, _, c = inputs(3, 1, (4,), vector=2, tokens=3, image=1)
    twice = Condition.concat([c, c.take(torch.tensor([2, 2]))])
    for part in ("vector", "tokens", "mask", "image"):
        assert torch.equal(getattr(twice, part)[3:], getattr(c, part)[[2, 2]])
        assert torch.equal(getattr(twice, part)[:3], getattr(c, part))
    assert Condition().take(slice(0, 1)) == Condition()


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: UNet(1, dims=3), "dims is 3; accepts 1 for sequences, 2 for images"),
        (lambda: UNet(1, order="reverse"), "order is 'reverse'; accepts 'ddpm', 'efficient'"),
        (lambda: UNet(1, blocks=(1, 0, 1)), "blocks is (1, 0, 1); accepts one number, 1 or more, for each multiplier"),
        (lambda: UNet(1, attention=(3,)), "attention is (3,); accepts levels 0 .. 2"),
        (lambda: UNet(1, attention=(), tokens=4), "accepts tokens with at least one level in attention"),
        (lambda: DiT(1, dims=3), "dims is 3; accepts 1 for sequences, 2 for images"),
        (lambda: DiT(1, width=30), "width is 30; accepts multiples of 4"),
        (lambda: DiT(1)(torch.zeros(1, 1, 4, 7), torch.zeros(1)), "accepts sides that patch=2 divides"),
        (lambda: DiT(1)(torch.zeros(1, 2, 4, 4), torch.zeros(1)), "x has shape (1, 2, 4, 4); accepts (B, 1, H, W)"),
        (lambda: UNet(1, dims=1)(torch.zeros(1, 1, 4, 4), torch.zeros(1)), "accepts (B, 1, L)"),
        (lambda: ClockedMLP(2)(torch.zeros(1, 3), torch.zeros(1)), "x has shape (1, 3); accepts (B, 2)"),
        (lambda: ClockedMLP(2)(torch.zeros(4, 2), torch.zeros(3)), "log_snr has shape (3,); accepts (4,)"),
        (lambda: UNet(1)(torch.zeros(4, 1, 8, 8), torch.zeros(())), "log_snr has shape (); accepts (4,)"),
        (
            lambda: ClockedMLP(2, vector=3)(torch.zeros(1, 2), torch.zeros(1)),
            "condition.vector is missing; this network was built with vector=3",
        ),
        (
            lambda: ClockedMLP(2)(torch.zeros(1, 2), torch.zeros(1), Condition(torch.zeros(1, 3))),
            "condition.vector has shape (1, 3); this network was not built with vector",
        ),
        (
            lambda: UNet(1, image=2)(torch.zeros(1, 1, 8, 8), torch.zeros(1), Condition(image=torch.zeros(1, 1, 8, 8))),
            "condition.image has shape (1, 1, 8, 8); this network was built with image=2",
        ),
        (
            lambda: UNet(1)(torch.zeros(1, 1, 8, 8), torch.zeros(1), Condition(mask=torch.ones(1, 3, dtype=bool))),
            "condition.mask is given without tokens",
        ),
        (
            lambda: Condition.concat([Condition(torch.zeros(1, 2)), Condition()]),
            "conditions have different parts",
        ),
    ],
)
def test_mistakes_are_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert says in str(error.value)
