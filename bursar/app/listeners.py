"""Listening sockets, bound by the supervisor: they outlive a child, so that a restart refuses no connection."""

import errno
import socket

_BACKLOG = 4096


class PortFault(Exception):
    """An address cannot be listened on; the message says why and what to do."""


def bind(host: str, port: int, option: str) -> socket.socket:
    """A listening TCP socket. `option` names the setting to change, for the message. Raises PortFault."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as fault:
        listener.close()
        raise PortFault(f"cannot listen on {host}:{port}: {_why(fault)}; set {option} to another") from fault
    listener.setblocking(False)
    return listener


def _why(fault: OSError) -> str:
    if fault.errno == errno.EADDRINUSE:
        return "the port is taken"
    if fault.errno == errno.EACCES:
        return "this user may not use the port"
    return fault.strerror or type(fault).__name__
