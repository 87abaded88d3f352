"""Tables of real files, of the coder and of what can be coded: from bench/results and the registry."""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np
from tables import lines_of, table


def compression_tables() -> str:
    """A data set at a time: files of our codecs, then those of everyday ones."""
    rows = lines_of("compression")
    parts = []
    for data in dict.fromkeys(row["data"] for row in rows):
        ours = [row for row in rows if row["data"] == data and row["case"] != "anchors"]
        others = [row for row in rows if row["data"] == data and row["case"] == "anchors"]
        streamed, single = ([row for row in ours if ("files" in row) == alone] for alone in (False, True))
        parts += [f"### {data}"]
        if streamed:
            parts += [_streamed(streamed)]
        parts += [_single(row) for row in single]
        if others:
            parts += [_others(others)]
    return "\n\n".join(parts) or "No measurements yet."


def _streamed(rows: list[dict[str, Any]]) -> str:
    head = [
        "model",
        "scheme",
        "images",
        "file, bits/dim",
        "the model says",
        "payload over it",
        "header and index, bytes",
        "in, images/s",
        "out, images/s",
        "memory for it, MB",
    ]
    cells = [
        [
            row["family"],
            row["scheme"],
            f"{row['rows']:,}",
            f"**{row['bits_per_dim']:.4f}**{_missed(row, 'bits_per_dim')}",
            f"{'<= ' if row['family'] in ('vae', 'flow') else ''}{row['model_bits_per_dim']:.4f}",
            f"{row['overhead']:+.2%}{_missed(row, 'overhead')}",
            f"{row['container_bytes']} (chunks: {sum(row['chunks'].values())}){_missed(row, 'container_bytes')}",
            *(f"{row[f'{way}_images_s']:.1f} ({row[f'{way}_mb_s']:.3f} MB/s)" for way in ("encode", "decode")),
            f"{max(row['encode_peak_more_mb'], row['decode_peak_more_mb']):,}",
        ]
        for row in sorted(rows, key=lambda row: row["bits_per_dim"])
    ]
    return table(head, cells)


def _missed(row: dict[str, Any], name: str) -> str:
    aim = row["aims"].get(name)
    return "" if aim is None or aim["met"] else f" (aim: {aim['at_most']:.4g})"


def _single(row: dict[str, Any]) -> str:
    return (
        f"A file an image ({row['files']} files, {row['family']}, {row['scheme']}): {row['bits_per_dim']:.3f} "
        f"bits/dim. Of them {row['payload_bits_per_dim']:.3f} are payload, {row['overhead']:.1%} over the bound of "
        f"{row['model_bits_per_dim']:.3f}, and the rest is {row['container_bytes']} bytes of header and index each."
    )


def _others(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["codec"],
            f"{row['rows']:,}",
            f"{row['bits_per_dim']:.3f}",
            f"{row['bits_per_dim_alone']:.3f}",
            f"{row['encode_mb_s']:.2f}",
            f"{row['decode_mb_s']:.1f}",
        ]
        for row in sorted(rows, key=lambda row: row["bits_per_dim"])
    ]
    return table(["codec", "images", "one file, bits/dim", "a file an image", "in, MB/s", "out, MB/s"], cells)


def codable_table() -> str:
    """What `Codec` says of every small instance of integers in the registry."""
    from likely.coding.choice import schemes_of
    from likely.registry import FAMILIES, build, tiny
    from likely.space import Integers

    rows = []
    for family in FAMILIES:
        said: dict[str, list[str]] = {}
        for name, (config, space, condition) in tiny(family).items():
            if isinstance(space, Integers):
                try:
                    answer = ", ".join(scheme.name for scheme in schemes_of(build(config, space, condition)))
                except TypeError as error:
                    answer = f"refused: {str(error).split('; ', 1)[1].split('; accepts Ordered')[0]}"
                said.setdefault(answer, []).append(name)
        rows += [[family, "all" if len(said) == 1 else "; ".join(names), answer] for answer, names in said.items()]
    return table(["family", "choices", "coded"], rows)


def joints_table() -> str:
    """Joints of digits: files with labels and without, and what a code without bits-back would take."""
    rows = lines_of("joint_codec")
    pairs = [
        (row, next(r for r in rows if r["case"] == row["case"] and r["labels"])) for row in rows if not row["labels"]
    ]
    head = ["joint", "with labels: model", "coded", "over", "without: model", "coded", "over", "the likeliest class"]
    head += ["doubt, bits a row", "CPU s, in and out: with", "without"]
    cells = [
        [
            free["case"],
            *(
                text
                for row in (kept, free)
                for text in (
                    f"{'<= ' * (row['kind'] != '=')}{row['model_bits_per_dim']:.4f}",
                    f"{row['coded_bits_per_dim']:.4f}",
                    f"{100 * row['over']:+.2f} %",
                )
            ),
            f"{free['likeliest_class_bits_per_dim']:.4f}",
            f"{free['doubt_bits_a_row']:.3f}",
            *(f"{row['encode_cpu_s']:.1f}, {row['decode_cpu_s']:.1f}" for row in (kept, free)),
        ]
        for free, kept in pairs
    ]
    return table(head, cells) if cells else "No measurements yet."


def coder_table() -> str:
    """Millions of symbols a second, ours beside constriction's."""
    rows = lines_of("coder")
    cells = [
        [
            row["case"],
            row["direction"],
            f"{row['lanes']:,}",
            f"{row['ours_msym_s']:.2f}",
            "" if "ready_msym_s" not in row else f"{row['ready_msym_s']:.1f}",
            f"{row['rival_msym_s']:.1f}",
            f"{row['ratio']:.1f}",
        ]
        for row in rows
    ]
    head = ["symbols", "", "lanes", "ours", "ours, intervals ready", "constriction", "times slower"]
    return table(head, cells) if rows else "No measurements yet."


