"""The studio: what is behind its buttons, who is let in, and the page in a real browser."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="the extra `studio` is not installed")

from likely.config.recipe import parse
from likely.data import load
from likely.space import Integers
from likely.studio import ask, charts, compare, complete, make, pieces, runs, train
from likely.studio.desk import Desk
from likely.studio.errors import sentence
from likely.studio.guard import COOKIE, HEADERS, LIMITS, Guard, affordable
from likely.studio.shelf import Shelf
from likely.tasks.learn import learn

CHROMIUM = Path("/usr/bin/chromium")
DIGIT = Integers((1, 8, 8), 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs on digits, trained for a moment: a joint mixture, a mixture and a VAE."""
    root = tmp_path_factory.mktemp("runs")
    data = {"source": "digits"}
    few = {"steps": 3, "threads": 1}
    learn(parse({"family": "mixture", "data": data, "train": few}), root / "mixture", progress=False)
    learn(parse({"family": "joint", "preset": "mixture", "data": data, "train": few}), root / "joint", progress=False)
    vae = {"family": "vae", "preset": "digits", "data": data, "train": {"steps": 20, "threads": 1}}
    learn(parse(vae), root / "vae", progress=False)
    return root


@pytest.fixture(scope="module")
def shelf(folder: Path) -> Shelf:
    return Shelf([folder])


# Pieces ---------------------------------------------------------------------------------------------------------------


def test_texts_from_elsewhere_are_escaped() -> None:
    evil = '<img src=x onerror="alert(1)">&'
    x = torch.zeros(1, 8, 8, dtype=torch.uint8)
    made = [
        pieces.image(x, DIGIT, evil),
        pieces.figure(x, DIGIT, evil, evil),
        pieces.tile(evil, evil, evil),
        pieces.section(evil, "", evil),
        pieces.verdict(evil),
        pieces.problem(evil),
        pieces.hint(evil),
        pieces.buttons("field", [(evil, evil, "")]),
        pieces.facts({evil: evil}),
        charts.bars([evil], [1.0], 0, "="),
    ]
    for html in made:
        assert "<img src=x" not in html
        assert 'onerror="' not in html


def test_a_pad_goes_there_and_back() -> None:
    x = torch.arange(64).reshape(1, 8, 8) % 17
    assert torch.equal(pieces.unpacked(pieces.packed(x), DIGIT)[0].long(), x)
    assert f'data-pixels="{pieces.packed(x)}"' in pieces.pad(x, DIGIT, "field")
    hidden = torch.zeros(8, 8, dtype=torch.bool)
    hidden[4:] = True
    assert torch.equal(pieces.unhidden(pieces.packed(hidden), DIGIT), ~hidden)
    assert pieces.unhidden("", DIGIT).all()


@pytest.mark.parametrize(
    "text",
    ["", "no base64", base64.b64encode(bytes(63)).decode(), "A" * 10**6, base64.b64encode(bytes([17] * 64)).decode()],
)
def test_what_no_pad_wrote_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="picture"):
        pieces.unpacked(text, DIGIT)


def test_ticks_are_round_and_within() -> None:
    for low, high in ((0.0, 1.0), (1.37, 3.91), (-5.0, 1234.0), (0.001, 0.0012)):
        found = charts.ticks(low, high, 5)
        assert 2 <= len(found) <= 6
        assert low <= found[0] <= found[-1] <= high
        steps = np.diff(found)
        assert np.allclose(steps, steps[0])


def test_percent_never_says_sure_where_it_is_not() -> None:
    assert [charts.percent(p) for p in (1.0, 0.9999, 0.5, 1e-9, 0.0)] == [
        "> 99.9 %",
        "> 99.9 %",
        "50.0 %",
        "< 0.1 %",
        "< 0.1 %",
    ]


# The shelf ------------------------------------------------------------------------------------------------------------


def test_only_runs_in_the_given_folders(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "away").symlink_to(folder / "vae")
    (inside / "empty").mkdir()
    assert Shelf([inside]).names() == []
    assert set(Shelf([folder]).names()) == {"mixture", "joint", "vae"}
    assert Shelf([folder / "vae"]).names() == ["vae"]
    for name in ("../vae", str(folder / "vae"), "vae/", "VAE", "vae\0", "away", "", None):
        with pytest.raises(ValueError, match="not in the folders|no run is chosen"):
            Shelf([inside]).take(name)


