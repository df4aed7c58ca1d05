"""Names of a package that are imported when they are first used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def attribute(package: str, name: str, modules: Mapping[str, str]) -> Any:
    """What `from package import name` finds.

    Args:
        package: The package's `__name__`.
        name: The name asked for.
        modules: Where each name is defined.

    Raises:
        AttributeError: If the name is none of them.
        ImportError: If a module needs a package that is not installed; it names the extra.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        module = import_module(modules[name])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == __name__.partition(".")[0]:
            raise
        raise ImportError(
            f"{name} needs the package {missing!r}; "
            "install it with: pip install 'optuna-partition[llm]'"
        ) from error
    return getattr(module, name)
