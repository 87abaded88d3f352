"""The command line as a user meets it: what works, and one sentence with exit status 2 for what cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likely.cli import main

sys.path.append(str(Path(__file__).parent))
from shell import Shell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with a sub-folder a class: bright on the left, bright on the right."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, part in (("left", slice(0, 2)), ("right", slice(2, 4))):
        (root / name).mkdir()
        for i in range(60):
            pixels = rng.integers(0, 60, (4, 4)).astype(np.uint8)
            pixels[:, part] += 180
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joint model of these pictures: a mixture, so that it costs nothing."""
    out = tmp_path_factory.mktemp("runs") / "joint"
    words = ["train", "joint", "part.family=mixture", "part.components=2", "--data", folder, "--steps", 3, "--out", out]
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert not caught.value.code
    return out


def test_from_pictures_to_a_decision(shell: Shell, run: Path, folder: Path) -> None:
    scored = shell.json("evaluate", run)
    assert scored["kind"] == "="
    assert scored["accuracy"] > 0.9
    assert 0 < scored["bits_per_dim"] < 8
    strange = np.full((4, 4), 128, np.uint8)
    strange[::2] = 0
    Image.fromarray(strange).save("strange.png")
    Image.open(folder / "left" / "00.png").resize((8, 8), 0).convert("RGB").save("left.png")
    status, out, _ = shell("decide", run, "left.png", "--novelty", 0.2)
    assert status == 0
    assert out.startswith("left.png: left (p(y given x) = 1.000")
    decided = shell.json("decide", run, "strange.png", "--novelty", 0.2)
    assert decided["decisions"][0]["verdict"] == "novel"
    assert decided["decisions"][0]["input"] == "strange.png"


def test_samples_are_files_and_follow_the_seed(shell: Shell, run: Path) -> None:
    one = shell.json("sample", run, "-n", 5, "--seed", 7, "--y", "right", "--out", "a.npz")
    two = shell.json("sample", run, "-n", 5, "--seed", 7, "--y", 1, "--out", "b.npz")
    assert one["sha256"] == two["sha256"]
    x = np.load("a.npz")["x"]
    assert x.shape == (5, 1, 4, 4)
    assert x[..., 2:].mean() > x[..., :2].mean() + 60
    shown = shell.json("sample", run, "-n", 9)
    assert Image.open(shown["out"]).width > 9
    fresh = shell.json("sample", run, "-n", 9)
    assert fresh["seed"] != shown["seed"]
    assert "accepts left, right" in shell.mistake("sample", run, "--y", "up")
    assert "accepts .png, .npz, .csv" in shell.mistake("sample", run, "--out", "a.gif")


