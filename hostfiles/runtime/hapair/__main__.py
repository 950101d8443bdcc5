"""One zipapp, told apart by the name it was called by: `r0`, `drbd-fence`, the handlers, or `hapair SUBCOMMAND`.

Each program's modules are imported only here and only when wanted: a handler starts while I/O is frozen.
"""

from __future__ import annotations

import os.path
import sys


def main() -> int:
    """Run the program that argv[0] names; return its exit code."""
    name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]  # noqa: PTH119 - pathlib costs a handler's time
    if name in ("fence-peer", "local-io-error", "pri-on-incon-degr", "split-brain"):
        from hapair import handlers  # noqa: PLC0415 - see the module's text

        return handlers.main(name)
    if name == "drbd-fence":
        from hapair import fence_cli  # noqa: PLC0415 - see the module's text

        return fence_cli.main(argv)
    if name in ("hapair", "hapair.pyz", "__main__.py"):
        from hapair import cli  # noqa: PLC0415 - see the module's text

        return cli.main(argv)
    from hapair import r0  # noqa: PLC0415 - see the module's text

    return r0.main(name, argv)


if __name__ == "__main__":
    sys.exit(main())
