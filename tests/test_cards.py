"""Cards, verify, compare: every figure from the ledger, and every lie found."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

sys.path.append(str(Path(__file__).parent))
from shell import Shell
from train_pair import FIELDS, built, instances

from likely.config.recipe import Recipe, override
from likely.data import Data, from_arrays
from likely.data.dataset import Split
from likely.registry import build
from likely.tasks.card import card, compare, comparison_page, html, markdown, read_card, shown, verify, write_card
from likely.tasks.card.figures import figures_of
from likely.tasks.card.measures import MEASURES
from likely.tasks.card.origin import command_of
from likely.tasks.card.report import difference
from likely.tasks.learn import learn, learn_on
from likely.train import Ledger, fit, load_model
from likely.train.checkpoint import WEIGHTS, Checkpoints, header, pack
from likely.train.clock import Clock
from likely.train.files import sealed, unsealed, write_folder
from likely.train.learners import Gradient

ALL = instances(every=5) | {
    name: each for name, each in instances(every=1).items() if name.startswith("mixture, table")
}
FIRST = {*instances(every=1000), "mixture, table-labels"}


def unfilled(value: Any, path: str = "") -> list[str]:
    """Places where a card says neither a value nor why there is none."""
    if isinstance(value, dict):
        if {"value", "from"} <= value.keys():
            return [] if value["value"] is not None and value["from"] else [path]
        if "not_applicable" in value or "cannot" in value:
            return [] if value.get("not_applicable") or value.get("cannot") else [path]
        return [place for key, each in value.items() for place in unfilled(each, f"{path}/{key}")]
    return []


@pytest.mark.parametrize("name", [n if n in FIRST else pytest.param(n, marks=pytest.mark.long) for n in ALL])
def test_every_family_has_a_card_that_proves_itself(tmp_path: Path, name: str) -> None:
    model, rows = built(ALL[name])
    split = Split(rows.train.x, rows.train.y)
    data = Data("made", model.space, split, split, split, model.condition)
    fit(model, data, steps=2, run=tmp_path / "run", **{k: v for k, v in FIELDS.items() if k != "steps"})
    found = card(tmp_path / "run", rows=12, data=data)
    write_card(tmp_path / "run", found)
    assert unfilled({key: found[key] for key in ("name", "size", "samples", "time", "uses", "provenance")}) == []
    assert set(found["uses"]) == set(MEASURES) - {"size"}
    report = verify(tmp_path / "run", data=data)
    assert report.passed, str(report)
    assert ("bit for bit" in str(report)) == ("Samples" in found["size"]["verbs"]["value"])
    # again: nothing is measured twice, nothing changes
    lines = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    assert card(tmp_path / "run", rows=12, data=data) == found
    assert (tmp_path / "run" / "ledger.jsonl").read_bytes() == lines
    assert html(found)
    assert markdown(found)
    assert compare([tmp_path / "run"] * 2)["runs"][0]["parameters"] == found["size"]["parameters"]["value"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a card: a joint of two mixtures on pictures, so that it costs nothing."""
    run = tmp_path_factory.mktemp("cards") / "run"
    recipe = {
        "family": "joint",
        "model": {"part": {"family": "mixture", "components": 3}},
        "data": {"source": "digits"},
    }
    learn(Recipe.model_validate(recipe | {"train": {"steps": 3, "threads": 1}}), run)
    write_card(run, card(run, rows=64))
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of that run to do harm to."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def first_failure(run: Path) -> tuple[str, str]:
    bad = [check for check in verify(run).checks if check.status == "failed"]
    return (bad[0].name, bad[0].sentence) if bad else ("", "")


def rewrite(run: Path, change: Any, *, texts: bool = True) -> None:
    """Change card.json, and make its page and text again, as someone would who knows this library."""
    found = read_card(run)
    change(found)
    if texts:
        write_card(run, found)
    else:
        (run / "card.json").write_text(json.dumps(found) + "\n")


