"""`/healthz`: the process answers. `/readyz`: it has a directory.

A money store that cannot be written does not make a node unready: only the next call finds out that it can be again.
"""

from bursar.gateway.node import Node
from bursar.ports import Exchange

VITALS = frozenset({"/healthz", "/readyz"})

_TEXT = b"content-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\n"


def vital_sign(node: Node, exchange: Exchange) -> None:
    if exchange.path == "/healthz":
        exchange.respond(200, _TEXT, b"ok\n")
    elif not node.ready:
        exchange.respond(503, _TEXT, b"not ready: no directory from control yet\n")
    else:
        exchange.respond(200, _TEXT, b"ready\n")
