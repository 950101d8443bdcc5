"""Gratuitous ARP: tells the neighbours on the LAN that this node answers for the containers' addresses now (I5)."""

from __future__ import annotations

import socket
import struct

BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = 0x0806
REQUEST, REPLY = 1, 2


def frame(mac: bytes, address: str, operation: int) -> bytes:
    """Return an ARP frame that announces `address` at `mac` to everybody."""
    packed = socket.inet_aton(address)
    header = BROADCAST + mac + struct.pack("!H", ETHERTYPE_ARP)
    target = BROADCAST if operation == REPLY else b"\0" * 6
    return header + struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + packed + target + packed


def announce(interface: str, addresses: tuple[str, ...]) -> None:
    """Send a gratuitous request and reply for each IPv4 address; some neighbours listen to only one of them.

    Raises:
        OSError: no such interface, or no permission.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as out:
        out.bind((interface, ETHERTYPE_ARP))
        mac = out.getsockname()[4]
        for address in addresses:
            if ":" not in address:
                for operation in (REQUEST, REPLY):
                    out.send(frame(mac, address, operation))