def rechained(run: Path, change: Any) -> None:
    """Change lines of the ledger and make its chain whole again, hash by hash."""
    last, out = "0" * 64, []
    for number, raw in enumerate((run / "ledger.jsonl").read_text().splitlines(), 1):
        entry = json.loads(raw)
        entry.pop("sha256")
        entry["prev"] = last
        change(number, entry)
        out.append(sealed(entry))
        last = unsealed(out[-1])["sha256"]
    (run / "ledger.jsonl").write_text("".join(f"{line}\n" for line in out))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a card that is no container."""
    if isinstance(value, dict):
        return [place for key, each in value.items() for place in leaves(each, (*path, key))]
    if isinstance(value, list):
        return [place for i, each in enumerate(value) for place in leaves(each, (*path, i))]
    return [path]


def test_the_card_as_it_was_made_holds(run: Path) -> None:
    found = read_card(run)
    assert unfilled({key: found[key] for key in ("name", "size", "samples", "time", "uses", "provenance")}) == []  # M4
    report = verify(run)
    assert report.passed, str(report)
    assert [check.status for check in report.checks] == ["passed"] * 11
    assert verify(run).to_json()["passed"]
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    verify(run, samples=3)
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}  # it writes nothing


def test_no_figure_of_the_card_can_be_edited(run: Path) -> None:
    """M1: every leaf of card.json, one after the other; the page and the text made again from it each time."""
    found, ledger = read_card(run), Ledger(run).lines()
    truth = figures_of(ledger)
    places = leaves({key: value for key, value in found.items() if key not in ("shown", "ledger", "format")})
    assert len(places) > 500
    for place in places:
        forged = json.loads(json.dumps(found))
        at = forged
        for key in place[:-1]:
            at = at[key]
        old = at[place[-1]]
        at[place[-1]] = (not old) if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else f"{old}!"
        gap = difference({key: value for key, value in forged.items() if key != "shown"}, truth)
        assert gap is not None and gap.startswith("/".join(map(str, place))), place
    for place in places[:: len(places) // 8]:  # some of them through the door

        def forge(card: dict[str, Any], place: tuple[Any, ...] = place) -> None:
            at: Any = card
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = 7.5 if at[place[-1]] != 7.5 else 8.5

        (run / "card.json").write_text(json.dumps(found))
        rewrite(run, forge, texts=False)
        name, sentence = first_failure(run)
        assert name == "figures", (place, sentence)
        assert "/".join(map(str, place)) in sentence
    (run / "card.json").write_text(json.dumps(found))
    rewrite(run, lambda card: card.pop("failures"), texts=False)
    assert "failures is missing" in first_failure(run)[1]
    (run / "card.json").write_text(json.dumps(found))
    rewrite(run, lambda card: card.update(award="best of all"), texts=False)
    assert "award is not in the ledger" in first_failure(run)[1]


@pytest.mark.parametrize("name", ["card.html", "card.md"])
def test_no_byte_of_page_and_text_can_be_edited(run: Path, name: str) -> None:
    whole = (run / name).read_text()
    digits = [i for i, sign in enumerate(whole) if sign.isdigit()]
    for i in digits[:: len(digits) // 5]:
        (run / name).write_text(whole[:i] + str((int(whole[i]) + 1) % 10) + whole[i + 1 :])
        failed, sentence = first_failure(run)
        assert failed == name
        assert f"line {whole[:i].count(chr(10)) + 1} was changed" in sentence
    (run / name).write_text(whole + "<p>and more</p>")
    assert first_failure(run)[0] == name
    (run / name).unlink()
    assert "is missing" in first_failure(run)[1]


def test_the_ledger_cannot_be_edited(run: Path) -> None:
    path = run / "ledger.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"steps": 3', '"steps": 9', 1))
    assert first_failure(run) == ("ledger", f"{path}, line 1 was changed: its SHA-256 does not fit its content")
    lines = whole.splitlines(True)
    path.write_text("".join(lines[:3] + lines[4:]))
    assert first_failure(run) == ("ledger", f"{path}, line 4 does not follow the line before it")
    path.write_text("".join(lines[:-2]))
    assert "lines are missing" in first_failure(run)[1]
    path.write_text(whole)

    def better(number: int, entry: dict[str, Any]) -> None:
        if entry["kind"] == "evaluation" and entry["what"] == "likelihood":
            entry["figures"]["bits_per_dim"] -= 0.5

    rechained(run, better)  # the whole chain made anew: the card was made from another one
    assert "is not the line that card.json was made from" in first_failure(run)[1]


def forged(run: Path, change: Any) -> tuple[str, str]:
    """What is found where ledger, card, page and text were all made anew, and agree with each other."""
    rechained(run, change)
    shown = read_card(run)["shown"]
    write_card(run, {**figures_of(Ledger(run).lines()), "shown": shown})
    return first_failure(run)


def test_a_ledger_forged_as_a_whole_is_found_by_the_checkpoint_and_by_counting_and_scoring_again(run: Path) -> None:
    def size(number: int, entry: dict[str, Any]) -> None:
        if entry["kind"] == "evaluation" and entry["what"] == "size":
            entry["figures"]["parameters"] *= 10

    def scores(number: int, entry: dict[str, Any]) -> None:
        if entry["kind"] == "evaluation" and entry["what"] == "likelihood":
            entry["figures"]["row_nats"] = [nats + 10 for nats in entry["figures"]["row_nats"]]

    def nonce(number: int, entry: dict[str, Any]) -> None:
        if number == 1:
            entry["nonce"] = "0" * 64

    whole = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    # the lines of training are bound to the checkpoint: a forged first line is found there
    assert "is not the ledger that the checkpoint of step 3 saw" in forged(run, nonce)[1]
    for change, name, words in ((size, "sizes", "parameters"), (scores, "scores", "scored again, test row 0")):
        for path, data in whole.items():
            path.write_bytes(data)
        found, sentence = forged(run, change)
        assert found == name, sentence
        assert words in sentence


def test_weights_cannot_be_swapped(run: Path, tmp_path: Path) -> None:
    """M2: other weights, in a checkpoint that is whole in itself."""
    step, files = Checkpoints(run).newest()
    model = load_model(run)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    other = pack(model.state_dict(), json.loads(json.dumps(header(model))))
    shutil.rmtree(Checkpoints(run).path(step))
    write_folder(Checkpoints(run).path(step), {**files, WEIGHTS: other})
    name, sentence = first_failure(run)
    assert name == "weights"
    assert f"step-0000000{step}/{WEIGHTS} holds other weights" in sentence


def test_a_flipped_bit_in_the_weights_is_named(run: Path) -> None:
    path = Checkpoints(run).path(Checkpoints(run).steps()[0]) / WEIGHTS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    name, sentence = first_failure(run)
    assert name == "weights"
    assert str(path) in sentence


def test_samples_cannot_be_swapped_moved_or_left_out(run: Path) -> None:
    """M2: the pictures of the card, with page and text made again from it."""
    whole = read_card(run)

    def put(values: list[str]) -> tuple[str, str]:
        write_card(run, {**whole, "shown": {**whole["shown"], "values": values}})
        return first_failure(run)

    values = whole["shown"]["values"]
    swapped = put([*values[:5], values[9], *values[6:]])
    assert swapped == ("pictures", "card.json: sample 5 is not the one whose hash the ledger has; it is sample 9")
    moved = put([values[1], values[0], *values[2:]])
    assert moved == ("pictures", "card.json: sample 0 is not the one whose hash the ledger has; it is sample 1")
    assert "63 samples, the ledger has the hashes of 64" in put(values[:-1])[1]
    write_card(run, {**whole, "shown": None})
    assert "shows no samples" in first_failure(run)[1]


def test_samples_of_another_seed_do_not_pass_though_all_hashes_agree(run: Path) -> None:
    """Someone draws with another seed, and writes hashes, card, page and text to fit: they are not drawn again."""
    model = load_model(run)
    lines = Ledger(run).lines()
    settings = next(x for x in lines if x.get("what") == "samples")["figures"]["settings"]
    x = shown.draw(model, settings, 12345)
    each = shown.hashes(x, model.space)

    def picked(seed: int | None) -> Any:
        def change(number: int, entry: dict[str, Any]) -> None:
            if entry.get("what") == "samples":
                entry["figures"] |= {"sha256": each, "sha256_all": shown.together(each)}
                entry["seed"] = seed or entry["seed"]

        return change

    for seed, name, words in ((None, "samples", "sample 0 is another"), (12345, "seed", "does not follow")):
        rechained(run, picked(seed))
        write_card(run, {**figures_of(Ledger(run).lines()), "shown": shown.encode(x, model.space)})
        found, sentence = first_failure(run)
        assert found == name, sentence
        assert words in sentence


def test_on_another_machine_a_level_is_allowed_and_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M5: where torch or the processor is another, as the ledger knows it."""
    kind = shown.draw

    def rounded_otherwise(model: Any, settings: Any, seed: int) -> Any:
        x = kind(model, settings, seed)
        x[3, 0, 0, 0] = x[3, 0, 0, 0] + 1 if x[3, 0, 0, 0] < 16 else 15
        x[7, 0, 2, 2] = (x[7, 0, 2, 2] + 8) % 17
        return x

    monkeypatch.setattr(shown, "draw", rounded_otherwise)
    assert "sample 3 is another" in first_failure(run)[1]
    monkeypatch.setattr("likely.tasks.card.verification.other_machine", lambda line: "torch 9.9, not 2.13")
    report = verify(run)
    assert report.passed
    told = next(check.sentence for check in report.checks if check.name == "samples")
    assert "torch 9.9, not 2.13" in told
    assert "62 of 64 are the same bit for bit, 63 within one grey level" in told
    assert "at most 1 are others" in told
    monkeypatch.setattr(shown, "draw", lambda model, settings, seed: kind(model, settings, seed + 1))
    assert "does not explain that" in first_failure(run)[1]


