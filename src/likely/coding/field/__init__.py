"""A lossy codec that is fitted to a single picture: no training set and no model, all of it stands in the file.

    blob = compress(picture, lam=1e-3, steps=2000)      # uint8 (C, H, W) to an .lkz file, in minutes
    picture = decompress(blob)                          # in a second, the same pixels on every machine

`grids` has the latents and their order, `nets` the two networks in integers, `fit` the gradient, `file` the bytes.
"""

from likely.coding.field.file import compress, decompress

__all__ = ["compress", "decompress"]
