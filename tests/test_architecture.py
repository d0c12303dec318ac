"""The rooms: which may use which, only downwards, without circles, and some of them without PyTorch."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "onnxprune"

# room -> the rooms that it may use; the top first, so that what a room may use comes after it
ROOMS = {
    "commands": "study schedules report delivery pruning bridge quantization reduction training results analysis "
    "runtime graph settings data models common",
    "study": "schedules pruning bridge quantization reduction training results analysis runtime graph settings data "
    "models common",
    "schedules": "pruning bridge training settings data models common",
    "report": "delivery results graph settings common",
    "delivery": "results analysis graph settings data models common",
    "pruning": "bridge training settings models common",
    "bridge": "quantization reduction training analysis runtime graph settings data models common",
    "quantization": "reduction analysis runtime graph settings data common",
    "reduction": "analysis runtime graph settings data common",
    "training": "settings data models common",
    "results": "settings common",
    "analysis": "runtime graph data common",
    "runtime": "graph common",
    "settings": "data models common",
    "data": "common",
    "models": "graph common",
    "graph": "common",
    "common": "",
}
WITHOUT_TORCH = ("report", "delivery", "quantization", "reduction", "results", "analysis", "runtime", "graph")
TORCH = {"torch", "torchvision", "nni"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def room_of(module: str) -> str:
    """Its room; of a module at the top of the package, its own name."""
    return module.split(".")[1] if "." in module else ""


def imported(module: str, lazily: bool = True) -> set[str]:
    """Modules that one imports, of onnxprune or not, those that it imports only for annotations left out."""
    found = set()
    waiting: list[ast.AST] = [MODULES[module]]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not lazily and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        waiting += ast.iter_child_nodes(node)
    return found


def test_a_room_uses_what_it_may() -> None:
    for module in MODULES:
        if room_of(module) in ROOMS:
            may = {room_of(module), *ROOMS[room_of(module)].split(), "version"}
            used = {room_of(name) for name in imported(module) if name.split(".")[0] == "onnxprune"}
            assert used <= may, f"{module} uses {used - may}"


def test_arrows_only_go_down() -> None:
    order = list(ROOMS)
    for room, may in ROOMS.items():
        assert all(order.index(other) > order.index(room) for other in may.split()), room


def test_no_module_needs_itself() -> None:
    uses = {module: imported(module) & MODULES.keys() - {module} for module in MODULES}
    assert len(list(TopologicalSorter(uses).static_order())) == len(MODULES)


def test_every_room_is_in_the_table() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= ROOMS.keys()


def test_files_of_onnx_need_no_torch() -> None:
    for module in MODULES:
        if room_of(module) in WITHOUT_TORCH:
            assert not {name.split(".")[0] for name in imported(module)} & TORCH, module
            reached, waiting = {module}, [module]
            while waiting:  # what is imported with it, and with that
                new = imported(waiting.pop(), lazily=False) - reached
                reached |= new
                waiting += new & MODULES.keys()
            assert not {name.split(".")[0] for name in reached} & TORCH, module


def test_the_page_on_architecture_has_the_same_table() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(\w+)` \|[^|\n]*\|([^|\n]*)\|$", page)
    assert [(room, " ".join(re.findall(r"\w+", may))) for room, may in rows] == list(ROOMS.items())
