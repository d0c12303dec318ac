"""Networks of your own: `FILE.py:NAME` or `package.module:NAME`, where NAME is a class or a function that builds one.

Its code runs when the network is built: in the sweep's process and in its workers.
"""

import contextlib
import hashlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from onnxprune.common.errors import InputError, described
from onnxprune.common.files import digest as digest_of
from onnxprune.common.output import muted
from onnxprune.common.sent_files import sent_or_here
from onnxprune.common.torchvision import is_misfit, torchvision_module

if TYPE_CHECKING:
    from torch import nn

_FILE = ".py"

T = TypeVar("T")


def is_reference(name: str) -> bool:
    """Whether a model's name says where the code is that builds it."""
    return ":" in name


def reference_to(value: Any) -> str:
    """The text that stands for a class or a function.

    Raises:
        InputError: it has no file, or no name in it that others could look it up by.
    """
    name = getattr(value, "__qualname__", "")
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    file = getattr(module, "__file__", None)  # not that of the code, which is a decorator's where there is one
    if not name.isidentifier() or module is None or file is None or not Path(file).is_file():
        raise InputError(
            "expected a class or a function at the top level of a file, so that workers can import it; or the "
            "text FILE.py:NAME"
        )
    # a file of a package is nothing without it, but one that runs cannot be imported as part of it once more
    in_package = module.__package__ and module.__name__ != "__main__"
    return f"{module.__name__ if in_package else file}:{name}"


def title(reference: str) -> str:
    """File or module, and name, as one word for the names of files."""
    where, _, name = reference.rpartition(":")
    stem = Path(where).stem if where.endswith(_FILE) else where.rpartition(".")[2]
    return f"{stem}-{name}"


def source(reference: str) -> Path:
    """The file that has the code; it is not run.

    Raises:
        InputError: there is none, or the reference is not of the form expected.
    """
    where, _, name = reference.rpartition(":")
    if not name.isidentifier() or not where:
        raise InputError(f"model '{reference}': expected FILE.py:NAME or package.module:NAME")
    if where.endswith(_FILE):
        path = sent_or_here(where)
        if not path.is_file():
            raise InputError(f"model '{reference}': no such file {where}")
        return path
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last: nothing that is installed is taken for a file that lies here
    try:
        found = _run(lambda: find_spec(where))
    except (Exception, SystemExit) as error:  # the packages it is in are imported
        raise InputError(f"model '{reference}': there is no module {where} ({described(error)})") from None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise InputError(f"model '{reference}': there is no module {where} that can be imported from here")
    return Path(found.origin)


def digest(reference: str) -> str:
    """The SHA-256 of the file that has the code.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    path = source(reference)
    found = digest_of(path)
    if found is None:
        raise InputError(f"model '{reference}': {path} cannot be read")
    return found


def build(reference: str, input_shape: tuple[int, int, int], classes: int, arguments: dict[str, Any]) -> "nn.Module":
    """What the code makes of the sizes of the data and of the `arguments`, by name.

    Sizes are given to those parameters that are called input_shape, (C, H, W), and classes or num_classes; to the two
    that have no default and whatever name, where it has two; or to none.

    Raises:
        InputError: the code cannot be imported or run, takes other arguments, or makes no network.
    """
    from torch import nn

    from onnxprune.models.copies import make_copyable

    make = imported(reference)
    sizes = _sizes(reference, make, {"input_shape": input_shape, "classes": classes, "num_classes": classes}, arguments)
    try:
        network = _run(lambda: make(*sizes[0], **sizes[1], **arguments))
        _run(lambda: _complete(network, input_shape))
    except (Exception, SystemExit) as error:  # it is the user's code
        raise InputError(f"model '{reference}': {fault(error, source(reference))}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model '{reference}' makes a {type(network).__name__}: expected a torch.nn.Module")
    try:
        make_copyable(network)
    except InputError as error:
        raise InputError(f"model '{reference}': {error}") from error
    return network


def _run(code: Callable[[], T]) -> T:
    """Runs a user's code so that what it prints does not reach the terminal, and the folder, the default type and the
    gradients that it sets for the whole process do not outlast it."""
    import torch

    place, kind, graded = Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with muted():
            try:
                return code()
            except RuntimeError as error:
                if not is_misfit(error):
                    raise
            torchvision_module()
            return code()
    finally:
        os.chdir(place)
        torch.set_default_dtype(kind)
        torch.set_grad_enabled(graded)


def _complete(network: Any, input_shape: tuple[int, int, int]) -> None:
    """Gives lazy layers, which learn their sizes from what comes in, their parameters; in place."""
    import torch
    from torch.nn.parameter import is_lazy

    tensors = [*network.parameters(), *network.buffers()] if isinstance(network, torch.nn.Module) else []
    if any(map(is_lazy, tensors)):
        with torch.no_grad():
            network.eval()(torch.zeros(2, *input_shape))
        network.train()


def _sizes(
    reference: str, make: Callable[..., Any], known: dict[str, Any], arguments: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The sizes it takes, by position and by name."""
    taken = inspect.signature(make).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    if strange := [name for name in arguments if name not in taken and not any_name]:
        raise InputError(f"model '{reference}' takes no '{strange[0]}': it takes {', '.join(taken) or 'nothing'}")
    open_ones = [
        name
        for name, parameter in taken.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and name not in arguments
    ]
    by_name = {name: known[name] for name in taken if name in known and name not in arguments}
    if set(open_ones) <= set(by_name):
        return [], by_name
    if len(open_ones) == 2 and not by_name:
        return [known["input_shape"], known["classes"]], {}
    raise InputError(
        f"model '{reference}' needs {', '.join(open_ones)}: give them with --model-args, or let it take input_shape "
        "and classes"
    )


