"""Detached signatures of sources, checked with gpgv against a keyring beside the spec."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from lab import proc
from lab.build.apt import NotThere
from lab.errors import BadInput

LIMIT_S = 60.0
ARMOUR = re.compile(r"-----BEGIN PGP PUBLIC KEY BLOCK-----(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)


def check(file: Path, signature: Path, keyring: Path, fingerprint: str, room: Path) -> None:
    """Refuse a file that the key of `fingerprint` did not sign.

    Args:
        file: what was signed.
        signature: the detached signature, binary or armoured.
        keyring: public keys, binary or armoured.
        fingerprint: of the primary key.
        room: a folder for what is needed on the way.

    Raises:
        NotThere: the signature is bad, or another key's.
        BadInput: the keyring is missing or holds no keys.
        HostLacks: gpgv is not installed.
    """
    ring = room / "keyring.gpg"
    ring.write_bytes(_binary(keyring))
    argv: list[str | Path] = [proc.which("gpgv"), "--status-fd", "1", "--keyring", ring, signature, file]
    done = proc.run(argv, limit_s=LIMIT_S, check=False, env={"GNUPGHOME": str(room)})
    # The last word of VALIDSIG is the primary key's fingerprint (GnuPG's doc/DETAILS).
    signers = re.findall(r"^\[GNUPG:\] VALIDSIG .* ([0-9A-F]{40})$", done.text, flags=re.MULTILINE)
    if done.code != 0 or fingerprint not in signers:
        told = "; ".join(
            re.findall(r"^gpgv: (?!Signature made|using|\s)(.*)$", done.stderr.decode(errors="replace"), re.M)
        )
        raise NotThere(f"its signature is not one of {fingerprint} ({told or 'gpgv gave no reason'})")


def _binary(keyring: Path) -> bytes:
    try:
        data = keyring.read_bytes()
    except OSError as error:
        raise BadInput(f"{keyring}: {error.strerror}", "put the public keys there") from None
    blocks = ARMOUR.findall(data.decode("latin-1"))
    if not blocks:
        return data
    try:
        # Armour headers end with an empty line; the last line, "=xxxx", is a checksum (RFC 9580, 6).
        texts = [re.split(r"\r?\n[ \t]*\r?\n", block, maxsplit=1)[-1] for block in blocks]
        return b"".join(base64.b64decode(re.sub(r"\n=[\w+/]{4}\s*$", "", text.rstrip())) for text in texts)
    except (binascii.Error, ValueError):
        raise BadInput(f"{keyring}: damaged", "put the public keys there") from None