def test_a_run_that_was_trained_on_says_so(run: Path) -> None:
    learn_on(run, steps=6)
    name, sentence = first_failure(run)
    assert name == "weights"
    assert "trained on to step" in sentence
    assert "--force" in sentence


def test_a_resumed_run_has_the_card_of_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M3: timing aside, when both have drawn the same nonce."""
    monkeypatch.setattr("likely.train.ledger.secrets.token_hex", lambda n: "ab" * n)
    recipe = {"family": "vae", "preset": "digits", "data": {"source": "digits"}, "model": {"hidden": [16]}}
    recipe |= {"train": {"steps": 6, "threads": 1, "save_every": 2, "log_every": 2}}
    parsed = Recipe.model_validate(recipe)
    learn(parsed, tmp_path / "a" / "run")

    def killed(self: Any, step: int, real: Any = Gradient.step) -> Any:
        if step == 3:
            raise InterruptedError
        return real(self, step)

    with monkeypatch.context() as context:
        context.setattr(Gradient, "step", killed)
        with pytest.raises(InterruptedError):
            learn(parsed, tmp_path / "b" / "run")
    learn_on(tmp_path / "b" / "run")
    cards = [card(tmp_path / name / "run", rows=32, only=("likelihood", "samples")) for name in "ab"]
    assert timeless(cards[0]) == timeless(cards[1])
    assert [c["time"]["restarts"]["value"] for c in cards] == [0, 1]
    assert cards[1]["time"]["lost"]["value"] >= 0
    assert cards[0]["time"]["examples"]["value"] == 6 * 64
    assert cards[0]["shown"] == cards[1]["shown"]


def timeless(card: dict[str, Any]) -> Any:
    """A card without times, hashes of lines, and what counts restarts."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k not in ("from", "seconds", "ledger", "lines")}
        return [clean(each) for each in value] if isinstance(value, list) else value

    apart = ("wall", "busy", "restarts", "lost", "memory", "energy")
    return clean({**card, "time": {key: value for key, value in card["time"].items() if key not in apart}})


