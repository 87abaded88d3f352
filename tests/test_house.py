"""The house around the library: the bootstrap, the commands that documents promise, and what an import costs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fresh(code: str) -> dict[str, Any]:
    """What `code` leaves in `result`, run by a Python of its own."""
    code = f"import json, sys\nresult = {{}}\n{code}\nprint(json.dumps(result))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def bootstrap(root: Path) -> ModuleType:
    """do.py as a module, working in another folder."""
    spec = importlib.util.spec_from_file_location("do", ROOT / "do.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT, module.VENV = root, root / ".venv"
    module.BIN = module.VENV / "bin"
    module.PYTHON, module.STATE = module.BIN / "python", module.VENV / "likely.json"
    return module


# What an import costs and touches -----------------------------------------------------------------------------------

COMMANDS = (
    *("tour", "train", "resume", "evaluate", "sample", "decide", "detect"),
    *("compress", "decompress", "info"),
    *("families", "describe", "check", "data"),
)
HEAVY = ("torch", "numpy", "matplotlib", "sklearn", "PIL", "datasets", "pandas")


def test_help_needs_no_torch() -> None:
    """`likely --help` parses its arguments before it pays for torch: the 0.3 s that are promised hang on this."""
    code = f"""
import likely.cli
sys.argv = ["likely", "--help"]
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as shown:
    try:
        likely.cli.main()
    except SystemExit as end:
        result["status"] = end.code
result["shown"] = shown.getvalue()
result["heavy"] = [name for name in {HEAVY} if name in sys.modules]
"""
    seen = fresh(code)
    assert seen["heavy"] == []
    assert seen["status"] in (0, None)
    for command in COMMANDS:
        assert command in seen["shown"], f"likely --help does not show {command}"


def test_configs_need_no_torch() -> None:
    names = [f"likely.config.{path.stem}" for path in (ROOT / "src/likely/config").glob("[!_]*.py")]
    assert len(names) > 3
    loads = "\n".join(f"import {name}" for name in names)
    assert fresh(f"{loads}\nresult['heavy'] = [name for name in {HEAVY} if name in sys.modules]")["heavy"] == []


def test_import_touches_nothing() -> None:
    """Importing every public name leaves torch, NumPy, warnings, logging and signals as they were."""
    code = """
import logging, signal, warnings, random, os
import numpy, torch
def state():
    return [
        torch.random.get_rng_state().sum().item(), str(torch.get_default_dtype()), torch.get_num_threads(),
        torch.get_num_interop_threads(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.distributions.Distribution._validate_args, torch.get_float32_matmul_precision(),
        hash(numpy.random.get_state()[1].tobytes()), hash(random.getstate()), len(logging.getLogger().handlers),
        len(warnings.filters), str(signal.getsignal(signal.SIGINT)), str(signal.getsignal(signal.SIGTERM)),
        sorted(os.environ), os.getcwd(), str(torch.get_default_device()),
    ]
import sklearn.datasets  # warning filters of its own
before = state()
import likely
for name in likely.__all__:
    getattr(likely, name)
after = state()
result["moved"] = [[a, b] for a, b in zip(before, after) if a != b]
"""
    assert fresh(code)["moved"] == []


def test_public_surface() -> None:
    import likely

    assert len(likely.__all__) == len(set(likely.__all__)) <= 32
    assert {"load", "build", "fit", "log_prob", "sample", "save", "load_model"} <= set(likely.__all__)
    assert set(dir(likely)) == set(likely.__all__)
    with pytest.raises(AttributeError, match="public names"):
        likely.nonsense  # noqa: B018


def test_version_is_one() -> None:
    import likely

    assert likely.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


# What documents promise ---------------------------------------------------------------------------------------------


def commands(word: str) -> list[tuple[str, str]]:
    """(document, line) of every line in a shell block of the documents that starts with `word`."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", document.read_text(), flags=re.M | re.S):
            found += [(document.name, line.strip()) for line in block.splitlines() if line.strip().startswith(word)]
    return found


def test_documented_bootstrap_commands_exist() -> None:
    lines = commands("python3 do.py")
    assert {name for name, _ in lines} >= {"README.md", "CONTRIBUTING.md"}
    known = bootstrap(ROOT).COMMANDS
    for name, line in lines:
        assert line.split()[2] in known, f"{name}: {line}"
    assert {"tour", "test"} <= {line.split()[2] for name, line in lines if name == "README.md"}