def test_a_few_models_stay_and_new_checkpoints_are_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likely.studio.shelf.KEPT", 2)
    shelf = Shelf([folder])
    vae = shelf.take("vae")
    assert shelf.take("vae") is vae
    shelf.take("mixture")
    shelf.take("joint")
    assert len(shelf._kept) == 2
    assert shelf.take("vae") is not vae
    joint = shelf.take("joint")
    step = next((folder / "joint" / "checkpoints").glob("step-*"))
    os.utime(step, ns=(time.time_ns(), time.time_ns()))
    assert shelf.take("joint") is not joint


# What the buttons do --------------------------------------------------------------------------------------------------


def test_ask_says_what_decide_says(shelf: Shelf) -> None:
    from likely.tasks.decide import decide

    joint = shelf.take("joint")
    x = joint.data.test.x[:1]
    html = ask.answer(joint, x)
    found = decide(joint.model, x, joint.space.take(joint.data.valid.x, slice(0, 256)), classes=joint.classes)
    assert f"{float(found.p_value[0]):.3f}" in html
    assert found.classes[int(found.posterior.label[0])] in html
    for part in ("Which class?", "Have I seen its kind before?", "The nearest training examples", "this one"):
        assert part in html


def test_noise_is_called_strange(shelf: Shelf) -> None:
    mixture = shelf.take("mixture")
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 17, (1, 1, 8, 8)))
    assert "Not like anything I was trained on" in ask.answer(mixture, noise)
    assert "Like what I was trained on" in ask.answer(mixture, mixture.data.test.x[:1])


def test_uploads_are_read_or_told_about(shelf: Shelf, tmp_path: Path) -> None:
    joint = shelf.take("joint")
    good, bad, bomb = tmp_path / "good.png", tmp_path / "<b>bad.png", tmp_path / "bomb.png"
    Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30)).save(good)
    bad.write_bytes(b"\x89PNG\r\n\x1a\n then nothing")
    Image.new("1", (5000, 5000)).save(bomb)
    x, names, wrong = ask.uploaded(joint, [str(good), str(bad), str(bomb)])
    assert x.shape == (1, 1, 8, 8)
    assert names == ["good.png"]
    assert len(wrong) == 2
    assert "cannot be read" in wrong[0]
    assert "pixels" in wrong[1]
    assert str(tmp_path) not in " ".join(wrong)  # no path of the server's is told
    assert "Your pictures" in ask.verdicts(joint, x, names)


def test_draws_are_those_of_the_seed(shelf: Shelf) -> None:
    from likely.logprob import sample
    from likely.tasks.samples import digest

    vae = shelf.take("vae")
    html = make.draws(vae, 5, 7, None, None, None)
    assert digest(sample(vae.model, 5, seed=7))[:16] in html
    assert html.count("<img") == 5
    joint = shelf.take("joint")
    assert make.draws(joint, 3, 1, "4", None, None).count("<figcaption>4</figcaption>") == 3
    with pytest.raises(ValueError, match="class is 'x'"):
        make.draws(joint, 3, 1, "x", None, None)
    with pytest.raises(ValueError, match="n is 1000000000"):
        make.draws(vae, 10**9, 1, None, None, None)


def test_walks_films_completions_bytes(shelf: Shelf) -> None:
    vae, mixture = shelf.take("vae"), shelf.take("mixture")
    assert make.walk(vae, 0, 1).count("<img") == make.WALK + 2
    assert "decoded" in make.at(vae, [0.5, 0, 0, 0, 0, 0])
    with pytest.raises(TypeError, match="Latent or Invertible"):
        make.walk(mixture, 0, 1)
    assert "data:image/webp" in make.shown_film(mixture, 1, None, None, None)
    with pytest.raises(TypeError, match="in one go"):
        make.shown_film(vae, 1, None, None, None)
    x, seen = mixture.data.test.x[:1], torch.ones(8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="nothing is rubbed out"):
        complete.filled(mixture, x, seen, 80, 0)
    seen[4:] = False
    assert complete.filled(mixture, x, seen, 80, 0).count("<img") == 1 + complete.FILLED
    assert "Where its bits are" in complete.compressed(mixture, x)
    with pytest.raises(TypeError, match="denoise needs"):
        complete.cleared(mixture, x, 2.0, True, 0)


