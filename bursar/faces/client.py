"""A small client of the admin API on the standard library: what the CLI and scripts need, and quick to import."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from bursar.core.secret import Secret

PREFIX = "/v1/admin"
_PAGE = 500
_PIECE = 64 * 1024
_PATIENCE_S = 600.0  # for the next piece of what a busy node makes beside its calls


class ApiRefusal(Exception):
    """The API answered with a problem: `word` is stable, `hint` says what to do next."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", "")))
        self.problem = dict(problem)
        self.status = int(problem.get("status", 500))
        self.word = str(problem.get("code", "internal_error"))
        self.message = str(problem.get("detail") or problem.get("title") or "The admin API refused")
        self.hint = str(problem.get("hint", ""))
        self.faults: list[dict[str, str]] = list(problem.get("faults", ()))


class NotReachable(Exception):
    """Nothing answered at the address, or not what the admin API answers."""


class Preview(Exception):
    """What a call would have changed; nothing was."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(str(answer.get("action", "")))
        self.answer = answer


class AdminClient:
    """`url` is http(s)://host:port. One connection a call: a command makes few.

    `undo`: the last change that was made, where it can be taken back. With `preview` the first call that would change
    something raises Preview instead. `break_glass`: why what is kept in files is changed. `prefix` stands before every
    path.
    """

    def __init__(
        self,
        url: str,
        token: Secret,
        timeout: float = 30.0,
        *,
        preview: bool = False,
        break_glass: str = "",
        prefix: str = PREFIX,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise NotReachable(f"{url} is not the address of an admin API")
        self.url = url
        self._parts = parts
        self._token = token
        self._timeout = timeout
        self._preview = preview
        self._break_glass = break_glass
        self._prefix = prefix
        self.undo = ""

    def call(self, method: str, path: str, body: object = None, query: Mapping[str, object] | None = None) -> Any:
        """One call; the decoded answer, None for 204. Raises ApiRefusal, NotReachable or Preview."""
        preview = self._preview and method != "GET"
        query = {**(query or {}), "preview": "true"} if preview else query
        if self._break_glass and method != "GET":
            query = {**(query or {}), "break_glass": self._break_glass}
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        target = self._prefix + path + (f"?{urlencode(given)}" if given else "")
        headers = self._headers()
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if raw is not None:
            headers["content-type"] = "application/json"
        status, answer = self._exchange(method, target, raw, headers)
        if status == 204:
            return None
        try:
            value = json.loads(answer)
        except ValueError:
            raise NotReachable(f"{self.url} answered {status}, but not as an admin API does") from None
        if status >= 400:
            raise ApiRefusal(value if isinstance(value, dict) else {"status": status})
        if preview:
            raise Preview(value)
        return value

    def patience(self, seconds: float) -> None:
        """How long an answer may take from now on."""
        self._timeout = seconds

    def every(self, path: str, query: Mapping[str, object] | None = None) -> Iterator[dict[str, Any]]:
        """All items of a list, read piece by piece."""
        after = ""
        while True:
            page = self.call("GET", path, query={"limit": _PAGE, **(query or {}), "after": after})
            yield from page["items"]
            after = page["next"]
            if not after:
                return

    def stream(self, path: str, query: Mapping[str, object]) -> Iterator[bytes]:
        """The answer in pieces as they come. Raises ApiRefusal; NotReachable also when it breaks off."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        connection = self._connection(_PATIENCE_S)
        try:
            connection.request("GET", f"{self._prefix}{path}?{urlencode(given)}", headers=self._headers())
            answer = connection.getresponse()
            if answer.status >= 400:
                raise ApiRefusal(dict(json.loads(answer.read())))
            while piece := answer.read1(_PIECE):
                yield piece
            if answer.length:  # so much was still to come; an answer in chunks raises by itself
                raise NotReachable(f"{self.url}: the answer broke off")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotReachable(f"{self.url}: {_why(error)}") from None
        finally:
            connection.close()

    def _headers(self) -> dict[str, str]:
        token = self._token.reveal()
        return {"accept": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}

    def _connection(self, timeout: float = 0) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(str(self._parts.hostname), self._parts.port, timeout=timeout or self._timeout)

    def _exchange(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            self.undo = answer.headers.get("bursar-undo", self.undo)
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotReachable(f"{self.url}: {_why(error)}") from None
        finally:
            connection.close()


def segment(text: str) -> str:
    """A part of a path, escaped."""
    return quote(text, safe="")


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, socket.gaierror):
        return "the name is not known"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
