"""The ledger: chained, append-only, readable after a kill."""

from __future__ import annotations

import json
import os
import threading

import pytest

from likely.train.ledger import Ledger, same


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path)
    made.append("start", asked={"who": "me"})
    for step in range(1, 4):
        made.append("step", step=step, loss=1 / step)
    return made


def test_the_first_line_has_a_nonce_and_every_line_is_chained(ledger, tmp_path):
    lines = ledger.lines()
    assert ledger.verify() == 4
    assert len(lines[0]["nonce"]) == 64
    assert Ledger(tmp_path / "other.jsonl").append("start")["nonce"] != lines[0]["nonce"]
    assert [line["prev"] for line in lines[1:]] == [line["sha256"] for line in lines[:-1]]
    assert lines[2]["loss"] == 0.5
    assert ledger.last("step")["step"] == 3
    assert ledger.last("sample") is None


def test_a_changed_byte_is_found(ledger):
    data = ledger.path.read_bytes()
    for i in range(0, len(data) - 1, 3):  # the last byte is the end of the line: without it the line is unfinished
        ledger.path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(ValueError, match=r"ledger.jsonl, line \d"):
            ledger.verify()


def test_no_line_can_be_taken_out_put_in_or_moved(ledger):
    one, two, three, four = ledger.path.read_bytes().splitlines(True)
    for wrong in ([one, three, four], [two, three, four], [one, three, two, four], [one, two, two, three, four]):
        ledger.path.write_bytes(b"".join(wrong))
        with pytest.raises(ValueError, match="does not follow"):
            ledger.verify()
    for missing in (b"", None):
        ledger.path.unlink() if missing is None else ledger.path.write_bytes(missing)
        with pytest.raises(ValueError, match=r"ledger.jsonl is (missing|empty)"):
            ledger.verify()


@pytest.mark.parametrize("left", [1, 40, 200])
def test_an_unfinished_line_is_cut_off_and_recorded(ledger, left):
    data = ledger.path.read_bytes()
    last = data.splitlines(True)[-1]
    ledger.path.write_bytes(data[: -len(last)] + last[:left])
    assert ledger.verify() == 3
    ledger.append("step", step=3, loss=0.1)
    assert ledger.verify() == 5
    assert ledger.last("torn")["bytes"] == left
    assert ledger.last("step")["loss"] == 0.1


def test_an_unfinished_first_line_leaves_a_first_line_with_a_nonce(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.path.write_bytes(b'{"prev": "000')
    ledger.append("start")
    assert ledger.verify() == 1
    assert "nonce" in ledger.lines()[0]


def test_a_restart_makes_later_training_lines_void_and_nothing_else(ledger):
    ledger.append("evaluate", bits_per_dim=1.0)
    ledger.append("stop", step=3, reason="steps")
    ledger.append("restart", step=1, restarts=1)
    ledger.append("step", step=2, loss=7.0)
    assert [(e["kind"], e.get("step")) for e in ledger.read()] == [
        ("start", None),
        ("step", 1),
        ("evaluate", None),
        ("restart", 1),
        ("step", 2),
    ]
    assert len(ledger.lines()) == 8
    assert same(ledger.read("step"))[1] == {"kind": "step", "step": 2, "loss": 7.0}


def test_nan_is_refused_before_anything_is_written(ledger):
    before = ledger.path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        ledger.append("step", step=4, loss=float("nan"))
    assert ledger.path.read_bytes() == before


def test_many_writers_make_one_chain(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("start")

    def write(who):
        for i in range(20):
            Ledger(tmp_path).append("note", who=who, i=i, text="x" * 3000)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.verify() == 81


def test_a_line_longer_than_what_is_read_at_first(tmp_path):
    ledger = Ledger(tmp_path)
    for size in (200_000, 70_000, 3):
        ledger.append("note", text="x" * size)
    assert ledger.verify() == 3
    assert ledger.went_through(ledger.position())


def test_a_position_that_was_cut_away(ledger):
    position = ledger.position()
    ledger.append("stop", step=3)
    assert ledger.went_through(position)
    end = ledger.position()
    os.truncate(ledger.path, position["bytes"])
    assert not ledger.went_through(end)
    assert json.loads(ledger.path.read_bytes().splitlines()[-1])["step"] == 3
