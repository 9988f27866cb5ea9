"""Nothing public is left unexplained, untried, or out of the course.

The rule. A function or class that is defined in minimistral without an underscore has a docstring (and so have the public methods
of what `import minimistral` offers); a test names it (or, of a
class, a function that returns it); and a page, which is a notebook, the README or CONTRIBUTING, names it, its module, or a module
that imports its module. In the packages INSIDE, which users meet through what they draw, ask or print, a test of the module is
enough.
"""

import ast
import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: the rooms around the library: timings, commands, tasks, what trained the small model, pictures
INSIDE = ("bench", "cli", "exercises", "tiny", "widgets")
#: whose classes one meets through those that `import minimistral` offers: the model's parts, the cache for mixed windows
ALSO = ("minimistral.model", "minimistral.hybrid")
#: described once for all of them, in cli.parser() and in museum/plants.py, and reached through what these collect
COMMAND, REGISTERED = {"arguments", "run"}, "plant"


@cache
def sources() -> dict[str, ast.Module]:
    """Module -> its source, read and not imported."""
    files = {path: path.relative_to(ROOT).with_suffix("").parts for path in sorted((ROOT / "minimistral").rglob("*.py"))}
    return {".".join(parts).removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for path, parts in files.items()}


def public() -> list[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """(module, definition) of all that is public and in no registry."""
    return [
        (module, node)
        for module, tree in sources().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not any(ast.unparse(decorator).startswith(f"{REGISTERED}(") for decorator in node.decorator_list)
        if not (module.startswith("minimistral.cli.") and node.name in COMMAND)
    ]


@cache
def words(kind: str) -> frozenset[str]:
    """Every word of the tests, or of the pages."""
    if kind == "tests":
        texts = [path.read_text("utf-8") for path in (ROOT / "tests").glob("*.py") if path != Path(__file__)]
    else:
        cells = [cell for path in (ROOT / "notebooks").glob("*.ipynb") for cell in json.loads(path.read_text("utf-8"))["cells"]]
        texts = ["".join(cell["source"]) for cell in cells]
        texts += [(ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md")]
    return frozenset(re.findall(r"\w+", "\n".join(texts)))


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the last names of the modules that import it."""
    found: dict[str, set[str]] = {module: set() for module in sources()}
    for other, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for module in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    found.get(module, set()).add(other.split(".")[-1])
    return found


def returning(module: str, name: str) -> set[str]:
    """The functions and methods of a module whose annotation says that they return this class."""
    functions = (node for node in ast.walk(sources()[module]) if isinstance(node, ast.FunctionDef) and node.returns)
    return {node.name for node in functions if name in re.findall(r"\w+", ast.unparse(node.returns))}


def lacks(module: str, node) -> list[str]:
    """What one of them is without."""
    place = module.split(".")[-1]
    tried = {node.name} | ({place} if {*module.split(".")} & {*INSIDE} else set())
    tried |= returning(module, node.name) if isinstance(node, ast.ClassDef) else set()
    shown = {node.name, place} | imports().get(module, set())
    has = {"a docstring": ast.get_docstring(node), "a test": tried & words("tests"), "a chapter": shown & words("pages")}
    return [what for what, there in has.items() if not there]


def methods() -> list[tuple[str, ast.FunctionDef]]:
    """The public methods, by name, of the classes that `import minimistral` offers, and of all those in ALSO."""
    offered = {
        (node.module, alias.name)
        for node in sources()["minimistral"].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return [
        (f"{module}.{node.name}.{method.name}", method)
        for module, node in public()
        if isinstance(node, ast.ClassDef) and (module in ALSO or (module, node.name) in offered)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
    ]


def test_the_methods_of_what_is_offered_have_docstrings():
    without = [name for name, method in methods() if not ast.get_docstring(method)]
    assert without == [] and len(methods()) > 30
    assert {"minimistral.model.Attention.forward", "minimistral.cache.RollingBuffer.begin"} < {name for name, _ in methods()}


def test_every_public_function_has_a_docstring_a_test_and_a_chapter():
    found = {f"{module}.{node.name}": lacks(module, node) for module, node in public()}
    told = [f"{name} lacks {' and '.join(missing)}" for name, missing in found.items() if missing]
    assert not told, "\n".join(told)


def test_the_rule_sees_what_is_missing():
    stranger = ast.parse("def unheard_of(): pass").body[0]
    assert lacks("minimistral.hub_of_nothing", stranger) == ["a docstring", "a test", "a chapter"]
    assert len(public()) > 300
