"""The rooms of the package: who may import whom. Read off the source, so imports inside functions count too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import patchcli

ROOT = Path(patchcli.__file__).parent

# From top to bottom. A room imports from lower lines only; the modules of one package may import each other.
LAYERS = [
    ["cli"],
    ["verbs"],
    ["training"],
    ["detection"],
    ["bank"],
    ["store"],
    ["features"],
    ["reporting"],
    ["datasets"],
    ["cluster"],
    ["observer", "runtime"],
    ["files"],
    ["errors"],
]
DEPTH = {room: depth for depth, layer in enumerate(LAYERS) for room in layer}
DOORS = {"patchcli", "patchcli.__main__"}  # the package's names and `python -m patchcli` are outside of the rooms


def modules() -> dict[str, ast.Module]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["patchcli", *path.relative_to(ROOT).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()


def imports(node: ast.AST, *, inside_functions: bool = True) -> Iterator[str]:
    """Dotted names of what is imported below a node; `from a import b` gives a.b where that is a module, else a."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module, "relative imports are not used here"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield full if full in MODULES else child.module
        elif inside_functions or not (isinstance(child, ast.FunctionDef | ast.Lambda) or is_type_checking(child)):
            yield from imports(child, inside_functions=inside_functions)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def ours(name: str) -> bool:
    return name.split(".")[0] == "patchcli"


def room(name: str) -> str:
    return name.split(".")[1]


def importers(package: str) -> set[str]:
    """The modules that import a package from outside."""
    return {name for name, tree in MODULES.items() if any(found.split(".")[0] == package for found in imports(tree))}


def test_every_room_has_its_layer() -> None:
    assert {room(name) for name in MODULES if name not in DOORS} == DEPTH.keys()


@pytest.mark.parametrize("name", [name for name in MODULES if name not in DOORS])
def test_imports_point_downward(name: str) -> None:
    for imported in filter(ours, imports(MODULES[name])):
        assert imported not in DOORS, f"{name} imports {imported}, which is above it"
        if room(imported) != room(name):
            assert DEPTH[room(imported)] > DEPTH[room(name)], f"{name} imports {imported}, which is not below it"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: {found for found in imports(tree) if found in MODULES} for name, tree in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("package", "modules"), [("zarr", {"patchcli.store.parts"}), ("pykeops", {"patchcli.bank.search.keops"})]
)
def test_one_module_imports(package: str, modules: set[str]) -> None:
    assert importers(package) == modules


def test_nothing_is_pickled_but_read_with_care() -> None:
    assert importers("pickle") == {"patchcli.verbs.state_dicts"}  # for the name of its error


HEAVY = {"torch", "zarr", "numpy", "scipy", "sklearn", "pykeops", "PIL", "tifffile"}


@pytest.mark.parametrize("name", [name for name in MODULES if name in DOORS or room(name) == "cli"])
def test_the_command_line_imports_nothing_heavy_at_once(name: str) -> None:
    at_once = set(imports(MODULES[name], inside_functions=False))
    assert not {found for found in at_once if found.split(".")[0] in HEAVY}
    assert not {found for found in at_once if found.startswith("patchcli.verbs")}


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, patchcli.cli; print(sorted({HEAVY | {'patchcli.verbs'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
