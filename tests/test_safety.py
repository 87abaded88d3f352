"""Nothing that a file or a user says is ever run as code: a scan of the source for calls that would."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
FILES = sorted(SOURCE.rglob("*.py"))

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torchvision", "yaml"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "numpy.fromfile",
    "pandas.read_pickle",
    "os.system",
    "os.popen",
    "runpy.run_path",
    "runpy.run_module",
    "tempfile.mktemp",
    "zipfile.ZipFile.extractall",
    "shutil.unpack_archive",
}
METHODS = {"extractall": "archives are read member by member", "extract": "archives are read member by member"}
# The only two places where a name becomes a module: the closed registry, and the list of optional packages.
# (The package's own lazy public names are the third; they come from a literal table.)
MAY_IMPORT = {"likely/registry.py", "likely/extras.py", "likely/__init__.py"}


def problems(tree: ast.Module, name: str) -> Iterator[str]:
    """Every banned import or call of a module, as `line: what`."""
    known: dict[str, str] = {}  # local name -> what it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def full(expression: ast.expr) -> str:
        if isinstance(expression, ast.Attribute):
            return f"{full(expression.value)}.{expression.attr}"
        return known.get(expression.id, expression.id) if isinstance(expression, ast.Name) else "?"

    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in imported:
                if module.partition(".")[0] in MODULES:
                    yield f"{node.lineno}: imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = full(node.func)
        if called in BUILTINS | CALLS:
            yield f"{node.lineno}: calls {called}"
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and not called.startswith("re."):
            yield f"{node.lineno}: calls .{node.func.attr}: {METHODS[node.func.attr]}"
        literal = bool(node.args) and isinstance(node.args[0], ast.Constant)
        if called == "importlib.import_module" and not literal and name not in MAY_IMPORT:
            yield f"{node.lineno}: imports a module by a computed name"
        for keyword in node.keywords:
            on = not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
            if keyword.arg in ("shell", "allow_pickle", "trust_remote_code", "weights_only") and on:
                yield f"{node.lineno}: {called}({keyword.arg}=...)"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_dangerous_calls(file: Path) -> None:
    name = file.relative_to(SOURCE).as_posix()
    assert list(problems(ast.parse(file.read_text()), name)) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle as j",
        "import yaml\nyaml.safe_load(s)",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=True)",
        "from torch import load\nload(path)",
        "from torch import hub\nhub.load(path)",
        "eval('1')",
        "exec(text)",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "import tarfile\ntarfile.open(p).extract(m)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module\nimport_module('likely.' + name)",
        "datasets.load_dataset(name, trust_remote_code=True)",
    ],
)
def test_the_scan_sees(planted: str) -> None:
    assert list(problems(ast.parse(planted), "planted.py"))


@pytest.mark.parametrize(
    "harmless",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import safetensors.torch\nsafetensors.torch.load(data)",
        "import importlib\nimportlib.import_module('likely.cli')",
        "import subprocess\nsubprocess.run(['ls'], check=False)",
        "import torch\ntorch.compile(model)",
    ],
)
def test_the_scan_lets_through(harmless: str) -> None:
    assert not list(problems(ast.parse(harmless), "harmless.py"))
