"""What keeps the house in order and no linter says."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxcompress as jc

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "jaxcompress").rglob("*.py"))
FOLDERS = [ROOT / name for name in ("jaxcompress", "tests", "benchmarks", "examples")]
EVERYTHING = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))]
MODULES = [m.name for m in pkgutil.walk_packages(jc.__path__, "jaxcompress.") if not m.name.endswith("__main__")]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_file_is_short_and_honest(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "one idea per file: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not any("._src" in name for name in names), f"line {node.lineno}: a private module"
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert reraises or not broad, f"line {node.lineno}: a broad except"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_rooms_do_not_import_the_front_door(path):
    """A room that imported ``jaxcompress`` itself would import every other room (docstring examples may)."""
    if path.parent.name in ("cli", "report", "pipeline") or path.stem == "cli":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert all(alias.name != "jaxcompress" for alias in node.names), f"line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module):
    loaded = importlib.import_module(module)
    assert loaded.__doc__, f"{module} does not say what it is for"
    for name, value in vars(loaded).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{module}.{name} has no docstring"


def fresh_modules(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after ``statement``."""
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def test_import_is_light():
    """A user without Flax, without a display and without PyTorch pays for none of them."""
    loaded = fresh_modules("import jaxcompress")
    assert "jax" in loaded
    assert loaded.isdisjoint({"flax", "matplotlib", "rich", "torch", "mlxtend", "sklearn", "pandas"})


def test_supernets_are_imported_at_their_first_use():
    room = "jaxcompress.search.supernet"
    code = f"jc.search.run; assert {room!r} not in sys.modules; jc.search.supernet.Supernet; sys.modules[{room!r}]"
    fresh_modules(f"import jaxcompress as jc; {code}")
    assert "supernet" in dir(jc.search)


def test_import_starts_no_backend():
    """Importing must leave the choice of devices, and ``jax.distributed.initialize``, to the program."""
    code = "import jax, jaxcompress; jax.config.update('jax_num_cpu_devices', 3); print(jax.local_device_count('cpu'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "3"


def test_import_registers_the_leaf_kinds():
    """Files and exported functions name kinds; a process that only loads them has imported nothing but the package."""
    kinds = "masked", "nm", "quantized", "lowrank", "codebook"
    fresh_modules(f"import jaxcompress; [jaxcompress.core.leaf.kind_class(kind) for kind in {kinds}]")


def test_public_names_are_there():
    for name in jc.__all__:
        assert getattr(jc, name) is not None
        assert name in dir(jc)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = jc.nonsense


def test_version_is_the_distribution_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert jc.__version__ == project["version"]
