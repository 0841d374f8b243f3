"""One POST to a token endpoint (RFC 8693), on the standard library."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a type
_JWT = "urn:ietf:params:oauth:token-type:jwt"
_MOST = 65_536


class TokenFault(Exception):
    """No token. `word` is stable, `hint` says what to do, `again` whether it may be different in a moment.

    Neither the subject nor a token stands in it.
    """

    def __init__(self, word: str, message: str, hint: str = "", *, again: bool = False) -> None:
        super().__init__(f"{word}: {message}")
        self.word = word
        self.message = message
        self.hint = hint
        self.again = again


def exchange(url: str, subject: str, fields: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """The answer's members. Raises TokenFault."""
    form = {"grant_type": GRANT, "subject_token": subject, **{name: value for name, value in fields.items() if value}}
    form["subject_token_type"] = _JWT if subject.startswith("ey") else _ACCESS_TOKEN
    headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
    status, raw = send(f"{url.rstrip('/')}/oauth/token", "POST", headers, urlencode(form).encode(), timeout)
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise TokenFault(
            "not_a_broker", f"{url} answered {status}, but not as a token endpoint does", "Check BURSAR_URL"
        )
    if status == 200 and isinstance(answer.get("access_token"), str):
        return answer
    raise _fault(answer, status)


def send(url: str, method: str, headers: Mapping[str, str], body: bytes | None, timeout: float) -> tuple[int, bytes]:
    """Status and body of one exchange; at most 64 kB, no redirects. Raises TokenFault(not_reachable)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TokenFault(
            "not_reachable", "The address is no http(s) address", "Set BURSAR_URL, for example http://127.0.0.1:4000"
        )
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST)
    except (OSError, http.client.HTTPException) as error:
        where = f"{parts.scheme}://{parts.hostname}"
        why = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        raise TokenFault(
            "not_reachable", f"{where} cannot be reached ({why})", "Check BURSAR_URL", again=True
        ) from None
    finally:
        connection.close()


def _fault(answer: dict[str, Any], status: int) -> TokenFault:
    """From RFC 6749 §5.2, or from an error in the shape of the data port's other routes."""
    detail, error = answer.get("bursar"), answer.get("error")
    if isinstance(error, dict):
        word, told = str(error.get("code", "refused")), str(error.get("message", ""))
    else:
        word, told = str(error or "refused"), str(answer.get("error_description", ""))
        if isinstance(detail, dict):
            word = str(detail.get("word", word))
    return TokenFault(word, told or f"the broker answered {status}", again=status >= 500 or status == 429)
