"""Where the Ray cluster to join is, if there is one, and whether it is one."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys

from orchestrator.errors import SweepStopped

ANSWER_SECONDS = 5.0  # for a socket


def running_cluster() -> tuple[str, str] | None:
    """Where a cluster to join is named, and its host:port; None where none is.

    Not by Ray's own search, which also finds the private cluster of any other sweep and dies with
    it. The file that `ray start` leaves is looked for where Ray does, and believed only if it is
    this user's: whoever wrote it may run code as us. Raises SweepStopped for what is no address.
    """
    from ray._common.utils import get_ray_address_file

    given = os.environ.get("RAY_ADDRESS", "")
    if given == "local":
        return None
    if given not in ("", "auto"):
        return "RAY_ADDRESS", _host_and_port("RAY_ADDRESS", given)
    file = get_ray_address_file(None)
    content = _read_if_ours(file)
    if content is None:
        return None
    address = _host_and_port(file, content)
    return (file, address) if listens(address) else None  # it is left behind by `kill -9`


def _read_if_ours(file: str) -> str | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as content:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_uid != os.getuid():
            print(
                f"{file} is user {status.st_uid}'s, not yours: left alone; to join that cluster "
                "set RAY_ADDRESS",
                file=sys.stderr,
                flush=True,
            )
            return None
        return content.read(200).decode(errors="replace").strip()


def _host_and_port(place: str, text: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}", text):
        shown = ascii(text[:60])
        raise SweepStopped(
            f"{place}: {shown} is no address HOST:PORT of a Ray cluster's head; correct or remove "
            "it (RAY_ADDRESS=local starts a private cluster)"
        )
    return text


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS)


def listens(address: str) -> bool:
    """Whether anything accepts connections at host:port."""
    try:
        _connection(address).close()
    except (OSError, OverflowError):
        return False
    return True


def check_answer(place: str, address: str) -> None:
    """Raises SweepStopped where nothing answers, or something that does not speak HTTP/2, as Ray's
    head does: with anything else Ray would wait for ever."""
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    try:
        with _connection(address) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("1", "true"):
                return
            connection.sendall(greeting)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise SweepStopped(f"{place}: no Ray cluster answers at {address} ({error})") from None
    if answer[3:4] != b"\x04":  # a frame of settings
        raise SweepStopped(f"{place}: what answers at {address} is no Ray cluster")
