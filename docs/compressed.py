"""Tables of real files and of the coder, from bench/results/compression.jsonl and coder.jsonl."""

from __future__ import annotations

from typing import Any

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
            f"{'<= ' if row['family'] == 'vae' else ''}{row['model_bits_per_dim']:.4f}",
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


CODED_TABLES = {"compression": compression_tables, "coder": coder_table}