def test_the_command_line_writes_films(folder: Path, shell: Any) -> None:
    shown = shell.json("sample", folder / "mixture", "-n", 3, "--seed", 1, "--film", "way.webp", "--out", "x.png")
    with Image.open(shown["film"]) as found:
        assert found.n_frames > 30
    assert "in one go" in shell.mistake("sample", folder / "vae", "--film", "other.webp")
    assert "ends in .webp" in shell.mistake("sample", folder / "mixture", "--film", "way.gif")


def test_two_kinds_are_not_ranked(shelf: Shelf) -> None:
    joint, mixture, vae = (shelf.take(name) for name in ("joint", "mixture", "vae"))
    x = joint.data.test.x[:1]
    assert "Their bits do not compare" in compare.compared(mixture, vae, x, None)
    assert "bits per dimension less" in compare.compared(mixture, joint, x, None)


def test_runs_are_told_from_their_ledgers(shelf: Shelf, tmp_path: Path) -> None:
    table = runs.overview(shelf)
    assert all(name in table for name in ("mixture", "joint", "vae", "digits"))
    assert table.count("&lt;= ") == 1  # the VAE's bits are a bound; the others' are exact
    assert table.count("<td>= ") == 2
    page = runs.portrait(shelf.path("vae"))
    assert "How it learned" in page
    assert "polyline" in page
    assert runs.card(shelf.path("vae")) == ""
    (tmp_path / "card.html").write_text('<p>the "card"</p><script>alert(1)</script>')
    frame = runs.card(tmp_path)
    assert "sandbox" in frame
    assert "<script>" not in frame
    assert "No runs in" in runs.overview(Shelf([tmp_path]))


def test_mistakes_are_sentences(shelf: Shelf) -> None:
    desk = Desk(shelf)

    class Asking:
        session_hash = "me"

    def fails(loaded: Any, told: Any) -> str:
        raise RuntimeError("a secret at /root/place")

    handler = desk.asks(fails)
    assert "did not foresee" in handler(Asking(), "vae", None)
    assert "secret" not in handler(Asking(), "vae", None)
    assert "not in the folders" in handler(Asking(), "../vae", None)
    assert sentence(MemoryError()) == "that takes more memory than there is; ask for less"

    def halts(loaded: Any, told: Any) -> str:
        desk.stop(Asking())
        told(0.5, "on it")
        raise AssertionError("it went on")

    assert "stopped." in desk.asks(halts)(Asking(), "vae", None)


# Training -------------------------------------------------------------------------------------------------------------


def test_the_form_comes_from_the_schemas() -> None:
    fields = {(f["table"], f["name"]): f for f in train.fields_of("vae", "digits")}
    assert fields["model", "latent"]["value"] == 16
    assert fields["model", "latent"]["text"]
    assert "mixture" in fields["model", "prior"]["choices"]
    assert fields["train", "lr"]["kind"] == "number"
    values = [8 if key == ("model", "latent") else each["value"] for key, each in fields.items()]
    assert train.overrides(list(fields.values()), values) == ["model.latent=8"]
    with pytest.raises(ValueError, match="accepts a number"):
        train.overrides([fields["train", "ema"]], ["much; rm -rf /"])
    with pytest.raises(ValueError, match="prior is 'evil'"):
        train.overrides([fields["model", "prior"]], ["evil"])


