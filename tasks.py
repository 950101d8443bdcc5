"""Invoke's entry: the collections `build`, `hosts`, `lab` and `scenario`. The tasks are in lab/tasks/."""

import sys

CURE = "hapair: {why}\n  hint: ./dev invoke …   makes the environment when it is missing, and runs the task in it\n"

if sys.version_info < (3, 11):  # noqa: UP036 - whoever stands outside the environment may have any Python
    sys.stderr.write(CURE.format(why="this is Python {}.{}, too old".format(*sys.version_info)))
    raise SystemExit(3)

# Invoke switches bytecode off, and each call would compile all of hapair again (0.2 s).
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

COLLECTIONS = ("build", "hosts", "lab", "scenario")
# Only those that are asked for by name: a build that finds all in the cache takes half a second, most of it imports.
asked = {word.partition(".")[0] for word in sys.argv[1:] if "." in word}.intersection(COLLECTIONS)

try:
    from importlib import import_module

    from invoke import Collection

    modules = {name: import_module(f"lab.tasks.{name}") for name in COLLECTIONS if name in (asked or COLLECTIONS)}
except KeyboardInterrupt:
    raise SystemExit(130) from None
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in {"lab", "hapair"}:
        raise  # a module of ours: a fault to see in full
    sys.stderr.write(CURE.format(why=f"the Python package {error.name} is missing here"))
    raise SystemExit(3) from None

namespace = Collection(*(Collection.from_module(module, name=name) for name, module in modules.items()))
