"""Signatures: made by the wanted key over these very bytes, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.build import signed
from lab.build.apt import NotThere
from lab.errors import BadInput

pytestmark = pytest.mark.spawns

HERE = Path(__file__).parent / "signed"
FINGERPRINT = "0B3F055271113269AA78AD64D7B9419A8D8BA85D"
"""Of a key that was made for this test alone, and thrown away."""


def test_a_good_signature_passes(tmp_path: Path) -> None:
    signed.check(HERE / "text", HERE / "text.asc", HERE / "keys.asc", FINGERPRINT, tmp_path)
    assert (tmp_path / "keyring.gpg").read_bytes()[0] & 0x80, "the keyring is not in OpenPGP's binary form"


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    changed = tmp_path / "text"
    changed.write_bytes((HERE / "text").read_bytes() + b"!")
    with pytest.raises(NotThere, match="BAD signature"):
        signed.check(changed, HERE / "text.asc", HERE / "keys.asc", FINGERPRINT, tmp_path)


def test_another_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="is not one of 602F567663E593BCBD14F338C638974D64792D67"):
        signed.check(
            HERE / "text", HERE / "text.asc", HERE / "keys.asc", "602F567663E593BCBD14F338C638974D64792D67", tmp_path
        )


@pytest.mark.parametrize("harm", ["none", "armour"])
def test_a_damaged_keyring_is_bad_input(tmp_path: Path, harm: str) -> None:
    keys = tmp_path / "keys.asc"
    if harm == "armour":
        keys.write_text((HERE / "keys.asc").read_text().replace("mDME", "m"))
    with pytest.raises(BadInput, match=r"keys\.asc"):
        signed.check(HERE / "text", HERE / "text.asc", keys, FINGERPRINT, tmp_path)
