"""Tokens for httpx: `httpx.Client(auth=BursarAuth(source))`. A token that is refused is renewed once."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import httpx

from bursar.client.source import TokenSource


class BursarAuth(httpx.Auth):
    """Sends a good token with each request."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = f"Bearer {self._source.api_key()}"
        response = yield request
        if response.status_code == 401:
            request.headers["authorization"] = f"Bearer {self._source.renew().text}"
            yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers["authorization"] = f"Bearer {await self._source.async_api_key()}"
        response = yield request
        if response.status_code == 401:
            renewed = await asyncio.to_thread(self._source.renew)
            request.headers["authorization"] = f"Bearer {renewed.text}"
            yield request
