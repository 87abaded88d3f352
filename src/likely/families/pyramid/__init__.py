"""Pyramid: a normalised distribution over images of any size, coarse to fine, by integer networks.

Level l + 1 of an image is every second pixel of level l; the coarsest is one pixel. With x_(l, g, c) channel c of the
pixels of level l that stand in group g (see `lattice`), all of them at once,

    p(x) = p(coarsest pixel) prod_l prod_g prod_c p(x_(l, g, c) given level l + 1, groups before g, channels before c),

and within such a step the pixels are independent given what was before: 9 steps a level, and not a pixel at a time
("PixelCNN models with auxiliary variables for natural image modeling", Kolesnikov, Lampert, 2017; "Lossless image
compression through super-resolution", Cao, Wu, Krahenbuhl, 2020; "Multiscale PixelCNN", Reed and others, 2017).
Channels are coded green, red, blue, the later ones by their difference to green. A grey image is a colour one whose
channels agree and of which the first alone is asked for, so that one set of weights serves both.

A step's network sees the pixels around as their distances from an interpolation, and by how much the interpolations of
the groups before were wrong, all in units of the local contrast, a power of two; it answers with a mixture of
discretised logistics in the same units. So where the contrast doubles, so does what it says, and pictures of other
contrasts than those it learned from are as good as known.

All of it is integers, from the pixels to the parameters (`network`, `lattice`), hence `numerics = "int"`. That a file
decodes elsewhere rests on three things: sums of integers below 2^24 are exact in float32 in whatever order they are
taken; what else is done to them (products with powers of two, floor, clamp, comparisons) is exact too; and the tables
that the parameters are looked up in are made of integers alone (`likely.coding.tables`). log p is floating point, and
no file depends on it.
"""

from __future__ import annotations

from likely.families.pyramid.model import TINY, PyramidModel, model

__all__ = ["TINY", "PyramidModel", "model"]
