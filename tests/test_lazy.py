"""Public names load on first use: each of them, from every package, and no others."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = (
    "bb_wm",
    "bb_wm.data",
    "bb_wm.decide",
    "bb_wm.decide.evsi",
    "bb_wm.diagnose",
    "bb_wm.diagnose.calibration",
    "bb_wm.diagnose.promotion",
    "bb_wm.imagine",
    "bb_wm.serve",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_is_found_only_once(package) -> None:
    module = import_module(package)
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert vars(module).get(name, getattr(module, name)) is getattr(module, name)
        assert name in vars(module)  # the next look does not ask again
    assert set(dir(module)) >= set(module.__all__) - {"__version__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_names(package) -> None:
    module = import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = module._HOMES.items()
    assert typed == {(f"{package}.{home}", name) for home, names in homes for name in names}


def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match=r"'bb_wm.decide' has no attribute 'Gaet'"):
        _ = import_module("bb_wm.decide").Gaet


def test_importing_a_package_imports_none_of_its_parts() -> None:
    lines = [f"import sys, {', '.join(PACKAGES)}", "print(*sys.modules)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    loaded = [name for name in done.stdout.split() if name.startswith("bb_wm")]
    assert set(loaded) == {*PACKAGES, "bb_wm.lazy"}
    assert "torch" not in done.stdout
