#!/usr/bin/python3
"""What the third node watches the pair with: acknowledged writes, and who answers on the container's address.

    client.py write ADDRESS    GET /cgi-bin/write?SEQ-NONCE from several workers, every answer logged
    client.py probe ADDRESS    ARP request and GET /cgi-bin/id every 100 ms, every answerer logged
    client.py get URL          print a page

One JSON object a line on standard output, flushed at once; SIGTERM ends it after the requests under way.
A write's sequence number is never sent twice: a request without an answer has an unknown outcome for ever.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request

ETHERTYPE_ARP = 0x0806  # IEEE 802 numbers
ARP_REQUEST = 1  # RFC 826
OBSERVER = bytes.fromhex("02005e0002fe")  # locally administered, on no interface of the lab
BROADCAST = b"\xff" * 6
CONNECT_LIMIT_S = 0.5  # a lost SYN is sent again after 1 s only (RFC 6298): trying anew sees a return sooner

_output = threading.Lock()
_stop = threading.Event()


def log(source: str, kind: str, **fields: object) -> None:
    """Print one event; it happened now, unless `t` among its fields says when (wall seconds)."""
    line = json.dumps({"t": time.time(), "source": source, "kind": kind, **fields})
    with _output:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def fetch(address: str, port: int, path: str, limit_s: float) -> str:
    """Return the body of a page; raises OSError or http.client.HTTPException whenever it is not a whole 200."""
    connection = http.client.HTTPConnection(address, port, timeout=min(CONNECT_LIMIT_S, limit_s))
    try:
        connection.connect()
        connection.sock.settimeout(limit_s)
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise http.client.HTTPException(f"status {answer.status}")
    return body.decode("utf-8", "replace")


class Writer:
    """Workers that share one sequence and one end; the first answer of another boot makes it read the list there."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lock = threading.Lock()
        self.next_seq: int = options.first
        self.serving = ""
        self.ends_at = time.monotonic() + options.limit_s

    def take(self) -> int | None:
        """Return the next sequence number, or None when all is done."""
        with self.lock:
            done = self.options.count and self.next_seq >= self.options.first + self.options.count
            if done or _stop.is_set() or time.monotonic() >= self.ends_at:
                return None
            self.next_seq += 1
            return self.next_seq - 1

    def work(self, worker: int) -> None:
        """Send one write after the other, at most one every `interval` seconds."""
        while True:
            seq = self.take()
            if seq is None:
                return
            began = time.monotonic()
            self.write(worker, seq)
            _stop.wait(max(0.0, self.options.interval - (time.monotonic() - began)))

    def write(self, worker: int, seq: int) -> None:
        """Send one write and log how it ended."""
        nonce, started, clock = os.urandom(4).hex(), time.time(), time.monotonic()
        mine: dict[str, object] = {"seq": seq, "nonce": nonce, "worker": worker}
        log("client", "invoke", t=started, **mine)
        error, boot = "", ""
        try:
            page = f"/cgi-bin/write?{seq}-{nonce}"
            body = fetch(self.options.address, self.options.port, page, self.options.timeout)
            words = body.split()
            if len(words) == 3 and words[:2] == [str(seq), nonce]:
                boot = words[2]
            else:
                error = f"garbled answer {body[:80]!r}"
        except (OSError, http.client.HTTPException) as problem:
            error = f"{type(problem).__name__}: {problem}"
        spent: dict[str, object] = {"started": started, "latency_s": round(time.monotonic() - clock, 4)}
        if error:
            log("client", "fail", error=error, **mine, **spent)
            return
        log("client", "ack", boot=boot, **mine, **spent)
        self.greet(boot)

    def greet(self, boot: str) -> None:
        """Read the list at once when another boot than before has answered: it must hold what was acknowledged."""
        with self.lock:
            if boot == self.serving:
                return
            self.serving = boot
        started = time.time()
        try:
            body = fetch(self.options.address, self.options.port, "/cgi-bin/read", max(5.0, self.options.timeout))
            log("client", "list", boot=boot, started=started, lines=body.splitlines())
        except (OSError, http.client.HTTPException) as problem:
            log("client", "list_fail", boot=boot, started=started, error=str(problem))


def write(options: argparse.Namespace) -> None:
    """Run the workers to the end."""
    writer = Writer(options)
    log("client", "start", workers=options.workers)
    workers = [threading.Thread(target=writer.work, args=(number,)) for number in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    log("client", "stop", next_seq=writer.next_seq)


def arp_request(own_mac: bytes, own_address: str, wanted: str) -> bytes:
    """Return a broadcast Ethernet frame that asks who has `wanted`."""
    ethernet = BROADCAST + own_mac + struct.pack("!H", ETHERTYPE_ARP)
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, ARP_REQUEST)
    return ethernet + arp + own_mac + socket.inet_aton(own_address) + b"\0" * 6 + socket.inet_aton(wanted)


