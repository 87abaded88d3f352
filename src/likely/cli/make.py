"""What a model makes: draws, pictures without noise or with what was missing, smaller files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from likely.cli.common import (
    OF_FILES,
    Class,
    Count,
    Force,
    Json,
    Place,
    Run,
    Seed,
    Split,
    Words,
    archive_of,
    archived,
    class_of,
    data_of,
    empty_folder,
    fresh,
    is_run,
    labels_of,
    noted,
    rows_of,
    to_read,
    unwritten,
)
from likely.cli.field import compress_field, decompress_field
from likely.cli.lossy import compress_lossy, decompress_lossy
from likely.cli.pictures import compress_pictures, decompress_pictures


def sample(
    run: Positional[Run],
    n: Annotated[int, arg(aliases=("-n",))] = 64,
    y: Class = None,
    how: Positional[Words] = (),
    seed: Count = None,
    out: Place = None,
    film: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw from a model.

    Args:
        run: The run folder.
        how: For models whose draws can be made in several ways: name=heun evaluations=50 guidance=3 (diffusion),
            temperature=0.8 (autoregressive models, and joints of one).
        n: How many.
        y: The class to draw from, by name or number; without it a joint draws the class as well, and a conditional
            model takes every class in turn.
        seed: Seed of the draws; without it a fresh one is taken, and reported.
        out: .png, .npz or .csv file; a new RUN/samples-SEED by default.
        film: Also write an animated .webp of how the first 8 draws come about, for models that go a way to them.
    """
    import secrets

    from likely.config.recipe import settings_of
    from likely.logprob import sample as draw
    from likely.tasks.film import animation, has_film
    from likely.tasks.film import film as way_of
    from likely.tasks.learn import classes_of, recipe_of
    from likely.tasks.pictures import is_picture, save_values, suffixes
    from likely.tasks.samples import digest
    from likely.tasks.ways import with_settings
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import name_of

    unwritten(force, out, film)
    recipe_of(run)
    model = load_model(run)
    settings = settings_of(how)
    model = with_settings(model, settings)
    labels = labels_of(model, classes_of(run), y, n)
    chosen = secrets.randbits(62) if seed is None else seed
    path = out or fresh(run / f"samples-{chosen}{suffixes(model.space)[0]}")
    if path.suffix.lower() not in suffixes(model.space):
        raise ValueError(f"out is {path}; accepts {', '.join(suffixes(model.space))} for values of {model.space}")
    if film is not None and not has_film(model):
        raise ValueError(f"film is {film}, but {name_of(model)} draws in one go: there is no way to show; leave it out")
    if film is not None and (film.suffix.lower() != ".webp" or not is_picture(model.space)):
        raise ValueError(f"film is {film} of {model.space}; accepts a name that ends in .webp, for pictures")
    with Stage("sampling", n) as stage:
        draws = draw(model, n, labels, seed=chosen, progress=stage.advance)
    save_values(draws, model.space, path)
    record = {"n": n, "seed": chosen, "y": None if labels is None else labels.tolist(), "sha256": digest(draws)}
    if film is not None:
        few = min(n, 8)
        frames = list(way_of(model, few, None if labels is None else labels[:few], seed=chosen))
        film.parent.mkdir(parents=True, exist_ok=True)
        film.write_bytes(animation(frames, model.space))
    record |= {"how": settings, "out": str(path), "film": None if film is None else str(film)}
    Ledger(run).append("sample", figures=record)
    give(record, f"{n} draws of seed {chosen}: {path}", None, json)