def test_names_are_text_wherever_they_go(tmp_path: Path) -> None:
    """A run, its classes and its data may be called anything: no markup, no YAML but a string."""
    evil = '<img src=x onerror=alert(1)>"|`[a](javascript:b)\n---\nlicense: mit'
    x = torch.arange(240).reshape(60, 1, 2, 2) % 5
    data = from_arrays(x, torch.arange(60) % 2, name=evil, classes=(evil, "b"), levels=5)
    model = build("joint", data.space, data.condition, part={"family": "mixture", "components": 2})
    run = tmp_path / "<b onclick=c>run"
    fit(model, data, steps=1, run=run, threads=1, asked={"classes": [evil, "b"]})
    found = card(run, rows=20, data=data, licence="mit")
    write_card(run, found)
    page, text = (run / "card.html").read_text(), (run / "card.md").read_text()
    assert "<img src=x" not in page and "<b onclick" not in page and "<script" not in page
    assert "&lt;img src=x onerror" in page
    assert "<img src=x" not in text.split("---\n", 2)[2] and "<b onclick" not in text.split("---\n", 2)[2]
    block = yaml.safe_load(text.split("---\n")[1])
    assert block["license"] == "mit"
    assert block["datasets"] == [evil]
    assert block["model-index"][0]["name"] == "<b onclick=c>run"
    assert verify(run, data=data).passed
    other = comparison_page(compare([run, run]))
    assert "<b onclick" not in other and "<img src=x" not in other
    with pytest.raises(ValueError, match="licence is 'MIT license"):
        card(run, licence="MIT license\nx: y")