def test_what_the_form_starts_is_checked(tmp_path: Path) -> None:
    good = (tmp_path, "new", "vae", "digits", "digits", 5, 0, False, [])
    words, run = train.command(*good)
    assert run == tmp_path / "new"
    assert words[:5] == [sys.executable, "-m", "likely", "train", "vae"]
    for place, value, told in (
        (1, "../out", "name is"),
        (1, "-x", "name is"),
        (2, "os", "family is"),
        (3, "none", "preset is"),
        (4, "/etc", "data is"),
        (4, "hf:owner/name", "data is"),
        (5, 10**9, "steps is"),
        (5, 0, "steps is"),
        (6, -1, "seed is"),
    ):
        wrong = [*good]
        wrong[place] = value
        with pytest.raises(ValueError, match=told):
            train.command(*wrong)  # ty: ignore[invalid-argument-type]
    (tmp_path / "new").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        train.command(*good)


@pytest.mark.long
def test_a_training_is_started_followed_and_stopped(tmp_path: Path) -> None:
    trainer = train.Trainer()
    words, run = train.command(tmp_path, "new", "vae", "digits", "digits", 100_000, 0, False, [])
    trainer.start(words, run)
    with pytest.raises(ValueError, match="still in training"):
        trainer.start(words, run)
    end = time.monotonic() + 120
    while time.monotonic() < end and "in training" not in trainer.report():
        time.sleep(0.5)
    assert "in training" in trainer.report()
    time.sleep(2)
    trainer.stop()
    assert trainer.job is not None
    assert trainer.job.process.wait(60) == 130
    assert "stopped" in trainer.report()


# The guard ------------------------------------------------------------------------------------------------------------


def asked(
    guard: Guard,
    path: str = "/",
    headers: dict[str, str] | None = None,
    query: str = "",
    method: str = "GET",
    body: bytes = b"",
) -> tuple[int, dict[str, str], bytes]:
    """One request; status, headers and body of the answer."""
    import asyncio

    sent: list[Any] = []
    given = {"host": "127.0.0.1:7860", **(headers or {})}
    chunks = [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]
    inbox = [{"type": "http.request", "body": c, "more_body": i + 1 < len(chunks)} for i, c in enumerate(chunks)]

    async def receive() -> Any:
        if inbox:
            return inbox.pop(0)
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.encode(), v.encode()) for k, v in given.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
    asyncio.run(guard(scope, receive, send))
    told = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(m.get("body", b"") for m in sent[1:])