def test_detect_judges_inputs(shell: Shell, run: Path) -> None:
    for i in range(3):
        strange = np.full((4, 4), 20 * i, np.uint8)
        Image.fromarray(strange).save(f"strange{i}.png")
    status, out, err = shell("detect", run, "strange1.png", "--method", "nll", "--fdr", 0.2)
    assert status == 0, err
    assert out.startswith("strange1.png: outside: not like the training data (p-value ")
    judged = shell.json("detect", run, "--fdr", 0.3, "--method", "nll", "typicality", "--out", "d.json")
    assert judged == json.loads(Path("d.json").read_text())
    assert set(judged["methods"]) == {"nll", "typicality"}
    assert len(judged["inputs"]) == len(judged["methods"]["nll"]["rows"]) == 12
    assert sum(row["outside"] for row in judged["methods"]["nll"]["rows"]) < 6
    dose = shell.json("detect", run, "--fdr", 0.3)["methods"]["dose"]
    assert set(dose["rows"][0]["statistics"]) == {"log_p", "code", "gradient"}
    assert dose["doctor"]["sentence"].startswith("your likelihood is")
    digits = shell.json("detect", run, "--data", "digits", "--fdr", 0.3, "--limit", 5)
    assert "8x8 to 4x4" in digits["rule"]
    assert len(digits["inputs"]) == 5
    last = json.loads((run / "ledger.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "detect"
    assert last["figures"] == digits


def test_detect_compares_methods(shell: Shell, run: Path) -> None:
    shown = shell.json("detect", run, "--against", "digits", "--method", "nll", "complexity", "--limit", 12)
    assert list(shown["outside"]) == ["digits", "constant", "noise", "blurred", "negatives", "turned"]
    assert shown["outside"]["noise"]["methods"]["nll"]["auroc"]["value"] > 0.9
    assert shown["inside"]["rows"] == 12
    status, out, _ = shell("detect", run, "--against", "made", "--method", "nll", "ratio", "--background-steps", 2)
    assert status == 0
    assert "blurred: 12 rows, twice by the binomial filter" in out
    page = Path(shown["page"]).read_text()
    assert Path(shown["page"]) == run / "detect.html"
    assert page.count("<svg") == 2
    assert "rank correlation" in page and "blurred" in page
    assert "<script" not in page
    assert (run / "detect-2.html").exists()  # the second one gave way
    trained = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    record = next(line for line in trained if line["kind"] == "background")
    assert (run / record["folder"]).is_dir()
    assert record["figures"]["tuned_on"].endswith("held-out rows against blurred copies")
    assert set(record["figures"]["auroc_tried"]) == {"0.05", "0.1", "0.2", "0.3"}
    before = sorted(run.rglob("*"))
    again = shell.json("detect", run, "--against", "made", "--method", "ratio", "--background-steps", 2)
    assert again["background"] == record["figures"]
    assert sorted(p for p in run.rglob("*") if p.is_dir()) == [p for p in before if p.is_dir()]  # nothing trained anew
    assert "ratio" in shell.json("detect", run, "--against", "made")["uses"]  # the background that is there is used


def test_detect_refuses(shell: Shell, run: Path) -> None:
    assert "energy cannot be had: an energy needs a model that is Unnormalised" in shell.mistake(
        "detect", run, "--method", "energy"
    )
    assert "accepts one of them" in shell.mistake("detect", run, "x.png", "--data", "digits")
    assert "leave inputs and data out" in shell.mistake("detect", run, "x.png", "--against", "digits")
    assert "resolve shares" in shell.mistake("detect", run, "--fdr", 0.001)
    assert "only images can be adapted" in shell.mistake("detect", run, "--data", "moons", "--fdr", 0.3)
    assert "nll" in shell.mistake("detect", run, "--method", "magic")


def test_decide_is_examined_where_classes_are_known(shell: Shell, run: Path) -> None:
    record = shell.json("decide", run, "--novelty", 0.2, "--limit", 12, "--out", "decided.json")
    found = record["examination"]
    assert found["accuracy"] == 1
    assert found["trust"]["p(y given x)"]["augrc"]["value"] == 0
    assert record["page"] == "decided.html"
    assert "None: every most likely class is right" in Path("decided.html").read_text()
    assert "where the page goes" in shell.mistake("decide", run, "--out", "one.html")
    Path("decided.json").unlink()
    assert "decided.html, which exists" in shell.mistake("decide", run, "--novelty", 0.2, "--out", "decided.json")
    assert not Path("decided.json").exists()
    bound = shell.json("decide", run, "--novelty", 0.5, "--risk", 0.01)
    assert bound["risk"]["log_odds"] is None  # six rows promise nothing
    assert all(row["verdict"] != "class" for row in bound["decisions"])
    out = shell("decide", run, "--novelty", 0.5, "--risk", 0.01)[1]
    assert "no answers: 6 held-out rows do not show" in out
    assert "two or more rows of the run's own data" in shell.mistake("decide", run, "x.png", "--page", "p.html")
    assert "risk is 2" in shell.mistake("decide", run, "--novelty", 0.5, "--risk", 2)


def test_files_are_not_written_over(shell: Shell, run: Path) -> None:
    kept = Path("kept.json")
    kept.write_text("mine")
    ledger = (run / "ledger.jsonl").read_text()
    for words in (
        ["evaluate", run, "--out", kept],
        ["decide", run, "--novelty", 0.2, "--out", kept],
        ["detect", run, "--fdr", 0.3, "--out", kept],
        ["sample", run, "--out", "kept.json"],
        ["data", "show", "digits", "--out", kept],
    ):
        said = shell.mistake(*words)
        assert "out is kept.json, which exists; choose another name, or --force to replace it" in said
    assert kept.read_text() == "mine"
    assert (run / "ledger.jsonl").read_text() == ledger  # refused before any work
    assert "a folder; accepts the name of a file" in shell.mistake("evaluate", run, "--out", run)
    status, _, err = shell("evaluate", run, "--out", kept, "--force")
    assert status == 0, err
    assert json.loads(kept.read_text())["split"] == "test"
    Path("a.npz").write_text("mine")
    assert "which exists" in shell.mistake("sample", run, "--out", "a.npz")
    assert shell("sample", run, "-n", 2, "--out", "a.npz", "--force")[0] == 0
    assert np.load("a.npz")["x"].shape[0] == 2
    # names that nobody chose give way to what is there
    one, two = (shell.json("sample", run, "-n", 2, "--seed", 3)["out"] for _ in range(2))
    assert Path(two).name == "samples-3-2.png"
    assert Path(one).read_bytes() == Path(two).read_bytes()
    shown = [shell.json("data", "show", "digits")["picture"] for _ in range(2)]
    assert shown == ["digits.png", "digits-2.png"]


def test_recipe_with_overrides_and_resume(shell: Shell) -> None:
    Path("recipe.toml").write_text(
        'family = "vae"\n[model]\nlatent = 2\nhidden = [8]\n[data]\nsource = "digits"\nlimit = 40\n'
        "[train]\nsteps = 4\nbatch = 8\n"
    )
    done = shell.json("train", "recipe.toml", "lr=3e-4", "--out", "run", "model.latent=3", "--json", "valid_rows=8")
    assert (done["reason"], done["step"]) == ("steps", 4)
    start = json.loads(Path("run/ledger.jsonl").read_text().splitlines()[0])
    assert start["asked"]["recipe"]["train"]["lr"] == 3e-4
    assert start["model"]["config"]["latent"] == 3
    assert shell.json("resume", "run", "--steps", 6)["step"] == 6
    scored = shell.json("evaluate", "run", "-k", 8, "--limit", 10, "--out", "scores.json")
    assert (scored["kind"], scored["k"], scored["rows"]) == (">=", 8, 10)
    assert json.loads(Path("scores.json").read_text()) == scored
    assert "accuracy" not in scored
    needs = shell.mistake("decide", "run")
    assert "decide needs a model that is Joint or JointBound; vae is Trainable" in needs


def test_nothing_is_written_over(shell: Shell, run: Path) -> None:
    before = sorted(p.name for p in run.iterdir())
    said = shell.mistake("train", "mixture", "--data", "iris", "--out", run)
    assert "which exists" in said
    assert sorted(p.name for p in run.iterdir()) == before
    assert "which exists" in shell.mistake("tour", "--out", run)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "mixtur"], "did you mean 'mixture'"),
        (["train", "vae", "--preset", "smal"], "did you mean 'small'"),
        (["train", "vae", "latnt=3"], "did you mean 'latent'"),
        (["train", "vae", "lr=-1"], "train.lr is -1"),
        (["train", "vae", "latent"], "accepts key=value"),
        (["train", "vae", "--data", "digts"], "digits"),
        (["train", "vae", "--data", "nowhere.csv"], "nowhere.csv"),
        (["train", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["evaluate", "runs/nothing"], "no folder is"),
        (["describe", "flow", "depth=0"], "depth"),
        (["train", "joint", "--data", "moons", "part=vea"], "part is 'vea'"),
        (["data", "get"], "name is missing"),
        (["check", "vee"], "did you mean 'vae'"),
        (["train", "vae", "--stesp", "3"], "--steps"),
        (["evalute", "runs/nothing"], "command is 'evalute'; did you mean 'evaluate'?"),
        (["zzz"], "command is 'zzz'; accepts tour, train,"),
    ],
)
def test_mistakes_get_one_sentence(shell: Shell, words: list[str], sentence: str) -> None:
    said = shell.mistake(*words)
    assert sentence in said
    assert not Path("runs").exists()