def arp_sender(frame: bytes) -> tuple[str, str, int] | None:
    """Return (sender's MAC, sender's address, operation) of an ARP frame for IPv4 over Ethernet, or None."""
    if len(frame) < 42 or frame[12:20] != struct.pack("!HHHBB", ETHERTYPE_ARP, 1, 0x0800, 6, 4):
        return None
    operation = struct.unpack("!H", frame[20:22])[0]
    mac = frame[22:28].hex(":")
    return mac, socket.inet_ntoa(frame[28:32]), operation


def listen_arp(link: socket.socket, wanted: str) -> None:
    """Log everybody who claims the address, asked or not."""
    while not _stop.is_set():
        try:
            claim = arp_sender(link.recv(2048))
        except TimeoutError:
            continue
        except OSError as problem:
            log("probe", "arp_fail", error=str(problem))
            _stop.wait(0.5)
            continue
        if claim and claim[1] == wanted:
            log("probe", "arp", mac=claim[0], operation=claim[2])


def ask_arp(link: socket.socket, options: argparse.Namespace) -> None:
    """Ask who has the address, every `interval` seconds, in the name of a machine that does not exist.

    Answers to this node's own addresses would keep its kernel's neighbour table right, and so hide what a user of
    the LAN suffers. The sender cannot stay empty (RFC 5227): Linux gives such a probe no proxy's answer.
    """
    frame = arp_request(OBSERVER, options.observer, options.address)
    while not _stop.wait(options.interval):
        try:
            link.send(frame)
        except OSError as problem:
            log("probe", "arp_fail", error=str(problem))


def ask_id(options: argparse.Namespace) -> None:
    """Ask the container for its boot id, every `interval` seconds; a failure is logged when it begins and ends."""
    failing = ""
    while not _stop.is_set():
        started, clock = time.time(), time.monotonic()
        try:
            boot = fetch(options.address, options.port, "/cgi-bin/id", options.timeout).strip()
            if not boot:
                # The script was ended before it said anything: its container stops.
                raise http.client.HTTPException("an empty answer")
            log("probe", "id", boot=boot, started=started, latency_s=round(time.monotonic() - clock, 4))
            failing = ""
        except (OSError, http.client.HTTPException) as problem:
            text = f"{type(problem).__name__}: {problem}"
            if text != failing:
                log("probe", "id_fail", error=text, started=started)
            failing = text
        _stop.wait(max(0.0, options.interval - (time.monotonic() - clock)))


def probe(options: argparse.Namespace) -> None:
    """Ask by ARP and by HTTP until told to stop."""
    threads = [threading.Thread(target=ask_id, args=(options,))]
    if options.interface:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ARP))
        link.bind((options.interface, ETHERTYPE_ARP))
        link.settimeout(0.2)
        threads.append(threading.Thread(target=listen_arp, args=(link, options.address)))
        threads.append(threading.Thread(target=ask_arp, args=(link, options)))
    log("probe", "start", arp=bool(options.interface))
    for thread in threads:
        thread.start()
    _stop.wait(options.limit_s)
    _stop.set()
    for thread in threads:
        thread.join()
    log("probe", "stop")


def get(options: argparse.Namespace) -> None:
    """Print a page; exit 1 when it cannot be had."""
    try:
        with urllib.request.urlopen(options.url, timeout=options.timeout) as answer:  # noqa: S310 - from our own lab
            sys.stdout.write(answer.read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as problem:
        sys.stderr.write(f"{options.url}: {problem}\n")
        sys.exit(1)


def arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="acknowledged writes and probes against the container")
    modes = parser.add_subparsers(dest="mode", required=True)
    for name in ("write", "probe"):
        mode = modes.add_parser(name)
        mode.add_argument("address")
        mode.add_argument("--port", type=int, default=80)
        mode.add_argument("--limit-s", type=float, default=3600.0)
    writing, probing = modes.choices["write"], modes.choices["probe"]
    writing.add_argument("--timeout", type=float, default=2.0)
    writing.add_argument("--workers", type=int, default=2)
    writing.add_argument("--interval", type=float, default=0.1)
    writing.add_argument("--count", type=int, default=0)
    writing.add_argument("--first", type=int, default=0)
    probing.add_argument("--timeout", type=float, default=1.0)
    probing.add_argument("--interval", type=float, default=0.1)
    probing.add_argument("--interface", default="lan0", help="empty: no ARP")
    probing.add_argument("--observer", default="192.0.2.254", help="an address that nobody has, to ask from")
    getting = modes.add_parser("get")
    getting.add_argument("url")
    getting.add_argument("--timeout", type=float, default=5.0)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Run one mode."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: _stop.set())
    {"write": write, "probe": probe, "get": get}[options.mode](options)


if __name__ == "__main__":
    main(sys.argv[1:])
