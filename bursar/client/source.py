"""A token that is always good for a while: fetched when needed, renewed before its end, shared by all threads."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bursar.client.exchange import TokenFault, exchange

__all__ = ["Token", "TokenFault", "TokenSource"]

_RENEW_AT = 2 / 3  # of its life
_JITTER = 0.1  # of its life earlier, so that a thousand pods do not ask at once
_MARGIN_S = 5.0  # a token about to expire is no longer given out
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class Token(NamedTuple):
    """`renew_at` and `ends_at` by the source's own clock."""

    text: str
    renew_at: float
    ends_at: float

    def __repr__(self) -> str:
        return f"Token(***, ends_at={self.ends_at:.0f})"


Exchange = Callable[[str, str, Mapping[str, str], float], dict[str, Any]]


class TokenSource:
    """`subject` is asked anew for each token: a file's content may have been renewed. Safe for threads.

    `scope` narrows (see docs/tokens.md). While the broker is away, the present token is given out until its end.
    """

    def __init__(  # noqa: PLR0913 - one keyword a wish
        self,
        url: str,
        subject: Callable[[], str],
        *,
        scope: str = "",
        life_s: int = 0,
        trust_rule: str = "",
        timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
        post: Exchange = exchange,
    ) -> None:
        self._url = url
        self._subject = subject
        self._fields = {"scope": scope, "expires_in": str(life_s or ""), "trust_rule": trust_rule}
        self._timeout = timeout
        self._clock = clock
        self._dice = dice
        self._post = post
        self._turn = threading.Lock()
        self._token: Token | None = None
        self._try_at = 0.0
        self._pause = _FIRST_PAUSE_S

    def api_key(self) -> str:
        """The text of a token that is good now: for `OpenAI(api_key=...)`. Raises TokenFault."""
        return self.token().text

    async def async_api_key(self) -> str:
        """The same for `AsyncOpenAI(api_key=...)`: what has to be fetched is fetched in a thread."""
        token = self._token
        if token is not None and self._clock() < token.renew_at:
            return token.text
        return (await asyncio.to_thread(self.token)).text

    def token(self) -> Token:
        """The present one, renewed when two thirds of its life are over. Raises TokenFault."""
        token, now = self._token, self._clock()
        if token is not None and now < token.renew_at:
            return token
        usable = token is not None and now < token.ends_at - _MARGIN_S
        if not self._turn.acquire(blocking=not usable):
            assert token is not None  # another thread is renewing it
            return token
        try:
            return self._renewed()
        finally:
            self._turn.release()

    def renew(self) -> Token:
        """A new one, whatever the present one is worth: the broker has just refused it. Raises TokenFault."""
        with self._turn:
            return self._fetch()

    def _renewed(self) -> Token:
        token, now = self._token, self._clock()
        if token is not None and now < token.renew_at:  # somebody else was faster
            return token
        usable = token is not None and now < token.ends_at - _MARGIN_S
        if token is not None and usable and now < self._try_at:
            return token
        try:
            return self._fetch()
        except TokenFault:
            self._try_at = self._clock() + self._pause * (1 + self._dice())
            self._pause = min(self._pause * 2, _LONGEST_PAUSE_S)
            if token is None or not usable:
                raise
            return token

    def _fetch(self) -> Token:
        asked = self._clock()
        answer = self._post(self._url, self._subject(), self._fields, self._timeout)
        life = float(answer.get("expires_in", 60))
        renew_at = asked + life * (_RENEW_AT - _JITTER * self._dice())
        self._token = Token(str(answer["access_token"]), renew_at, asked + life)
        self._try_at, self._pause = 0.0, _FIRST_PAUSE_S
        return self._token