def test_misspelt_run_and_damaged_run(shell: Shell, run: Path) -> None:
    near = run.with_name("join")
    assert f"did you mean {run}" in shell.mistake("evaluate", near)
    weights = sorted(run.glob("checkpoints/*/model.safetensors"))
    kept = [path.read_bytes() for path in weights]
    try:
        for path, data in zip(weights, kept, strict=True):
            flipped = bytearray(data)
            flipped[-5] ^= 1
            path.write_bytes(flipped)
        assert "model.safetensors" in shell.mistake("evaluate", run)
    finally:
        for path, data in zip(weights, kept, strict=True):
            path.write_bytes(data)


def test_describe_families_and_data(shell: Shell) -> None:
    told = shell.json("describe", "autoregressive", "--data", "digits", "width=16")
    assert told["parameters"] > 0
    assert "Exact" in told["verbs"]
    assert told["config"]["width"] == 16
    table = shell.json("families")
    assert table["flow"]["Invertible"] == "some"
    names = [entry["name"] for entry in shell.json("data", "list")]
    assert {"digits", "fashion-mnist", "cifar10"} <= set(names)
    shown = shell.json("data", "show", "digits")
    assert Path(shown["picture"]).exists()
    status, out, _ = shell("families")
    assert status == 0
    assert "Exact" in out


def test_help_names_every_question(shell: Shell) -> None:
    status, out, _ = shell("--help")
    assert status == 0
    for question in (
        "tour",
        "train",
        "resume",
        "evaluate",
        "sample",
        "decide",
        "detect",
        "families",
        "describe",
        "check",
        "data",
    ):
        assert question in out
        status, page, _ = shell(question, "--help")
        assert status == 0
        assert len(page.splitlines()) > 5
