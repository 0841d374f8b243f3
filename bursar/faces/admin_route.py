"""One row of the admin API's table."""

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

import msgspec

from bursar.core.roles import Right
from bursar.faces.admin_calls import AdminCall

PREFIX = "/v1/admin"

Method = Literal["GET", "POST", "PATCH", "PUT", "DELETE"]


class Route(NamedTuple):
    """`answer` None = 204 without a body; `page` = the answer is a list in pieces; `streams` = bytes, as they come."""

    method: Method
    path: str  # below PREFIX; {name} is a part of the path, {name:path} may hold slashes
    summary: str
    call: Callable[[AdminCall], Awaitable[object]]
    answer: type[msgspec.Struct] | None = None
    asks: Right | None = None  # None = to read where the method is GET, to administer where it is not
    body: type[msgspec.Struct] | None = None  # for PATCH: the input over which the merge patch is laid
    query: type[msgspec.Struct] | None = None
    page: bool = False
    streams: bool = False  # `call` gives an `AsyncIterator[bytes]`
    created: bool = False  # 201 instead of 200
    previews: bool = False  # with `?preview=true` it tells what it would change, and changes nothing
    most: int = 1 << 20  # bytes of a body
    refusals: tuple[str, ...] = ()  # its own words, besides those that every route can answer

    @property
    def right(self) -> Right:
        """What a caller's role must allow (`bursar.core.roles`)."""
        return self.asks or ("read" if self.method == "GET" else "administer")