def test_documented_likely_commands_exist() -> None:
    """Every `likely SUBCOMMAND --flag` of the documents is one that the parser knows."""
    wanted: dict[str, set[str]] = {}
    for _, line in commands("likely "):
        words = line.partition("#")[0].split()
        wanted.setdefault(words[1], set()).update(word.partition("=")[0] for word in words if word.startswith("--"))
    assert wanted
    code = f"""
import contextlib, io
import likely.cli
for name in {sorted(wanted)}:
    sys.argv = ["likely", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            likely.cli.main()
        except SystemExit as end:
            result[name] = [end.code, shown.getvalue()]
"""
    helps = fresh(code)
    for name, flags in wanted.items():
        assert helps[name][0] in (0, None), f"likely {name} is no command"
        for flag in flags - {"--help"}:
            assert re.search(rf"{flag}\b", helps[name][1]), f"likely {name} does not know {flag}"


# The bootstrap ------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, list[str]]:
    """do.py in an empty checkout, whose venv and pip only note that they were called."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name)
    module, done = bootstrap(tmp_path), []

    def create(folder: Path, **_: object) -> None:
        assert json.loads(module.STATE.read_text()) == {}, "unfinished from its first moment"
        assert [path.name for path in folder.iterdir()] == ["likely.json"], "nothing is left of the old one"
        (folder / "bin").mkdir()
        (folder / "bin" / "python").touch()
        (folder / "pyvenv.cfg").write_text("home = here")
        done.append("venv")

    import venv

    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(module, "install", lambda began: done.append("pip"))
    return module, done


def test_environment_is_made_once(checkout: tuple[ModuleType, list[str]]) -> None:
    module, done = checkout
    module.ensure_environment()
    module.ensure_environment()
    assert done == ["venv", "pip"]


def test_environment_follows_its_files(checkout: tuple[ModuleType, list[str]]) -> None:
    module, done = checkout
    module.ensure_environment()
    (module.ROOT / "constraints.txt").write_text("torch==0")
    module.ensure_environment()
    assert done == ["venv", "pip", "pip"]


def test_killed_setup_starts_anew(checkout: tuple[ModuleType, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    module, done = checkout

    def killed(began: float) -> None:
        (module.VENV / "half").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "install", killed)
        module.ensure_environment()
    module.ensure_environment()
    assert done == ["venv", "venv", "pip"]
    assert not (module.VENV / "half").exists()


def test_moved_checkout_starts_anew(checkout: tuple[ModuleType, list[str]]) -> None:
    module, done = checkout
    module.ensure_environment()
    module.STATE.write_text(json.dumps(json.loads(module.STATE.read_text()) | {"root": "/elsewhere"}))
    module.ensure_environment()
    assert done == ["venv", "pip", "venv", "pip"]


def test_someone_elses_environment_stays(
    checkout: tuple[ModuleType, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    module, done = checkout
    (module.VENV / "lib").mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        module.ensure_environment()
    assert end.value.code == 2
    assert "was not made by do.py" in capsys.readouterr().err
    assert done == []
    assert (module.VENV / "lib").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["tset"], "did you mean 'test'"), (["setup", "x"], "no arguments"), (["bench"], "needs the name")],
)
def test_misuse_is_said_before_anything_is_made(arguments: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "do.py", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_old_python_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = bootstrap(ROOT)
    monkeypatch.setattr(module.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit):
        module.main(["test"])
    assert "Python 3.11 or newer is needed" in capsys.readouterr().err


def test_steps_pass_arguments_and_status_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = bootstrap(ROOT)
    assert module.COMMANDS["tour"](["--json"]) == [["likely", "tour", "--json"]]
    assert module.COMMANDS["run"](["--", "families", "--json"]) == [["likely", "families", "--json"]]
    assert module.COMMANDS["test"](["-k", "vae"])[0][-2:] == ["-k", "vae"]
    monkeypatch.setattr(module, "BIN", Path("/bin"))
    assert module.run([["true"], ["sh", "-c", "exit 3"], ["false"]], None) == 3
    assert module.run([["true"], ["sh", "-c", "kill -TERM $$"]], None) == 128 + 15
    assert module.run([], None) == 0


# The pins -----------------------------------------------------------------------------------------------------------


def test_constraints_pin_what_is_asked_for() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines), "exact, no local versions"

    def plain(requirement: str) -> str:
        return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")

    pinned = {plain(line) for line in lines}
    asked = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]
    assert {plain(each) for each in asked} <= pinned
    assert not [name for name in pinned if name.startswith("nvidia") or name in ("triton", "torchvision")]
    assert not [each for each in PROJECT["dependencies"] if "==" in each or "http" in each]


def test_typed() -> None:
    assert (ROOT / "src/likely/py.typed").exists()


def test_no_public_name_hides_behind_a_module() -> None:
    """`likely.verbs` is a module; a public function of that name would be it or not, by the order of imports."""
    import likely

    modules = {path.stem for path in (ROOT / "src" / "likely").iterdir()}
    assert not modules & set(likely.__all__)
