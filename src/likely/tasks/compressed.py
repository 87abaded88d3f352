"""What is inside a compressed file, in words: each takes what `likely.tasks.compress.describe` gives."""

from __future__ import annotations

import json
from typing import Any

from likely.coding import lossy


def sentence(record: dict[str, Any]) -> str:
    """`describe` in words."""
    if record.get("lossy"):
        return lossy.sentence(record) if "model" in record["header"] else field_sentence(record)
    if "pictures" in record:
        return pictures_sentence(record)
    header, kinds = record["header"], record["chunks"]
    model, space = header["model"], json.dumps(header["space"]["shape"])
    says = f"; the model says {record['model_bits_per_dim']:.4f}" if "model_bits_per_dim" in record else ""
    raw = f", {kinds['raw']} of them stored as they were" if kinds.get("raw") else ""
    scheme = header["coding"]["scheme"] + (" (experimental)" if record.get("experimental") else "")
    kept = {True: ", with labels", False: ", without labels"}.get(header["coding"].get("labels"), "")
    return (
        f"{record['rows']} rows of {space} with {header['space']['levels']} levels in {record['bytes']:,} bytes "
        f"(raw {record['raw_bytes']:,}): {record['bits_per_dim']:.4f} bits/dim{says}\n"
        f"model {model['family']} {model['sha256']}, coded {scheme}{kept}, numbers in "
        f"{header['numerics']['profile']}, {sum(n for kind, n in kinds.items() if kind != 'notes')} chunks{raw}; "
        f"checksums all right"
    )


def pictures_sentence(record: dict[str, Any]) -> str:
    """`describe` of a file of pictures in words."""
    header, kinds = record["header"], record["chunks"]
    sizes = [" x ".join(map(str, record[key][1:])) for key in ("smallest", "largest")]
    grey = {0: "RGB", record["pictures"]: "grey"}.get(record["grey"], f"{record['grey']} of them grey")
    raw = f", {kinds['raw']} of them stored as they were" if kinds.get("raw") else ""
    count = "1 picture" if record["pictures"] == 1 else f"{record['pictures']} pictures"
    span = sizes[0] if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}"
    return (
        f"{count} of {span} (height x width), {grey}, in {record['bytes']:,} bytes (raw "
        f"{record['raw_bytes']:,}): {record['bits_per_dim']:.4f} bits/dim\n"
        f"model {header['model']['family']} {header['model']['sha256']}, numbers in {header['numerics']['profile']}, "
        f"{record['tiles']} tiles of at most {header['tiling']['side']} x {header['tiling']['side']} in "
        f"{kinds.get('model', 0) + kinds.get('raw', 0)} chunks{raw}; checksums all right"
    )


def field_sentence(record: dict[str, Any]) -> str:
    """`describe` of a neural field in words."""
    shape = " x ".join(map(str, record["header"]["shape"]))
    near = "exactly the picture" if record["psnr"] is None else f"PSNR {record['psnr']:.2f} dB"
    like = "" if record["ms_ssim"] is None else f", MS-SSIM {record['ms_ssim']:.4f}"
    return (
        f"lossy: one picture of {shape} in {record['bytes']:,} bytes (raw {record['raw_bytes']:,}): "
        f"{record['bits_per_pixel']:.4f} bits/pixel, {near}{like}\n"
        f"a neural field, which needs no model: {record['latents']:,} latents in {record['latents_bytes']:,.0f} bytes, "
        f"{record['weights']:,} weights in {record['weights_bytes']:,.0f}, {record['container_bytes']} of header and "
        f"index; numbers in {record['numerics']}; checksums all right"
    )
