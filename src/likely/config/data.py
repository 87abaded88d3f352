"""What can be chosen about data: where they come from, how they are read, how they are split. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from likely.config.base import Config

Fraction = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[int, Field(ge=1)]


class DataConfig(Config):
    """A data set and how to read it: `likely.data.load(DataConfig(...))`."""

    source: str = "digits"
    """A name (digits, iris, moons, mnist, fashion-mnist, cifar10, nltcs, hf:OWNER/NAME ...) or a path: .npz, .csv,
    .tsv, .parquet, an idx file, or a folder of images."""

    label: str | None = None
    """Column of a table that becomes the label y."""

    categorical: tuple[str, ...] = ()
    """Columns of a table to read as categories although they hold numbers."""

    missing: tuple[str, ...] = ()
    """Cells of a table that mean "missing", such as `?`; the empty string declares empty and null cells. A missing
    cell that is not declared is an error."""

    size: tuple[Pixels, Pixels] | None = None
    """(height, width) of the images, or one number for both: each is scaled to cover it and cropped at the centre.
    Without it all images must have one size."""

    mode: Literal["grey", "rgb"] | None = None
    """Turn images into grey or colour ones. Without it all images must be of one kind."""

    max_pixels: Annotated[int, Field(ge=1)] = 4_000_000
    """Images with more pixels than this are refused before they are decoded."""

    levels: Annotated[int, Field(ge=2)] | None = None
    """Number of values an integer can take in an .npz file. Without it: 256 for bytes (2 when none exceeds 1),
    otherwise the largest value plus one."""

    split: Literal["content", "index", "order"] | None = None
    """How missing splits are made: by the hash of a row's content (equal rows stay together), by the hash of its
    position, or by order (the last rows are test, the ones before them valid). Without it the data's own rule:
    content for images, position for everything else."""

    valid: Fraction | None = None
    """Share of the rows for the validation split, where the source does not bring one (without it 0.1)."""

    test: Fraction | None = None
    """Share of the rows for the test split, where the source does not bring one (without it 0.1)."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """Keep at most this many rows of each split: the first ones."""

    labelled: Annotated[int, Field(ge=1)] | None = None
    """How many training rows keep their label, spread over the classes as evenly as it goes and drawn by `seed`; the
    others get -1, no label. Valid and test keep theirs. For joints p(x, y) that learn by gradient."""

    rows: Annotated[int, Field(ge=1)] | None = None
    """How many rows a generated two-dimensional toy has in all (without it 12,000)."""

    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of a generated two-dimensional toy, and of the rows that keep their label (without it 0)."""

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: Any) -> Any:
        return (size, size) if isinstance(size, int) else size

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> DataConfig:
        if (self.valid or 0) + (self.test or 0) >= 1:
            raise ValueError(f"valid={self.valid} and test={self.test} leave no rows to train on")
        return self
