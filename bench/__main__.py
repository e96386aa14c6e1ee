"""``python -m bench`` lists the benches; ``python -m bench NAME [--quick]`` runs one, ``--all`` each of them."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from types import ModuleType

import bench
from bench import Line, Row


def names() -> list[str]:
    """The benches there are: the public modules of this package."""
    return sorted(info.name for info in pkgutil.iter_modules(bench.__path__) if not info.name.startswith("_"))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"bench.{name}")


def summary(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().partition("\n")[0]


def show(found: list[Line | Row]) -> None:
    """Tables for people, then a JSON object a line for programs."""
    lines = [one for one in found if isinstance(one, Line)]
    rows = [one for one in found if isinstance(one, Row)]
    width = max((len(line.name) for line in lines), default=0)
    if lines:
        print(f"{'':{width}}  {'ours':>10}  {'peer':>10}  {'ratio':>6}  {'goal':>6}")
    for line in lines:
        numbers = f"{line.ours:10,.0f}  {line.peer:10,.0f}  {line.ratio:6.2f}  {line.goal:6.2f}"
        print(f"{line.name:{width}}  {numbers}  {line.unit}")
    for name in dict.fromkeys(row.name for row in rows):
        show_table(name, [row for row in rows if row.name == name])
    for one in found:
        print(one.json())


def show_table(name: str, rows: list[Row]) -> None:
    heads = list(dict.fromkeys(head for row in rows for head in row.figures))
    width = max(len(name), *(len(row.side) for row in rows))
    print("\n" + "  ".join([f"{name:{width}}", *heads]))
    for row in rows:
        cells = [f"{row.figures[head]:{len(head)}g}" if head in row.figures else " " * len(head) for head in heads]
        print("  ".join([f"{row.side:{width}}", *cells]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measured comparisons with peers.")
    parser.add_argument("name", nargs="?", help="the bench to run; left out: list them")
    parser.add_argument("--quick", action="store_true", help="a smaller run, of seconds")
    parser.add_argument("--all", action="store_true", help="run every bench")
    arguments = parser.parse_args()
    known = names()
    if not arguments.name and not arguments.all:
        for name in known:
            print(f"{name:20} {summary(load(name))}")
        return 0
    if arguments.name and arguments.name not in known:
        print(f"no bench {arguments.name!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for name in known if arguments.all else [arguments.name]:
        print(f"\n{name}: {summary(load(name))}", flush=True)
        show(list(load(name).run(quick=arguments.quick)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