def denoise(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    sd: Annotated[float | None, arg(metavar="S")] = None,
    add_sd: Annotated[float | None, arg(metavar="S")] = None,
    y: Class = None,
    split: Split = "test",
    limit: int = 16,
    seed: Seed = 0,
    out: Annotated[Path | None, arg(aliases=("-o",), metavar="FOLDER")] = None,
    page: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What was there before the noise? Pictures in, pictures out; or a demonstration on the run's own data.

    Args:
        run: The run folder of a model that denoises, such as diffusion.
        inputs: Noisy rows: a picture, a folder of pictures, or data of the model's shape, also real-valued.
        sd: Standard deviation of the noise in grey levels (raw units); estimated for each row by default.
        add_sd: Add noise of this standard deviation first, to inputs or by default to the run's own data, and compare.
        y: The class that the rows are known to have, by name or number.
        limit: The first rows only.
        out: Folder for the denoised rows; a new RUN/denoised by default for inputs without --add-sd.
        page: A page with pictures, or the pictures alone as .png; RUN/denoise.html by default with --add-sd.
    """
    import torch

    from likely.noise import Noise
    from likely.tasks.denoise import denoise as clear
    from likely.tasks.denoise import real_rows
    from likely.tasks.pictures import is_picture
    from likely.tasks.restore_page import denoise_page, denoise_pictures, save_rows, write_page
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import Denoiser, require

    unwritten(force, page)
    empty_folder(force, out)
    if add_sd is not None and not 0 < add_sd < float("inf"):
        raise ValueError(f"add_sd is {add_sd}; accepts the noise's standard deviation in raw units, above 0")
    if inputs is None and add_sd is None:
        raise ValueError("inputs is missing; give noisy pictures, or --add-sd S for a demonstration on the run's data")
    own, model = data_of(run, None), load_model(run)
    require(model, Denoiser, "denoise")
    x, names = rows_of(own, inputs, split, limit, real=True)
    clean = None if add_sd is None else real_rows(x, model.space, "inputs")
    if clean is not None:
        x = clean + add_sd * Noise(seed, len(clean)).normal(clean.shape[1:], dtype=torch.float64)
    with Stage("denoising", len(x)) as stage:
        result = clear(model, x, sd, class_of(run, model, y, len(x)), clean=clean, seed=seed, progress=stage.advance)
    record: dict[str, Any] = {"inputs": inputs, "split": split, "seed": seed, "add_sd": add_sd, "sd": sd}
    record["rows"] = [{"input": name} | row for name, row in zip(names, result.to_json(), strict=True)]
    lines = [str(result)]
    if out is not None or add_sd is None:
        out = out or fresh(run / "denoised")
        record["out"] = [str(path) for path in save_rows(result.x, names, model.space, out)]
        lines.append(f"denoised: {out}")
    if is_picture(model.space) and (page is not None or add_sd is not None):
        page = page or fresh(run / "denoise.html")
        noisy = torch.as_tensor(x)
        html = denoise_page(result, noisy, clean, names, f"{own.name if inputs is None else inputs}")
        write_page(page, html, denoise_pictures(result, noisy, clean))
        record["page"] = str(page)
        lines.append(f"the page: {page}")
    Ledger(run).append("denoise", figures=record)
    give(record, "\n".join(lines), None, json)


def impute(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    hide: Annotated[str | None, arg(metavar="WHAT")] = None,
    mask: Annotated[Path | None, arg(metavar="PNG")] = None,
    n: Annotated[int, arg(aliases=("-n",))] = 4,
    y: Class = None,
    evaluations: int = 120,
    split: Split = "test",
    limit: int = 8,
    seed: Seed = 0,
    out: Annotated[Path | None, arg(aliases=("-o",), metavar="FOLDER")] = None,
    page: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What is missing here? Complete rows of which a part is hidden, several times.

    Exact (=) with models that have their conditionals (mixtures), approximate (~) with those that denoise (diffusion).

    Args:
        run: The run folder.
        inputs: A picture, a folder of pictures, or data of the model's kind; the run's own data by default.
        hide: left, right, top, bottom, center, random:SHARE, or columns of a table, such as age,height.
        mask: A picture instead: white where cells are to be filled in.
        n: Completions of each row.
        y: The class that the rows are known to have, by name or number.
        evaluations: How often a denoiser is asked for each completion.
        limit: The first rows only.
        out: Folder for the completed rows; nothing is written by default but the page.
        page: A page with pictures, or the pictures alone as .png; a new RUN/impute.html by default.
    """
    from likely.space import Table
    from likely.tasks.impute import impute as complete
    from likely.tasks.masks import hide as hidden
    from likely.tasks.masks import read_mask
    from likely.tasks.pictures import is_picture
    from likely.tasks.restore_page import impute_page, impute_pictures, save_rows, write_page
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import Denoiser, Marginal, Ordered, require

    unwritten(force, page)
    empty_folder(force, out)
    if hide is not None and mask is not None:
        raise ValueError("mask was given and hide too; accepts one of them")
    own, model = data_of(run, None), load_model(run)
    require(model, (Marginal, Denoiser, Ordered), "impute")
    x, names = rows_of(own, inputs, split, limit)
    if hide is None and mask is None and not isinstance(model.space, Table):
        raise ValueError("hide is missing; give --hide left, random:0.5 and the like, or --mask PNG")
    seen = None if hide is None else hidden(model.space, hide, len(names), seed)
    seen = seen if mask is None else read_mask(mask, model.space)
    with Stage("completing", n * len(names)) as stage:
        result = complete(
            model,
            x,
            seen,
            n,
            y=class_of(run, model, y, len(names)),
            evaluations=evaluations,
            seed=seed,
            progress=stage.advance,
        )
    record: dict[str, Any] = {"inputs": inputs, "split": split, "seed": seed, "hide": hide, "n": n, "rows": names}
    record |= {"mask": None if mask is None else str(mask), "kind": result.kind.value, "how": result.how}
    record |= {"hidden": float(1 - result.seen.double().mean()), "evaluations": result.evaluations}
    lines = [str(result)]
    if out is not None:
        each = [f"{Path(name).stem}-{j + 1}" for name in names for j in range(n)]
        record["out"] = [str(path) for path in save_rows(result.draws, each, model.space, out)]
        lines.append(f"completed: {out}")
    if is_picture(model.space):
        page = page or fresh(run / "impute.html")
        html = impute_page(result, x, names, f"{own.name if inputs is None else inputs}")
        write_page(page, html, impute_pictures(result, x))
        record["page"] = str(page)
        lines.append(f"the page: {page}")
    Ledger(run).append("impute", figures=record)
    give(record, "\n".join(lines), None, json)


def compress(
    run: Positional[Annotated[Path | None, arg(metavar="RUN")]] = None,
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    out: Annotated[Path | None, arg(metavar="PATH", aliases=("-o",))] = None,
    split: Split = "test",
    limit: Count = None,
    rate: float | None = None,
    default: bool = False,
    field: Annotated[Path | None, arg(metavar="PICTURE")] = None,
    lam: float = 1e-3,
    steps: int = 2000,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> int:
    """Make it smaller: pictures or data to one .lkz file of real bytes, decoded again before it counts.

    A picture that is broken or does not fit the model is named and left out, the others are coded; the exit status is
    then 1.

    Args:
        run: The run folder of a model that can code: autoregressive, mixture of categoricals, integer flow, VAE, or a
            joint or hybrid of one of them; or of a pyramid, which codes pictures of any sizes.
        inputs: A picture, a folder of pictures, or data as for `train --data`; the run's own data by default. Labels go
            into the file where the model takes them; a joint can do without.
        out: The file; a new INPUTS.lkz by default.
        limit: Compress the first rows or pictures only.
        rate: Of a lossy model (hyperprior), for pictures of any sizes: 1 for the smallest files, 2, 3, ... for better
            ones, or between; the middle one by default.
        default: No run, but the model that comes with the package, for grey and RGB pictures of any sizes: give
            --default PICTURES.
        field: Lossy, and without a model: fit a neural field to this one picture, which takes minutes. Ctrl-C ends the
            fitting early, after some last steps, and the file holds what was reached; before the first step nothing is
            written.
        lam: With --field: MSE + lam bits/pixels is made small, 0.01 for small files, 0.0001 for good ones.
        steps: With --field: steps of gradient; the more, the better.
    """
    from likely.coding import Codec
    from likely.coding.programs import AnySize
    from likely.tasks.compress import compress as write
    from likely.tasks.compress import gather
    from likely.tasks.compressed import sentence
    from likely.tasks.learn import classes_of
    from likely.tasks.originals import looked_through
    from likely.terminal import Stage
    from likely.train import load_model
    from likely.verbs import Lossy, has, name_of

    unwritten(force, out)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    if rate is not None and (default or field is not None):
        raise ValueError(f"rate is {rate}, which runs of lossy models (hyperprior) have, --default and --field do not")
    if field is not None:
        if run is not None:
            raise ValueError(f"run is {run} and field {field}; a neural field needs no run: give one of them")
        return compress_field(field, out, lam, steps, seed, json)
    if default:
        if run is None or inputs is not None:
            raise ValueError(f"inputs is {inputs}; with --default give a picture or a folder of pictures, and no run")
        return compress_pictures(load_model("default"), run, out, limit, json)
    if run is None:
        raise ValueError("run is missing; give the run folder of a model, --default PICTURES or --field PICTURE")
    model = load_model(run)
    if has(model, Lossy):
        return compress_lossy(run, model, inputs, out, split, limit, rate, json)
    if rate is not None:
        raise ValueError(f"rate is {rate}, but {name_of(model)} is no lossy model: what it codes comes back as it was")
    if inputs is not None and isinstance(model, AnySize) and looked_through(Path(inputs))[0]:
        return compress_pictures(model, Path(inputs), out, limit, json)
    codec = Codec(model)
    classes = classes_of(run) if is_run(run) else ()
    found = gather(inputs or data_of(run, None), codec.model, split=split, limit=limit, classes=classes)
    path = out or fresh(archive_of(Path(inputs) if inputs else run))
    with Stage("compressing", len(found.x)) as stage:
        record = write(codec, found, path, stage.advance)
    noted(run, {key: record[key] for key in record if key not in ("notes", *OF_FILES)})
    return archived(record, path, sentence(record), json)


Archive = Annotated[Path, arg(metavar="ARCHIVE.lkz")]


def decompress(
    archive: Positional[Archive],
    out: Annotated[Path | None, arg(metavar="FOLDER", aliases=("-o",))] = None,
    run: Place = None,
    only: Annotated[str | None, arg(metavar="NAME")] = None,
    crop: Annotated[str | None, arg(metavar="TOP,LEFT,HEIGHT,WIDTH")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """The exact pixels back from a .lkz file, or a clear refusal.

    Args:
        archive: The file.
        out: The folder for what is in it: pictures under their names, other data as x.npz. By default a new one named
            after the file.
        run: The run folder whose model wrote the file; by default it is the model that comes with the package, or
            looked for in runs/.
        only: Of a file of pictures of any sizes this one alone, by name or number from 0.
        crop: Of the one picture this part alone; no more is decoded than it takes.
    """
    from likely.coding import Codec
    from likely.tasks.compress import decompress as restore
    from likely.tasks.compress import describe as look
    from likely.tasks.compress import model_for
    from likely.terminal import Stage, give

    to_read(archive)
    folder = out or fresh(archive.with_suffix(""))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out is {folder}, a file; accepts a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ValueError(f"out is {folder}, which is not empty; choose another folder, or --force to write into it")
    record = look(archive)
    if "pictures" in record and not record.get("lossy"):
        return decompress_pictures(archive, folder, model_for(archive, run), only, crop, json)
    if only is not None or crop is not None:
        raise ValueError(f"only and crop are for lossless files of pictures of any sizes; {archive} is none")
    if record.get("lossy") and "model" not in record["header"]:
        return decompress_field(archive.read_bytes(), archive, folder, json)
    found, model = model_for(archive, run)
    if record.get("lossy"):
        return decompress_lossy(archive.read_bytes(), record["rows"], folder, found, model, json)
    with Stage("decompressing", record["rows"]) as stage:
        rows, paths = restore(Codec(model), archive.read_bytes(), folder, stage.advance)
    told = {"rows": len(rows.x), "out": str(folder), "files": len(paths), "run": found}
    told |= {"sha256": record["header"]["content"]["sha256"]}
    give(told, f"{len(rows.x)} rows, exactly as they were, in {folder} (model of {found})", None, json)


def info(archive: Positional[Archive], json: Json = False) -> None:
    """What is inside a .lkz file: rows, bits per dimension, model, numbers, and whether its checksums are right.

    Args:
        archive: The file.
    """
    from likely.tasks.compress import describe as look
    from likely.tasks.compressed import sentence
    from likely.terminal import give

    to_read(archive)
    record = look(archive)
    give(record, sentence(record), None, json)
