"""The walls of the house: who may import whom, who may load torch, and what stands nowhere in the code."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: a file imports only from lower rungs and from its own unit; a unit is a package, or the one file that is named
RUNGS = {
    "dlkit": 0,  # the version alone
    "dlkit.errors": 0,
    "dlkit.files": 1,
    "dlkit.settings": 1,
    "dlkit.locks": 1,
    "dlkit.machine": 1,
    "dlkit.words": 1,
    "dlkit.guard": 2,
    "dlkit.evidence": 2,
    "dlkit.catalog": 2,
    "dlkit.config": 3,
    "dlkit.descent": 3,
    "dlkit.lab": 4,
    "dlkit.data": 3,
    "dlkit.runs": 4,
    "dlkit.estimate": 5,
    "dlkit.figures": 5,
    "dlkit.jobs": 5,
    "dlkit.engine": 5,
    "dlkit.export": 6,
    "dlkit.jobs.worker": 7,
    "dlkit.jobs.warm": 8,
    "dlkit.api": 7,
    "dlkit.__main__": 7,
    "pages": 8,
    "app": 9,
}
WITH_TORCH = ("dlkit.engine", "dlkit.export")
LAZILY_WITH_TORCH = (
    "dlkit.catalog",
    "dlkit.jobs.worker",
    "dlkit.jobs.warm",
)  # inside a function: a builder, or the work itself
TORCH = {"torch", "torchvision", "timm"}
FROM_RUNS = ("dlkit.runs.records", "dlkit.runs.artifacts")  # what the engine may know of a run
READS_ENVIRONMENT = ("dlkit.settings", "dlkit.__main__", "app")


@dataclass(frozen=True)
class Import:
    """One imported module; `is_lazy` inside a function, `is_for_types` below `if TYPE_CHECKING`."""

    module: str
    line: int
    is_lazy: bool
    is_for_types: bool


def source_files() -> list[Path]:
    dlkit, pages = ((ROOT / name).rglob("*.py") for name in ("dlkit", "pages"))
    return [*sorted(dlkit), *sorted(pages), ROOT / "app.py"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = {module_name(path): path for path in source_files()}


def unit_of(module: str) -> str:
    """Return the longest entry of the ladder that the module belongs to; KeyError for a file without a rung."""
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        unit = ".".join(parts[:count])
        if unit in RUNGS and (unit != "dlkit" or module == "dlkit"):
            return unit
    raise KeyError(f"{module} has no rung: add it to RUNGS and to the design")


def imports_of(path: Path) -> list[Import]:
    return list(_imports(tree_of(path), False, False))


def _imports(node: ast.AST, is_lazy: bool, is_for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, is_lazy, is_for_types)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import hides its rung"
            for alias in child.names:  # `from dlkit import locks` imports dlkit.locks
                whole = f"{child.module}.{alias.name}"
                yield Import(whole if whole in MODULES else str(child.module), child.lineno, is_lazy, is_for_types)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            in_types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from _imports(child, is_lazy or in_function, is_for_types or in_types)


def calls_of(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


def by_name(module: str) -> str:
    return module


def test_every_file_has_a_rung():
    assert {unit_of(module) for module in MODULES} <= RUNGS.keys()
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", MODULES, ids=by_name)
def test_file_imports_only_from_lower_rungs_and_its_own_package(module):
    unit = unit_of(module)
    wrong = [
        f"line {found.line}: {found.module}"
        for found in imports_of(MODULES[module])
        if found.module.split(".")[0] in ("dlkit", "pages", "app")
        and unit_of(found.module) != unit
        and RUNGS[unit_of(found.module)] >= RUNGS[unit]
    ]
    assert not wrong


def test_ladder_sees_an_import_that_climbs(tmp_path):
    """The guard itself: a plain, a lazy and a type-checking import are all found, with their names."""
    path = tmp_path / "climbs.py"
    path.write_text(
        "from dlkit import locks\nif TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from dlkit.engine.model import build\n    import timm.models\n"
    )
    assert imports_of(path) == [
        Import("dlkit.locks", 1, False, False),
        Import("torch", 3, False, True),
        Import("dlkit.engine.model", 5, True, False),
        Import("timm.models", 6, True, False),
    ]


def test_engine_knows_the_records_and_files_of_a_run_but_no_store():
    known = {
        found.module
        for module, path in MODULES.items()
        if unit_of(module) in WITH_TORCH
        for found in imports_of(path)
        if found.module.startswith("dlkit.runs")
    }
    assert known <= set(FROM_RUNS)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("dlkit")], ids=by_name)
def test_dlkit_never_imports_streamlit(module):
    assert not [found for found in imports_of(MODULES[module]) if found.module.split(".")[0] == "streamlit"]


@pytest.mark.parametrize("module", MODULES, ids=by_name)
def test_torch_is_imported_by_the_engine_and_lazily_by_builders_alone(module):
    unit = unit_of(module)
    found = [one for one in imports_of(MODULES[module]) if one.module.split(".")[0] in TORCH and not one.is_for_types]
    if unit in LAZILY_WITH_TORCH:
        found = [one for one in found if not one.is_lazy]
    assert unit in WITH_TORCH or not found


def test_importing_what_is_free_of_torch_loads_neither_torch_nor_timm_nor_streamlit():
    free = [name for name in MODULES if name.startswith("dlkit") and unit_of(name) not in WITH_TORCH]
    free = [name for name in free if ".migrations." not in name]  # alembic runs these, nobody imports them
    code = (
        "import importlib, json, sys\n"
        "heavy = {'torch', 'torchvision', 'timm', 'streamlit'}\n"
        "guilty = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    for found in heavy & set(sys.modules): guilty.setdefault(found, name)\n"
        "print(json.dumps(guilty))"
    )
    command = [sys.executable, "-c", code, json.dumps(free)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert {"dlkit.config", "dlkit.jobs.worker", "dlkit.runs.service", "dlkit.guard", "dlkit.__main__"} <= set(free)
    assert json.loads(done.stdout) == {}


def test_supervisor_loads_neither_numpy_nor_pillow():
    code = "import sys, dlkit.jobs.supervisor; print({'numpy', 'PIL'} & set(sys.modules) or 'neither')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "neither"


@pytest.mark.parametrize("module", [name for name in MODULES if name not in READS_ENVIRONMENT], ids=by_name)
def test_settings_alone_read_the_environment(module):
    names = {"environ", "environb", "getenv", "getenvb", "putenv"}
    read = [
        node.lineno
        for node in ast.walk(tree_of(MODULES[module]))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and names & {alias.name for alias in node.names})
    ]
    assert not read


def test_page_does_not_shadow_an_installed_module(tmp_path):
    """`pages/` is on sys.path of the whole server: a page called datasets.py would replace that package."""
    paths = [path for path in (ROOT / "pages").iterdir() if path.suffix == ".py" or path.is_dir()]
    names = sorted({path.stem for path in paths if path.stem.isidentifier() and not path.stem.startswith("__")})
    code = "import json, sys, importlib.util as u; print([n for n in json.loads(sys.argv[1]) if u.find_spec(n)])"
    command = [sys.executable, "-I", "-c", code, json.dumps([*names, "json"])]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['json']"  # the one that is there, to see that the search works


@pytest.mark.parametrize("module", MODULES, ids=by_name)
def test_nothing_evaluates_text_or_opens_a_pickle_or_a_shell_or_raw_html(module):
    path = MODULES[module]
    called = {call.func.id for call in calls_of(path) if isinstance(call.func, ast.Name)}
    imported = {found.module.split(".")[0] for found in imports_of(path)}
    switched_on = {
        word.arg
        for call in calls_of(path)
        for word in call.keywords
        if not (isinstance(word.value, ast.Constant) and word.value.value is False)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not switched_on & {"shell", "unsafe_allow_html", "allow_pickle", "unsafe_allow_javascript"}


@pytest.mark.parametrize("module", MODULES, ids=by_name)
def test_torch_load_reads_tensors_only(module):
    loads = [call for call in calls_of(MODULES[module]) if ast.unparse(call.func) in ("torch.load", "torch.jit.load")]
    for call in loads:
        assert ("weights_only", "True") in [(word.arg, ast.unparse(word.value)) for word in call.keywords]