def test_the_hub_reads_the_metadata(run: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard((run / "card.md").read_text(), ignore_metadata_errors=False)
    assert found.data.library_name == "likely"
    assert found.data.license == "unknown"
    assert {"likely", "joint", "generative-model"} <= set(found.data.tags)
    results = {result.metric_type: result.metric_value for result in found.data.eval_results}
    assert results["bits_per_dim"] == read_card(run)["uses"]["likelihood"]["bits_per_dim"]["value"]
    assert results["accuracy"] == read_card(run)["uses"]["likelihood"]["accuracy"]["value"]


def test_the_command_on_the_card_is_the_recipe() -> None:
    recipe = {
        "family": "vae",
        "preset": "digits",
        "conditional": True,
        "model": {"hidden": [16, 8], "prior": "mixture"},
    }
    recipe |= {"data": {"source": "my data/x.csv", "missing": ["?", "a b"], "limit": 50}}
    recipe |= {"train": {"lr": 3e-4, "betas": (0.9, 0.99), "compile": False, "steps": 7, "patience": None}}
    asked = Recipe.model_validate(recipe)
    words = shlex.split(command_of(asked.model_dump(mode="json")))
    assert words[:2] == ["likely", "train"]
    flags = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i].startswith("--")}
    assigned = [word for word in words if "=" in word]
    again = override({"family": words[2], "data": {"source": flags["--data"]}}, assigned, {"hidden", "prior"})
    again |= {"preset": flags["--preset"], "conditional": "--conditional" in words}
    mine, theirs = (x.model_dump(mode="json") for x in (asked, Recipe.model_validate(again)))
    assert mine == theirs


def test_runs_side_by_side_rank_only_what_can_be_ranked(tmp_path: Path) -> None:
    def row(run: str, value: float, half: float, **other: Any) -> dict[str, Any]:
        stderr = half / 1.96
        use: dict[str, Any] = {"bits_per_dim": value, "bits_per_dim_stderr": stderr, "bits_kind": "=", "kind": "="}
        use |= {"k": 1, "about": "x", "rows": 200, "nats": -value, "nats_stderr": stderr}
        use |= {"splits": {"test": {"sha256": "a" * 64, "used": 200, "rows": 400}}}
        space = other.pop("space", "Integers((1, 8, 8), 17)")
        use |= other
        fig = lambda value: {"value": value, "from": "x", "at": "y"}  # noqa: E731
        size = {name: fig(1) for name in ("parameters", "disk_bytes", "score", "sample")} | {"space": fig(space)}
        time = {name: fig(1) for name in ("steps", "examples", "wall", "busy")} | {"hardware": fig({})}
        made = {"format": 1, "name": fig(run), "family": fig("vae"), "size": size, "time": time}
        made |= {"provenance": {"data": fig("digits")}, "uses": {"likelihood": {k: fig(v) for k, v in use.items()}}}
        (tmp_path / run).mkdir()
        (tmp_path / run / "card.json").write_text(json.dumps(made))
        return made

    row("a", 1.80, 0.01)
    row("b", 1.815, 0.01)
    row("c", 1.90, 0.01)
    row("bound", 1.70, 0.01, bits_kind="<=", kind=">=")
    row("other-split", 1.60, 0.01, splits={"test": {"sha256": "b" * 64, "used": 200, "rows": 400}})
    row("other-space", 1.50, 0.01, space="Integers((1, 28, 28), 256)")
    row("given", 1.40, 0.01, about="x given y")
    names = ["a", "b", "c", "bound", "other-split", "other-space", "given"]
    found = compare([tmp_path / name for name in names])
    marks = {row["name"]: row["mark"] for row in found["runs"]}
    assert marks == {"a": "best, not told apart", "b": "not told apart from the best"} | dict.fromkeys(names[2:], "")
    assert len(found["groups"]) == 5
    assert [Path(run).name for run in found["alone"]] == names[3:]
    assert found["groups"][0]["sentence"].startswith(
        f"best of 3: {tmp_path / 'a'}; intervals overlap with {tmp_path}/b"
    )
    row("d", 1.7, 0.01)
    marks = {row["name"]: row["mark"] for row in compare([tmp_path / name for name in "abcd"])["runs"]}
    assert marks == {"a": "", "b": "", "c": "", "d": "best"}
    with pytest.raises(ValueError, match="two or more"):
        compare([tmp_path / "a"])
    with pytest.raises(ValueError, match="has no card"):
        compare([tmp_path / "a", tmp_path])


