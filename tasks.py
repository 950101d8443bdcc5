"""Invoke's entry: the collections `build`, `hosts`, `lab` and `scenario`. The tasks are in lab/tasks/."""

import sys

CURE = "hapair: {why}\n  hint: ./dev invoke …   makes the environment when it is missing, and runs the task in it\n"

if sys.version_info < (3, 11):  # noqa: UP036 - whoever stands outside the environment may have any Python
    sys.stderr.write(CURE.format(why="this is Python {}.{}, too old".format(*sys.version_info)))
    raise SystemExit(3)

# Invoke switches bytecode off, and each call would compile all of hapair again (0.2 s).
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

try:
    from invoke import Collection

    from lab.tasks import build, hosts, lab, scenario
except KeyboardInterrupt:
    raise SystemExit(130) from None
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in {"lab", "hapair"}:
        raise  # a module of ours: a fault to see in full
    sys.stderr.write(CURE.format(why=f"the Python package {error.name} is missing here"))
    raise SystemExit(3) from None

namespace = Collection(
    Collection.from_module(build, name="build"),
    Collection.from_module(hosts, name="hosts"),
    Collection.from_module(lab, name="lab"),
    Collection.from_module(scenario, name="scenario"),
)
