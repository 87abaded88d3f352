"""Tables: columns of both kinds, declared missing cells, and errors that name the column and the row."""

import gzip
import sys

import numpy as np
import pytest
import torch

from likely.data import load
from likely.extras import need
from likely.space import Column, Reals, Table

PEOPLE = """age,job,city,rich
39,cook,Rome,yes
50,?,Oslo,no
28,smith,Rome,no
?,cook,Bonn,yes
"""


def write(tmp_path, text, name="people.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def all_rows(data):
    return data.space.concat([data.train.x, data.valid.x, data.test.x])


def test_mixed_columns(tmp_path):
    data = load(write(tmp_path, PEOPLE), label="rich", missing=("?",), valid=0, test=0)
    assert data.space == Table(
        (
            Column("age", None, True),
            Column("job", ("cook", "smith"), True),
            Column("city", ("Bonn", "Oslo", "Rome"), False),
        )
    )
    assert data.classes == ("no", "yes")
    assert data.train.y.tolist() == [1, 0, 0, 1]
    assert len(data.train) == 4
    cells, seen = data.train.x
    assert seen.tolist() == [[True] * 3, [True, False, True], [True] * 3, [False, True, True]]
    assert cells[seen].tolist() == [39, 0, 2, 50, 1, 28, 1, 2, 0, 0]
    assert data.record["columns"] == ["age", "job", "city"]
    assert data.record["real_columns_of_whole_numbers"] == ["age"]


def test_numbers_alone_are_reals(tmp_path):
    text = "a\tb\n" + "\n".join(f"{i}.5\t{-i}e-1" for i in range(40)) + "\n"
    for name in ("t.tsv", "t.tsv.gz"):
        data = load(write(tmp_path, text, name))
        assert data.space == Reals((2,))
        assert data.record["rows"] == {"train": 32, "valid": 4, "test": 4}
        assert data.train.x.dtype == torch.get_default_dtype()
        assert sorted(all_rows(data)[:, 0].tolist()) == [i + 0.5 for i in range(40)]


def test_numbers_as_categories(tmp_path):
    text = "zip,x\n" + "10,1\n9,2\n10,3\n" * 10
    data = load(write(tmp_path, text), categorical=("zip",), split="order", valid=0, test=0)
    assert data.space.columns[0] == Column("zip", ("9", "10"))  # in order of value, not of spelling
    assert data.train.x.cells[:3].tolist() == [[1, 1], [0, 2], [1, 3]]
    assert load(write(tmp_path, text), label="zip").classes == ("9", "10")


def test_quotes_blank_lines_and_byte_order_mark(tmp_path):
    data = load(write(tmp_path, '\ufeff"a","b"\n1,"x, y"\n\n2,"z\nz"\n'), valid=0, test=0)
    assert data.space.columns[1].categories == ("x, y", "z\nz")
    assert len(data.train) == 2


def test_folder_of_tables_keeps_its_splits_and_shares_its_categories(tmp_path):
    for name, rows in (("train.csv", "1,a\n2,b\n"), ("validation.csv", "3,b\n"), ("test.csv.gz", "4,c\n")):
        write(tmp_path, "n,k\n" + rows, name)
    data = load(tmp_path)
    assert data.space.columns[1].categories == ("a", "b", "c")
    assert data.test.x.cells.tolist() == [[4, 2]]
    assert data.valid.x.cells.tolist() == [[3, 1]]
    write(tmp_path, "n,other\n1,a\n", "test.csv.gz")
    with pytest.raises(ValueError, match=r"test.csv.gz has other columns than .*train.csv"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            PEOPLE,
            {},
            r"line 5 \(row 4\): column 'age' holds numbers elsewhere, but here '\?'; declare that with missing",
        ),
        ("a,b\n1,2\n3,\n", {}, r"line 3 \(row 2\): column 'b' is empty; declare it with missing=\(''"),
        ("a,b\n1,2\nnan,4\n", {}, r"line 3 \(row 2\): column 'a' is nan; declare it with missing=\('nan'"),
        ("a,b\n1,x\n2,\n", {}, r"column 'b' is empty"),
        ("a,b\n1,2\ninf,4\n", {}, r"line 3 \(row 2\): column 'a' is infinite"),
        ("a,b\n1,2\n3\n", {}, "line 3 has 1 cells, the header 2"),
        ("a,a\n1,2\n", {}, "must name the columns, each once"),
        ("", {}, "must name the columns"),
        ("a,b\n", {}, "has columns but no rows"),
        ("a,b\n1,?\n2,?\n", {"missing": ("?",)}, "column 'b' has nothing but missing cells"),
        (PEOPLE, {"label": "wealth", "missing": ("?",)}, "label: .* has no column 'wealth'; it has age, job"),
        (PEOPLE, {"categorical": ("jobs",), "missing": ("?",)}, "categorical: .* has no column 'jobs'"),
        (PEOPLE, {"label": "job", "missing": ("?",)}, r"line 3 \(row 2\): the label 'job' is missing"),
        ("a\n1\n2\n", {"label": "a"}, "no column beside the label"),
        ('a,b\n1,"x\n', {}, "cannot be read as a table"),
        (PEOPLE, {"size": (2, 2)}, r"size=\(2, 2\) means nothing"),
    ],
)
def test_bad_tables(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(write(tmp_path, text), **options)
    assert "people.csv" in str(caught.value) or "column" in str(caught.value)


def test_bad_bytes(tmp_path):
    path = tmp_path / "people.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"people.csv cannot be read as a table"):
        load(path)
    path = write(tmp_path, PEOPLE, "people.csv.gz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"people.csv.gz cannot be read as a table"):
        load(path)


def test_parquet(tmp_path):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    columns = {"x": [1.5, None, 2.5], "n": [1, 2, 3], "s": ["a", "b", "a"], "t": [True, False, True]}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    data = load(path, missing=("",), valid=0, test=0)
    assert data.space == Table(
        (Column("x", None, True), Column("n"), Column("s", ("a", "b")), Column("t", ("False", "True")))
    )
    assert data.train.x.cells[:, 1:].tolist() == [[1, 0, 1], [2, 1, 0], [3, 0, 1]]
    assert data.train.x.seen[:, 0].tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"row 2: column 'x' is empty; declare it"):
        load(path)
    pq.write_table(pa.table({"x": [1.0, np.nan]}), path)
    with pytest.raises(ValueError, match=r"row 2: column 'x' is empty"):
        load(path)
    pq.write_table(pa.table({"x": [[1.0], [2.0]]}), path)
    with pytest.raises(ValueError, match="column 'x' holds list"):
        load(path)
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        load(path)


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"needs the package 'pyarrow': pip install 'likely\[data\]'"):
        load(tmp_path / "t.parquet")
    with pytest.raises(ImportError, match="likely_does_not_exist"):
        need("likely_does_not_exist.part", "text")
