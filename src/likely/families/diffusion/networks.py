"""The network that a config asks for."""

from __future__ import annotations

from torch import Tensor, nn

from likely.config.diffusion import Network as Config
from likely.nets.clocked import ClockedMLP
from likely.nets.dit import DiT
from likely.nets.embedding import Condition
from likely.nets.unet import UNet
from likely.space import Integers, Reals


class Flat(nn.Module):
    """A network on vectors, for arrays of any shape."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition | None = None) -> Tensor:
        return self.net(x.flatten(1), log_snr, condition).reshape(x.shape)


def network(config: Config, space: Integers | Reals, vector: int) -> nn.Module:
    """net(x, log_snr, condition) for x (B, *space.shape), with a condition's vector of that size, 0 for none.

    Raises `ValueError` where the network does not fit the space.
    """
    if config.net == "mlp":
        return Flat(
            ClockedMLP(space.dims, width=config.width, blocks=config.blocks[0], dropout=config.dropout, vector=vector)
        )
    if len(space.shape) not in (2, 3):
        raise ValueError(
            f"net is {config.net!r} over {space}; accepts pictures (C, H, W) or sequences (C, L): choose 'mlp'"
        )
    channels, dims = space.shape[0], len(space.shape) - 1
    if config.net == "dit":
        if any(side % config.patch for side in space.shape[1:]):
            raise ValueError(f"patch is {config.patch}; accepts what divides every side of {space}")
        return DiT(
            channels,
            dims=dims,
            width=config.width,
            depth=config.blocks[0],
            head=config.head,
            patch=config.patch,
            dropout=config.dropout,
            vector=vector,
        )
    levels = len(config.multipliers)
    if len(config.blocks) not in (1, levels):
        raise ValueError(f"blocks is {config.blocks}; accepts one number, or one for each of {levels} multipliers")
    return UNet(
        channels,
        dims=dims,
        width=config.width,
        multipliers=config.multipliers,
        blocks=config.blocks * levels if len(config.blocks) == 1 else config.blocks,
        attention=config.attention,
        head=config.head,
        order=config.order,
        dropout=config.dropout,
        vector=vector,
    )
