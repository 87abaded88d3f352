"""Folders of images: what is read, what is converted, what is refused, with the file named."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from likely.data import load
from likely.space import Integers

RNG = np.random.default_rng(0)


def picture(height=6, width=5, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))


def folder(tmp_path, images):
    for name, image in images.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path)
    return tmp_path / "set"


def ten(**options):
    return {f"{i:02}.png": picture(**options) for i in range(10)}


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def whole(data):
    """All rows of the pool, by content, whatever the split."""
    rows = torch.cat([data.train.x, data.valid.x, data.test.x])
    return {row.numpy().tobytes() for row in rows}


def as_rows(images):
    return {np.asarray(image).reshape(*image.size[::-1], -1).transpose(2, 0, 1).tobytes() for image in images}


def refused(tmp_path, images, message, name, **options):
    with pytest.raises(ValueError, match=message) as caught:
        load(folder(tmp_path, images), **options)
    assert name in str(caught.value)


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_folder(tmp_path, channels):
    images = ten(channels=channels)
    data = load(folder(tmp_path, images))
    assert data.space == Integers((channels, 6, 5), 256)
    assert data.train.x.dtype == torch.uint8
    assert data.record["rows"] == {"train": 8, "valid": 1, "test": 1}
    assert data.condition is None
    assert whole(data) == as_rows(images.values())
    assert data.record["files"]["count"] == 10
    assert data.record["conversions"] == {}


def test_class_folders_and_splits(tmp_path):
    images = {
        f"{part}/{label}/deep/{i}.png": picture() for part in ("train", "val", "test") for label in "ba" for i in "01"
    }
    root = folder(tmp_path, images)
    (root / "train" / "notes.txt").write_text("hello")
    (root / "train" / ".hidden.png").write_bytes(b"broken")
    seen = []
    data = load(root, progress=lambda done, total: seen.append((done, total)))
    assert data.classes == ("a", "b")
    assert data.record["rows"] == {"train": 4, "valid": 4, "test": 4}
    assert data.train.y.tolist() == [0, 0, 1, 1]
    assert data.record["skipped"] == ["train/notes.txt"]
    assert data.valid.x[0].numpy().tobytes() in as_rows([images["val/a/deep/0.png"]])
    assert seen == [(12, 12)]
    assert data.record["split"] == {"found": ["test", "train", "valid"], "carved": []}


def test_every_format(tmp_path):
    image = picture(8, 8)
    kinds = {"a.png": "PNG", "b.webp": "WEBP", "c.bmp": "BMP", "d.PNG": "PNG"}
    options = {"WEBP": {"lossless": True}}
    data = load(folder(tmp_path, {n: encoded(image, k, **options.get(k, {})) for n, k in kinds.items()}))
    assert whole(data) == as_rows([image])
    smooth = Image.linear_gradient("L").resize((8, 8)).convert("RGB")
    data = load(
        folder(tmp_path / "2", {"a.jpg": encoded(smooth, "JPEG", quality=95), "b.jpeg": encoded(smooth, "JPEG")})
    )
    assert data.space == Integers((3, 8, 8), 256)
    assert (data.train.x[0].int() - torch.from_numpy(np.array(smooth)).permute(2, 0, 1)).abs().max() < 12


def test_the_record_knows_the_files(tmp_path):
    images = ten()
    first = load(folder(tmp_path, images)).record["files"]["sha256_of_list"]
    assert load(folder(tmp_path, images)).record["files"]["sha256_of_list"] == first
    (tmp_path / "set" / "00.png").rename(tmp_path / "set" / "99.png")
    assert load(tmp_path / "set").record["files"]["sha256_of_list"] != first


# --- what is converted --------------------------------------------------------------------------------------------


def one(tmp_path, image, **options):
    """The only picture of a folder as (H, W, C), and what the record says was done."""
    data = load(folder(tmp_path, {"a.png": image} if not isinstance(image, dict) else image), **options)
    return data.train.x[0].permute(1, 2, 0).numpy(), data.record["conversions"]


def test_palette(tmp_path):
    image = picture().quantize(8)
    x, done = one(tmp_path, image)
    assert (x == np.asarray(image.convert("RGB"))).all()
    assert done == {"palette to RGB": 1}


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    x, done = one(tmp_path, encoded(image, transparency=0))
    assert x.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    assert "transparency composited on white" in done


def test_alpha(tmp_path):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    x, done = one(tmp_path / "1", image)
    assert x.tolist() == [[[10, 20, 30]] * 2]
    assert done == {"opaque alpha channel dropped": 1}
    image.putpixel((1, 0), (10, 20, 30, 0))
    x, done = one(tmp_path / "2", image)
    assert x.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert done == {"transparency composited on white": 1}
    x, _ = one(tmp_path / "3", Image.new("LA", (2, 1), (40, 0)))
    assert x.tolist() == [[[255], [255]]]
    x, done = one(tmp_path / "4", encoded(Image.new("RGB", (2, 1), (1, 2, 3)), transparency=(1, 2, 3)))
    assert x.tolist() == [[[255] * 3] * 2]
    assert done == {"transparency composited on white": 1}


def test_one_bit(tmp_path):
    x, done = one(tmp_path, Image.fromarray(np.array([[True, False]])))
    assert x.tolist() == [[[255], [0]]]
    assert done == {"1 bit to 0 and 255": 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    image, exif = picture(4, 6), Image.Exif()
    exif[0x0112] = orientation
    x, done = one(tmp_path, encoded(image, exif=exif))
    upright = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90,
    }[orientation]  # fmt: skip
    assert (x == upright(np.asarray(image))).all()
    assert done == ({} if orientation == 1 else {"turned as its EXIF orientation says": 1})


def test_size_and_mode(tmp_path):
    flat = Image.new("RGB", (9, 6), (100, 150, 200))
    flat.paste((0, 0, 0), (0, 0, 1, 6))  # a black stripe that the centre crop cuts off
    x, done = one(tmp_path, flat, size=(3, 3))
    assert x.shape == (3, 3, 3)
    assert (x == [100, 150, 200]).all()
    assert len(done) == 1
    x, done = one(tmp_path, flat, size=(3, 3), mode="grey")
    assert x.shape == (3, 3, 1)
    assert (x == round(0.299 * 100 + 0.587 * 150 + 0.114 * 200)).all()
    assert len(done) == 2
    x, _ = one(tmp_path / "2", picture(channels=1), mode="rgb")
    assert x.shape == (6, 5, 3)
    assert (x == x[..., :1]).all()


# --- what is refused ----------------------------------------------------------------------------------------------


def test_mixed_sizes_and_modes(tmp_path):
    mixed = {"a.png": picture(), "b.png": picture(7, 5)}
    refused(tmp_path / "1", mixed, r"b.png is 7 x 5 .* is 6 x 5; resize with size=\(height, width\)", "a.png")
    assert load(tmp_path / "1" / "set", size=(4, 4)).space == Integers((3, 4, 4), 256)
    mixed = {"a.png": picture(), "b.png": picture(channels=1)}
    refused(tmp_path / "2", mixed, r'b.png is grey, .*a.png is RGB; choose mode="grey" or mode="rgb"', "b.png")
    assert load(tmp_path / "2" / "set", mode="grey").space == Integers((1, 6, 5), 256)


def png16(colour):
    """A 2x1 PNG of 16 bits a channel; colour type 0 is grey, 2 is RGB."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    line = b"\0" + bytes(2 * 2 * {0: 1, 2: 3}[colour])
    header = struct.pack(">IIBBBBB", 2, 1, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("grey16.png", png16(0), "16 bits a channel; accepts 8"),
        ("rgb16.png", png16(2), "16 bits a channel; accepts 8"),
        ("cmyk.jpg", encoded(Image.new("CMYK", (4, 4)), "JPEG"), "colour mode CMYK"),
        ("zero.png", b"", "is empty"),
        ("text.png", b"hello world, this is text", r"cannot identify image file$"),
        ("svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"),
        ("gif.png", encoded(Image.new("P", (4, 4)), "GIF"), "cannot be read"),
        ("tiff.png", encoded(Image.new("F", (4, 4)), "TIFF"), "cannot be read"),
        ("a.gif", encoded(Image.new("P", (4, 4)), "GIF"), "not of an accepted format"),
        ("a.tiff", b"II*\0", "not of an accepted format"),
        ("anim.webp", encoded(picture(), "WEBP", save_all=True, append_images=[picture()]), "2 frames"),
        ("anim.png", encoded(picture(), "PNG", save_all=True, append_images=[picture()]), "frames"),
        ("text.png", encoded(picture())[:33] + struct.pack(">I", 2**31 - 1) + b"iTXt", "cannot be read"),
    ],
)
def test_wrong_kinds(tmp_path, name, data, message):
    refused(tmp_path, {"0.png": picture(), name: data}, message, name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_truncated_anywhere(tmp_path, kind):
    data = encoded(picture(40, 40), kind)
    root = folder(tmp_path, {"a.png": b"x"})
    for end in range(0, int(len(data) * 0.98), max(97, len(data) // 25)):
        (root / "a.png").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"a\.png"):
            load(root)


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(1)
    root = folder(tmp_path, {"a.png": b"x"})
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        good = np.frombuffer(encoded(picture(20, 20), kind), np.uint8)
        for _ in range(25):
            bad = good.copy()
            bad[rng.integers(0, len(bad), 5)] = rng.integers(0, 256, 5)
            (root / "a.png").write_bytes(bad.tobytes())
            try:
                load(root)
            except ValueError as error:
                assert "a.png" in str(error)  # noqa: PT017


def test_huge_images_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    bomb = encoded(Image.new("1", (13_300, 13_300)), optimize=True)
    assert len(bomb) < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("decoded"))
    refused(tmp_path, {"bomb.png": bomb}, "13300 x 13300 pixels; accepts 4,000,000", "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own alarm must not get in the way
    refused(tmp_path, {"bomb.png": bomb}, "bomb.png", "bomb.png")


def test_max_pixels(tmp_path):
    root = folder(tmp_path, {"a.png": picture(10, 10)})
    assert load(root, max_pixels=100).space == Integers((3, 10, 10), 256)
    with pytest.raises(ValueError, match="10 x 10 pixels; accepts 99"):
        load(root, max_pixels=99)


def test_bad_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "train").mkdir()
    with pytest.raises(ValueError, match="train holds no images"):
        load(tmp_path / "empty")
    refused(tmp_path / "1", {"a.png": picture(), "cat/b.png": picture()}, "inside and outside class folders", "set")
    refused(tmp_path / "2", {"train/cat/a.png": picture(), "test/dog/a.png": picture()}, "class 'dog' of test", "set")
    refused(tmp_path / "3", {"train/a.png": picture(), "b/a.png": picture()}, "'b' beside its splits train", "set")
    refused(tmp_path / "4", ten(), "label='x' means nothing", "set", label="x")
