#!/usr/bin/env python3
"""Everything that is done with a checkout of likely, on a bare machine, with the standard library alone.

    python3 do.py setup          make .venv and install (the other commands do that by themselves when needed)
    python3 do.py tour           train a joint model of handwritten digits and see what it can be asked
    python3 do.py test           the fast tests
    python3 do.py test-long      the tests that take minutes
    python3 do.py docs           build the documentation into site/
    python3 do.py bench NAME     run bench/NAME.py
    python3 do.py lint           linter, formatter, type checker, import contracts
    python3 do.py run -- ARGS    `likely ARGS` from .venv

Further arguments go on to the tool: `python3 do.py tour --json`, `python3 do.py test -k vae`. All that this file
itself says goes to standard error, so that a tool's standard output stays its own.

.venv/likely.json says whether .venv is finished, and for which pyproject.toml and constraints.txt: nothing is
installed, and no network needed, while these stay the same; a .venv that was killed half-way is made anew.
"""

import difflib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STATE = VENV / "likely.json"
EXTRAS = "test,dev,docs,data,ode,studio,jxl"
OLDEST = (3, 11)


def main(arguments):
    """Run one command; returns its exit status."""
    if sys.version_info < OLDEST:
        need, have = ".".join(map(str, OLDEST)), sys.version.split()[0]
        fail(f"Python {need} or newer is needed, this is {have} ({sys.executable}); run this file with a newer one")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        fail(f"no command {name!r}{f', did you mean {near[0]!r}?' if near else ''} There are: {', '.join(COMMANDS)}")
    steps = COMMANDS[name](rest)
    ensure_environment()
    return run(steps, threads=1 if name in ONE_THREAD else None)


# What each command runs ---------------------------------------------------------------------------------------------


def setup(rest):
    if rest:
        fail(f"setup takes no arguments, got {shlex.join(rest)}")
    return []


def likely(*words):
    return lambda rest: [["likely", *words, *rest[rest[:1] == ["--"] :]]]


def tests(*words):
    return lambda rest: [["python", "-m", "pytest", "-n", "2", "--dist", "worksteal", *words, *rest]]


def docs(rest):
    return [["python", "docs/build.py", *rest]]


def bench(rest):
    names = sorted(path.stem for path in (ROOT / "bench").glob("[!_]*.py"))
    if not rest or rest[0] not in names:
        fail(f"bench needs the name of a benchmark, got {rest[0] if rest else 'none'}; there are: {', '.join(names)}")
    return [["python", f"bench/{rest[0]}.py", *rest[1:]]]


def lint(rest):
    if rest:
        fail(f"lint takes no arguments, got {shlex.join(rest)}")
    return [["ruff", "check"], ["ruff", "format", "--check"], ["ty", "check"], ["lint-imports"]]


COMMANDS = {
    "setup": setup,
    "tour": likely("tour"),
    "test": tests(),
    "test-long": tests("-m", "long"),
    "docs": docs,
    "bench": bench,
    "lint": lint,
    "run": likely(),
}
# Two test processes of one thread each: beside another busy process, two OpenMP threads are far slower than one.
ONE_THREAD = ("test", "test-long", "docs", "lint")


def run(steps, threads):
    """Run tools of .venv, all of them; the first failure's exit status, else 0.

    `likely` runs where the caller stands, so that files can be named as usual; the others at the checkout's root.
    """
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(VENV)}
    environment.pop("PYTHONHOME", None)
    if threads:
        environment.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    failed = 0
    for step in steps:
        command = [str(BIN / step[0]), *step[1:]]
        folder = Path.cwd() if step[0] == "likely" else ROOT
        if len(steps) == 1 and os.name != "nt":
            os.chdir(folder)
            os.execve(command[0], command, environment)  # signals and exit status are then the tool's own
        if len(steps) > 1:
            say(shlex.join(step))
        status = subprocess.call(command, cwd=folder, env=environment)
        failed = failed or (status if status >= 0 else 128 - status)
    return failed


# The environment ----------------------------------------------------------------------------------------------------


def ensure_environment():
    """Make, finish or bring up to date .venv; costs a millisecond when there is nothing to do."""
    if read_state() == wanted_state() and PYTHON.exists():
        return
    with lock():
        state = read_state()
        if state == wanted_state() and PYTHON.exists():
            return  # another process made it while this one waited
        if state is None and VENV.exists() and any(VENV.iterdir()):
            fail(f"{VENV} was not made by do.py; move it away and run this again")
        began = time.monotonic()
        if state is None or state.get("root") != str(ROOT) or not state.get("stamp") or not PYTHON.exists():
            say("making .venv and installing; this takes minutes the first time (torch alone is large)")
            make_environment()
        else:
            say("pyproject.toml or constraints.txt has changed: bringing .venv up to date")
            write_state({})
        install(began)
        write_state(wanted_state())
        say(f"ready after {time.monotonic() - began:.0f} s")


def make_environment():
    """A fresh .venv, marked as unfinished from its first moment."""
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError as error:
        fail(f"this Python has no {error.name} ({sys.executable}); on Debian and Ubuntu: apt install python3-venv")
    VENV.mkdir(exist_ok=True)
    write_state({})
    for child in VENV.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child != STATE:
            child.unlink()
    venv.create(VENV, with_pip=True, symlinks=os.name != "nt")


def install(began):
    """Install the checkout, editable, with its pinned requirements; quietly, and once more loudly if that fails."""
    command = [str(PYTHON), "-m", "pip", "install", "-c", "constraints.txt", "-e", f".[{EXTRAS}]"]
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    environment = {**os.environ, **quiet}
    environment.pop("PYTHONHOME", None)
    if wait([*command, "-qq"], environment, began):
        say("that did not work; once more, in full")
        if subprocess.call(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr):
            fail("installing failed: see above. The first time needs a network or a local package index")


def wait(command, environment, began):
    """Run pip without its output, showing the seconds where a person looks on; returns the exit status."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    clock = sys.stderr.isatty()
    try:
        while True:
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                if clock:
                    print(f"\rinstalling: {time.monotonic() - began:.0f} s ", end="", file=sys.stderr, flush=True)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if clock:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def wanted_state():
    """What a finished .venv says of itself."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    settings = VENV / "pyvenv.cfg"  # names the Python that .venv was made of
    parts += [EXTRAS.encode(), settings.read_bytes() if settings.exists() else b""]
    return {"root": str(ROOT), "stamp": hashlib.sha256(b"\0".join(parts)).hexdigest()}


def read_state():
    """What .venv says of itself; {} when unfinished, None when do.py did not make it."""
    try:
        return json.loads(STATE.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}  # killed while it was written


def write_state(state):
    STATE.write_text(json.dumps(state))


@contextmanager
def lock():
    """One process at a time makes .venv; the others wait."""
    try:
        import fcntl
    except ImportError:  # Windows: without
        yield
        return
    with open(ROOT / ".venv.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another process is making .venv: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text):
    print(f"do.py: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(text)
    raise SystemExit(2)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