def pictures_table() -> str:
    """The package's model beside everyday codecs: photographs, and small pictures in one file or many."""
    rows = lines_of("picture_rates")
    cells = [
        [
            row["case"],
            row["codec"],
            f"{row['bits_per_dim']:.3f}",
            _smaller_on(row, rows),
            f"{row['encode_s_per_megapixel']:.2f}",
            f"{row['decode_s_per_megapixel']:.2f}",
        ]
        for row in sorted(rows, key=lambda row: (row["case"].split()[0], row.get("bits_per_dim", 0)))
        if "codec" in row and not row["case"].startswith("kodak/")
    ]
    head = ["pictures", "codec", "bits/dim", "likely smaller on", "in, CPU s/megapixel", "out, CPU s/megapixel"]
    return table(head, cells) if cells else "No measurements yet."


def _smaller_on(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if row["codec"] == "likely" or "likely_smaller_on" not in row:
        return ""
    each = [one for one in rows if one["case"].startswith("kodak/") and one["codec"] == row["codec"]]
    return f"{row['likely_smaller_on']} of {len(each)}"


def lossy_tables() -> str:
    """Rate and error of every codec, means over the pictures that all of them coded; and ours less theirs."""
    rows = lines_of("lossy")
    if not rows:
        return "No measurements yet."
    common = set.intersection(*({name for name, *_ in row["each"]} for row in rows))
    curves: dict[str, dict[str, list[float]]] = {"hyperprior": {}}  # codec, setting, then bits/pixel, PSNR, MS-SSIM
    for row in rows:
        columns = zip(*(each[2:] for each in row["each"] if each[0] in common), strict=True)
        name, value = next(iter(row["setting"].items()))
        curves.setdefault(row["codec"], {})[f"{name} {value:g}"] = [mean(column) for column in columns]
    cells = [
        [codec, setting, f"{bits:.3f}", f"{psnr:.2f}", f"{similar:.4f}"]
        for codec, curve in curves.items()
        for setting, (bits, psnr, similar) in sorted(curve.items(), key=lambda point: point[1])
    ]
    last = rows[-1]
    told = (
        f"Means over the same {len(common)} photographs ({', '.join(sorted(common))}). The hyperprior has "
        f"{last['parameters']:,} parameters and learned for {sum(part['steps'] for part in last['trained']):,} steps, "
        f"{sum(part['seconds'] for part in last['trained']) / 60:.0f} minutes; a photograph takes it "
        f"{last['encode_cpu_s_each']:.1f} CPU seconds in and {last['decode_cpu_s_each']:.1f} out."
    )
    others = [codec for codec in curves if codec != "hyperprior"]
    head = ["hyperprior", "bits/pixel", *(f"minus {codec}: dB / MS-SSIM" for codec in others)]
    less = [
        [setting, f"{point[0]:.3f}", *(_less(point, sorted(curves[codec].values())) for codec in others)]
        for setting, point in sorted(curves["hyperprior"].items(), key=lambda point: point[1])
    ]
    between = "The hyperprior's PSNR and MS-SSIM minus those of another codec, read between two settings at its rate:"
    every = table(["codec", "setting", "bits/pixel", "PSNR, dB", "MS-SSIM"], cells)
    return f"{told}\n\n{between}\n\n{table(head, less)}\n\nEvery setting:\n\n{every}"


def _less(point: list[float], curve: list[list[float]]) -> str:
    """PSNR and MS-SSIM over those of a curve, which are lines over log(bits/pixel) between its settings."""
    rates, *scores = zip(*curve, strict=True)
    if not rates[0] <= point[0] <= rates[-1]:
        return "has no such rate"
    there = [np.interp(np.log(point[0]), np.log(rates), score) for score in scores]
    return f"{point[1] - there[0]:+.2f} / {point[2] - there[1]:+.4f}"


def field_table() -> str:
    """Neural fields, of each picture the longest fitted, and everyday codecs at as nearly its bytes as they have."""
    longest: dict[tuple[str, float], dict[str, Any]] = {}
    for row in lines_of("field"):
        key = row["case"], row["lam"]
        if key not in longest or row["steps"] >= longest[key]["steps"]:
            longest[key] = row
    rows = list(longest.values())
    others = ("JPEG", "WebP", "JPEG XL")
    cells = [
        [
            row["case"],
            f"{row['lam']:g}",
            str(row["steps"]),
            f"{row['ours']['bytes']:,}",
            *(f"{row[codec]['psnr']:.2f} / {row[codec]['ms_ssim']:.4f}" for codec in ("ours", *others)),
            f"{row['ours']['encode_s']:.0f}",
            f"{row['ours']['decode_s']:.2f}",
        ]
        for row in rows
    ]
    head = ["picture", "lambda", "steps", "bytes", "field: PSNR, dB / MS-SSIM", *others, "in, CPU s", "out, CPU s"]
    if not rows:
        return "No measurements yet."
    wins = [
        f"{codec} {sum(row['ours'][of] > row[codec][of] for row in rows)} by {name}"
        for codec in others
        for of, name in (("psnr", "PSNR"), ("ms_ssim", "MS-SSIM"))
    ]
    return f"Of these {len(rows)} the field is the better one beside {', '.join(wins)}.\n\n{table(head, cells)}"


CODED_TABLES = {
    "compression": compression_tables,
    "codable": codable_table,
    "joints": joints_table,
    "coder": coder_table,
    "pictures": pictures_table,
    "lossy": lossy_tables,
    "field": field_table,
}