async def open_door(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole body and says yes."""
    while (await receive()).get("more_body"):
        pass
    allows = [(b"access-control-allow-origin", b"*")]
    await send({"type": "http.response.start", "status": 200, "headers": allows})
    await send({"type": "http.response.body", "body": b"yes"})


def test_who_is_let_in_here() -> None:
    guard = Guard(open_door, "127.0.0.1")
    status, headers, body = asked(guard)
    assert (status, body) == (200, b"yes")
    assert "access-control-allow-origin" not in headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe-eval" not in headers["content-security-policy"]
    for host in (
        "evil.example",
        "127.0.0.1.evil.example:7860",
        "",
        "10.0.0.1",
        "localhost.",
        "[::1]:7860",
        "LOCALHOST:7860",
    ):
        fine = host in ("localhost.", "[::1]:7860", "LOCALHOST:7860")
        assert asked(guard, headers={"host": host})[0] == (200 if fine else 421), host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1:7860"):
        fine = origin == "http://127.0.0.1:7860"
        assert asked(guard, headers={"origin": origin}, method="POST")[0] == (200 if fine else 403), origin
    assert asked(guard, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})[0] == 403
    assert asked(guard, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://169.254.169.254/latest/meta-data",
        "/gradio_api/proxy=http://127.0.0.1:22/",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://10.0.0.1/",
        "/gradio_api/file/etc/passwd",
        "/static/../../etc/passwd",
        "/static/..",
        "/assets/%2e%2e/x",
        "/static/\\\\host\\share",
        "/static/a\0b",
        "/STATIC/x",
        "/monitoring",
        "/gradio_api/vibe-edit",
        "/gradio_api/run/predict",
        "/gradio_api/call/ask",
        "/gradio_api/dev/reload",
        "/gradio_api/process_recording",
        "/gradio_api/stream/x",
        "/docs",
        "/login",
        "//evil.example/",
    ],
)
def test_there_are_no_other_pages(path: str) -> None:
    status, _, body = asked(Guard(open_door, "127.0.0.1"), path)
    assert status == 404
    assert b"yes" not in body


def test_whoever_is_outside_needs_the_token() -> None:
    with pytest.raises(ValueError, match="takes a token"):
        Guard(open_door, "0.0.0.0")
    guard = Guard(open_door, "0.0.0.0", "secret", ["studio.example"])
    host = {"host": "10.0.0.7:7860"}
    assert asked(guard, headers=host)[0] == 401
    assert asked(guard, headers=host, query="token=secreT")[0] == 401
    assert asked(guard, headers=host | {"cookie": f"{COOKIE}=other"})[0] == 401
    status, headers, _ = asked(guard, headers=host, query="token=secret")
    assert status == 303
    assert headers["location"] == "/"
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]
    cookie = {"cookie": headers["set-cookie"].partition(";")[0]}
    assert asked(guard, headers=host | cookie)[0] == 200
    assert asked(guard, headers={"host": "studio.example"} | cookie)[0] == 200
    assert asked(guard, headers={"host": "evil.example"} | cookie)[0] == 421


def test_bodies_end_somewhere() -> None:
    guard = Guard(open_door, "127.0.0.1")
    join, most = "/gradio_api/queue/join", LIMITS.body
    assert asked(guard, join, method="POST", body=bytes(5000))[0] == 200
    assert asked(guard, join, method="POST", headers={"content-length": str(most + 1)})[0] == 413
    assert asked(guard, join, method="POST", headers={"content-length": "nonsense"})[0] == 413
    assert asked(guard, join, method="POST", body=bytes(most + 1))[0] == 413  # whatever the header said
    assert asked(guard, "/", method="DELETE")[0] == 405
    assert {name for name, _ in HEADERS} >= {b"content-security-policy", b"referrer-policy", b"x-content-type-options"}


def test_prices_are_known_before_anything_is_made() -> None:
    affordable(64, 500, 64)
    for n, evaluations, dims in (
        (65, 1, 1),
        (0, 1, 1),
        (-1, 1, 1),
        (1, 10**9, 1),
        (10**9, 1, 1),
        (64, 500, 3 * 64 * 64),
    ):
        with pytest.raises(ValueError, match="accepts"):
            affordable(n, evaluations, dims)
    with pytest.raises(ValueError, match="n is 1.5"):
        affordable(1.5, 1, 1)  # ty: ignore[invalid-argument-type]


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A studio of the three runs, in a process of its own."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "likely", "studio", str(folder), "--port", str(port)]
    source = str(Path(__file__).resolve().parent.parent / "src")
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    said = tmp_path_factory.mktemp("studio") / "log"  # a file, since nobody reads on
    with said.open("w") as log, subprocess.Popen(words, stderr=log, env=environment) as process:
        end = time.monotonic() + 240
        while "the studio is at" not in said.read_text():
            assert process.poll() is None and time.monotonic() < end, said.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (130, 0)  # as of every command that Ctrl-C ends; 0 where SIGINT was being ignored


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """A page that has been opened; afterwards no request went elsewhere and nothing was wrong in its console."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(45_000)
        elsewhere: list[str] = []
        wrong: list[str] = []
        page.on(
            "request", lambda r: elsewhere.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None
        )
        page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.goto(address)
        page.wait_for_selector("#ask-pad canvas")
        yield page
        browser.close()
    assert elsewhere == []
    assert wrong == []


def until(page: Any, expression: str, seconds: float = 45) -> None:
    """Wait until an expression holds. (Playwright's own `wait_for_function` calls eval, which the page forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(100)


def choose(page: Any, name: str) -> None:
    page.click("#model input")
    page.click(f"ul[role=listbox] li:has-text('{name}')")


def test_ask_in_a_browser(page: Any, tmp_path: Path) -> None:
    choose(page, "joint")
    page.wait_for_selector("#ask-out .lk-bars")
    before = page.inner_text("#ask-out .lk-tile b >> nth=1")
    page.click("#ask-choices button >> nth=3")
    until(page, f"document.querySelectorAll('#ask-out .lk-tile b')[1]?.innerText !== '{before}'")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n no more")
    page.set_input_files("#ask-files input[type=file]", bad)
    page.wait_for_selector("#ask-several .lk-problem")
    assert "bad.png cannot be read" in page.inner_text("#ask-several")
    own = [tmp_path / "mine.png", tmp_path / "empty.png"]
    digit = load("digits").test.x[5, 0].numpy().astype(np.uint8) * 15
    for file, shown in zip(own, (digit, np.zeros_like(digit)), strict=True):
        Image.fromarray(shown).save(file)
    page.set_input_files("#ask-files input[type=file]", own)
    page.wait_for_selector("#ask-several h3:has-text('Your pictures')")
    assert [file.name for file in own if file.name not in (said := page.inner_text("#ask-several"))] == [], said
    canvas = page.locator("#ask-pad canvas")
    canvas.focus()
    shown = page.inner_text("#ask-out .lk-tile b >> nth=1")
    for key in (*["ArrowUp"] * 4, *["ArrowLeft"] * 4, " "):  # the corner, which is black in every digit
        page.keyboard.press(key)
    until(page, f"document.querySelectorAll('#ask-out .lk-tile b')[1]?.innerText !== '{shown}'")
    page.click("#ask-stop")  # which is answered, whatever is being worked on
    page.wait_for_timeout(500)


@pytest.mark.long
def test_every_tab_in_a_browser(page: Any) -> None:
    choose(page, "vae")
    open_tab(page, "Make")
    page.wait_for_selector("#make-walk")  # a model with codes
    page.click("#make-draw")
    page.wait_for_selector("#make-out figure >> nth=15")
    page.click("#make-walk")
    page.wait_for_selector("#make-out h3:has-text('A walk between two pictures')")
    choose(page, "mixture")
    page.wait_for_selector("#make-out .lk-hint")
    page.click("#make-film")
    page.wait_for_selector("#make-out img.lk-film")

    open_tab(page, "Complete")
    page.click("#fill-go")
    page.wait_for_selector("#fill-out .lk-problem:has-text('nothing is rubbed out')")
    page.click("button[data-set=fill-side][data-value=bottom]")
    until(page, "document.querySelector('#fill-pad .lk-pad')?.dataset.hidden.includes('B')")
    page.click("#fill-go")
    page.wait_for_selector("#fill-out figure >> nth=4")
    page.click("#fill-compress")
    page.wait_for_selector("#fill-out h3:has-text('Where its bits are')")
    page.click("#fill-denoise")
    page.wait_for_selector("#fill-out .lk-problem:has-text('denoise needs a model that is Denoiser')")

    open_tab(page, "Compare")
    page.click("#other input")
    page.click("ul[role=listbox] li:has-text('joint')")
    page.click("#compare-go")
    page.wait_for_selector("#compare-out .lk-two .lk-bars")
    open_tab(page, "Runs")
    page.wait_for_selector("#runs-one polyline")
    page.click("button[data-set=runs-pick][data-value=vae]")
    until(page, "document.querySelector('#model input').value === 'vae'")


@pytest.mark.long
def test_two_pages_at_once(page: Any, address: str) -> None:
    other = page.context.browser.new_page()
    other.goto(address)
    other.wait_for_selector("#ask-pad canvas")
    for each, name in ((page, "joint"), (other, "mixture")):
        choose(each, name)
        each.click("#ask-go")
    page.wait_for_selector("#ask-out .lk-bars")  # each has the answer of its own model
    other.wait_for_selector("#ask-out .lk-chart")
    assert other.locator("#ask-out .lk-bars").count() == 0


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_on_a_narrow_page(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 420, "height": 900})
    for name in ("Ask", "Make", "Complete", "Runs"):
        open_tab(page, name)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, name


def open_tab(page: Any, name: str) -> None:
    if not page.locator(f"button[role=tab]:has-text('{name}'):visible").count():
        page.click(".overflow-menu > button")  # what does not fit a narrow page is in a menu
        page.click(f".overflow-dropdown button:has-text('{name}')")
        return
    page.click(f"button[role=tab]:has-text('{name}'):visible")