def test_the_commands(shell: Shell, run: Path) -> None:
    assert "exists" in shell.mistake("card", run)
    assert "has no card" in shell.mistake("verify", run.parent)
    status, out, _ = shell("verify", run)
    assert status == 0
    assert "the card is what the run says" in out
    report = shell.json("verify", run)
    assert report["passed"] and report["seconds"] < 60
    text = (run / "card.md").read_text()
    (run / "card.md").write_text(text.replace("parameters", "perimeters", 1))
    status, out, _ = shell("verify", run)
    assert status == 1
    assert "card.md does not follow from card.json: line" in out
    lines = len(Ledger(run).lines())
    made = shell.json("card", run, "--force", "--rows", 64, "--skip", "conformance", "--licence", "cc-by-4.0")
    assert made["licence"]["value"] == "cc-by-4.0"
    assert len(Ledger(run).lines()) == lines + 1  # the licence; nothing was measured again
    assert shell("verify", run)[0] == 0
    assert "named 'love'" not in shell.mistake("card", run, "--force", "--rows", 0)
    status, out, _ = shell("compare", run, run, "--out", run.parent / "side.html")
    assert status == 0
    assert "best of 2" in out
    assert "Side by side" in (run.parent / "side.html").read_text()
    assert len(shell.json("compare", run, run)["runs"]) == 2


def test_joules_are_counted_where_counters_can_be_read_and_wrap(tmp_path: Path) -> None:
    def counter(name: str, micro: int, top: int = 999_999) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{micro}\n")
        (tmp_path / name / "max_energy_range_uj").write_text(f"{top}\n")

    assert "joules" not in Clock({}, tmp_path).read()
    counter("intel-rapl:0", 900_000)
    counter("intel-rapl:1", 10_000)
    counter("intel-rapl:0:0", 5)  # a part of package 0, counted there
    clock = Clock({}, tmp_path)
    counter("intel-rapl:0", 100_000)  # past its end: 200,000 more
    counter("intel-rapl:1", 60_000)
    assert clock.read()["joules"] == pytest.approx(0.25)
    assert Clock({"seconds": 5.0, "busy": 3.0, "joules": 7.0}, tmp_path).read()["joules"] == 7.0
    before = Clock({"seconds": 5.0, "busy": 3.0}, tmp_path).read()
    assert "joules" not in before  # some of this run was not counted: a part would pass for the whole
    assert before["seconds"] >= 5 and before["busy"] >= 3
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("broken")
    assert "joules" not in clock.read()


def test_an_error_is_no_refusal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the sentence of a task that needs another model goes onto the card as "cannot"."""

    def broken(asked: Any) -> dict[str, Any]:
        raise TypeError("unsupported operand")

    monkeypatch.setitem(MEASURES, "likelihood", MEASURES["likelihood"]._replace(ask=broken))
    found = card(run, rows=8, only=("likelihood",))["uses"]
    assert found["denoise"]["cannot"].startswith("denoise needs a model that is Denoiser; joint is")
    assert "measuring it failed" not in str(found["likelihood"])  # what was measured before stands
    for name in ("ledger.jsonl", "card.json"):
        (run / name).unlink()
    Ledger(run).append("start", asked={}, made_of={"high": "a", "low": "b", "at": 2})
    found = card(run, rows=8, only=("likelihood",))
    assert found["uses"]["likelihood"] == {"not_applicable": "measuring it failed: TypeError: unsupported operand"}
    assert "put together from other runs" in found["time"]["wall"]["not_applicable"]
    assert found["provenance"]["command"]["value"] == "likely split a b --at 2"
    write_card(run, found)
    report = verify(run)
    bad = [check.name for check in report.checks if check.status == "failed"]
    assert bad == ["weights"], str(report)  # another ledger than the checkpoint saw
