"""JavaScript modules joined into one script, for a worker and for a page that opens from the disk.

A file:// page may not import modules, and a worker has no import map. What is joined is written for it: imports and
exports by name, at the beginning of a line, no cycles. Anything else is refused, so that nothing is lost silently.
"""

import re
from collections.abc import Mapping

_IMPORT = re.compile(r'^import\s*\{([^}]*)\}\s*from\s*"([^"]+)";[ \t]*$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_EXPORTS = re.compile(r"^export\s*\{([^}]*)\};?[ \t]*$", re.MULTILINE)
_LEFT = re.compile(r"^(?:import|export)\b.*$", re.MULTILINE)


def bundle(entry: str, sources: Mapping[str, str]) -> str:
    """Joins a module and all that it imports into one classic script.

    Args:
        entry: The module to run, a key of `sources`.
        sources: Specifier, as imports name it ("./x.js") → source.

    Returns:
        The script. Each module keeps a scope of its own.

    Raises:
        ValueError: A module is missing, imports go round in a circle, or are written in another way.
    """
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"modules import each other: {' → '.join((*above, name))}")
        if name not in sources:
            raise ValueError(f"{above[-1] if above else 'the page'} imports {name}, which there is not")
        if name not in order:
            for _, imported in _IMPORT.findall(sources[name]):
                visit(imported, (*above, name))
            order.append(name)

    visit(entry, ())
    names = {name: f"module{number}" for number, name in enumerate(order)}
    parts = ['"use strict";']
    for name in order:
        body, exported = _joined(name, sources[name], names)
        result = f"return {{ {', '.join(exported)} }};\n" if exported else ""
        parts.append(f"// {name}\nconst {names[name]} = (() => {{\n{body}\n{result}}})();")
    return "\n".join(parts) + "\n"


def _joined(name: str, source: str, names: Mapping[str, str]) -> tuple[str, list[str]]:
    """A module's body with its imports as constants, and what it exports as the fields of an object."""
    exported = _EXPORT.findall(source)
    for listed in _EXPORTS.findall(source):
        exported += [": ".join(reversed(_renamed(item))) for item in listed.split(",") if item.strip()]

    def constants(found: re.Match) -> str:
        items = [": ".join(_renamed(item)) for item in found[1].split(",") if item.strip()]
        return f"const {{ {', '.join(items)} }} = {names[found[2]]};"

    body = _IMPORT.sub(constants, _EXPORTS.sub("", _EXPORT.sub("", source)))
    body = re.sub(r"^//# sourceMappingURL=.*$", "", body, flags=re.MULTILINE)
    if left := _LEFT.search(body):
        raise ValueError(f"{name}: cannot join {left[0]!r}")
    return body.strip(), exported


def _renamed(item: str) -> list[str]:
    """["a"] of "a", ["a", "b"] of "a as b"."""
    return [part.strip() for part in item.split(" as ")]
