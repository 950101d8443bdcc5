"""One zipapp, told apart by the name it was called by: `r0`, `drbd-fence`, the handlers, or `hapair SUBCOMMAND`.

Each program's modules are imported only here and only when wanted: a handler starts while I/O is frozen. So that Python
need not compile them at each start, they come from a second archive, which holds their bytecode and nothing else.
"""

from __future__ import annotations

import os.path
import stat
import sys

import hapair

CACHE = "/var/cache/hapair"


def main() -> int:
    """Run the program that argv[0] names; return its exit code."""
    name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]  # noqa: PTH119 - pathlib costs a handler's time
    use_bytecode(sys.path[0], CACHE, make=name in ("hapair", "hapair.pyz"))
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


def use_bytecode(archive: str, folder: str, *, make: bool) -> None:
    """Import the other modules from the bytecode of `archive`, where there is some; what that lacks is compiled.

    Its name says which file it was made from, and for which Python: no other text is ever run in place of the one that
    is there. Inode and time of the last change are the kernel's, and any write to the archive changes them.

    Args:
        archive: the zipapp that runs.
        folder: where bytecode is kept.
        make: make it when there is none: before a program that people or systemd start, never in a handler.
    """
    try:
        seen = os.stat(archive)  # noqa: PTH116 - pathlib costs a handler's time
    except OSError:
        return
    if not stat.S_ISREG(seen.st_mode):  # the sources themselves, whose bytecode Python keeps
        return
    kept = f"{folder}/{sys.implementation.cache_tag}-{seen.st_ino:x}-{seen.st_size:x}-{seen.st_ctime_ns:x}.zip"
    if make and not os.path.exists(kept):  # noqa: PTH110 - as above
        from hapair import bytecode  # noqa: PLC0415 - once for each archive

        bytecode.make(archive, kept)
    hapair.__path__.insert(0, f"{kept}/hapair")


if __name__ == "__main__":
    sys.exit(main())