def imported(reference: str) -> Callable[..., Any]:
    """The class or the function, of a file that is run once in a process.

    Raises:
        InputError: the code cannot be imported, or has none of that name.
    """
    import torch

    path, (where, _, name) = source(reference), reference.rpartition(":")
    try:
        is_file, file = where.endswith(_FILE), path.absolute()
        module = _run(lambda: _module(file, digest(reference)) if is_file else _import(where, digest(reference)))
    except (Exception, SystemExit) as error:  # it is the user's code
        alone = is_file and isinstance(error, ImportError) and "relative import" in str(error)
        advice = (
            ": give a file of a package as package.module:NAME, in the folder that has the package" if alone else ""
        )
        raise InputError(f"model '{reference}': {fault(error, path)}{advice}") from error
    made = getattr(module, name, None)
    if not callable(made):
        raise InputError(f"model '{reference}': {path} has no class or function '{name}'")
    if isinstance(made, torch.nn.Module):
        raise InputError(f"model '{reference}': '{name}' is a network: expected a class or a function that builds one")
    return made


_modules: dict[tuple[Path, str], ModuleType] = {}  # by SHA-256
_imported: dict[str, tuple[ModuleSpec | None, str]] = {}  # module by its name -> what it was imported by, SHA-256
_contents: dict[Path, bytes] = {}  # what was run last of each file
_running: set[Path] = set()


def files_run() -> dict[Path, bytes]:
    """Files of networks that this process has run, with what was in them: `run_again` gives another process the classes
    that a pickled network of theirs needs."""
    return dict(_contents)


def run_again(files: dict[Path, bytes]) -> None:
    """Runs such files here; once."""
    for path, content in files.items():
        if _contents.get(path) != content:
            _run(lambda path=path, content=content: _executed(path, content))  # type: ignore[misc]


def _import(name: str, expected: str) -> ModuleType:
    """The module of that name, whose file has this SHA-256 now."""
    module = import_module(name)
    spec, content = _imported.setdefault(name, (module.__spec__, expected))
    if content != expected and spec is module.__spec__:  # Python imports a file once
        raise InputError(
            f"its file changed after it was imported: start Python again, or importlib.reload(sys.modules[{name!r}])"
        )
    _imported[name] = module.__spec__, expected
    return module


def _module(path: Path, expected: str) -> ModuleType:
    """A file of a known SHA-256 as a module, run once; files beside it can be imported, as when Python runs it."""
    if (path, expected) not in _modules:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise InputError("it changed while it was read")
        _modules[path, expected] = _executed(path, content)
    return _modules[path, expected]


def _executed(path: Path, content: bytes) -> ModuleType:
    if path in _running:
        raise InputError('its file runs a study where it is imported: put that below `if __name__ == "__main__":`')
    name = f"onnxprune_model_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "it ends in .py"
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up
    _running.add(path)
    try:
        with _first(str(path.parent)):
            # not what Python has compiled before, of a file that it takes for the same by its size and time
            exec(compile(content, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _running.remove(path)
    _contents[path] = content
    return module


@contextlib.contextmanager
def _first(folder: str) -> Iterator[None]:
    """Within the block, modules are looked for in a folder first; after it, last, and those of it that have the name of
    another are known to the block's code alone: nobody else means them."""
    elsewhere = [place for place in sys.path if place != folder]
    rivals = {module.name for module in iter_modules([folder]) if _is_rival(module.name, folder, elsewhere)}
    others = _loaded(rivals)
    for name in others:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        for name in _loaded(rivals):
            del sys.modules[name]
        sys.modules.update(others)
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _is_rival(name: str, folder: str, elsewhere: list[str]) -> bool:
    """Whether a module in a folder takes the place of another, as it does of none that is part of Python itself."""
    own, other = PathFinder.find_spec(name, [folder]), PathFinder.find_spec(name, elsewhere)
    inside = BuiltinImporter.find_spec(name) or FrozenImporter.find_spec(name)
    return inside is None and own is not None and other is not None and own.origin != other.origin


def _loaded(names: set[str]) -> dict[str, ModuleType]:
    """Modules that have been imported by these names, with what is inside them."""
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}


def said(model: str, error: BaseException) -> str:
    """What went wrong in a model, and in which line of its file where it is a user's own."""
    told = fault(error, source(model)) if is_reference(model) else described(error)
    return told.removeprefix(f"model '{model}': ")


def fault(error: BaseException, path: Path) -> str:
    """What went wrong in a user's code, and in which line of the file at `path`."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()]
    lines = lines or [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path}, line {lines[-1].lineno}: {described(error)}" if lines else described(error)
