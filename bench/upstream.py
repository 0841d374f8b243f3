"""A stand-in for a provider that costs as little as Python can: answers at once, or streams events at a steady pace.

The same for every proxy measured, and never counted. ``python -m bench.upstream PORT``. A body with ``"stream":true``
is streamed: its ``"max_tokens"`` counts the events, its ``"seed"`` the milliseconds between them (every proxy lets both
pass unchanged). Anything else gets one fixed answer, after so many milliseconds if it has a seed. `GET /served` tells
how many completions were begun: what a provider would bill.
"""

import asyncio
import re
import sys
from typing import cast

import httptools
import uvloop

_EVENTS = re.compile(rb'"max_tokens": ?(\d+)')
_PAUSE = re.compile(rb'"seed": ?(\d+)')
_STREAMED = re.compile(rb'"stream": ?true')

ANSWER = (
    b'{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"' + b"All is well. " * 20 + b'","refusal":null},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":420,"completion_tokens":64,"total_tokens":484,'
    b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},'
    b'"service_tier":"default","system_fingerprint":"fp_bench"}'
)
_PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
_SERVED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_COMMON = b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


_EVENT = _chunk(
    _COMMON + b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_END = (
    _chunk(_COMMON + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
    + _chunk(
        _COMMON
        + b'"choices":[],"usage":{"prompt_tokens":420,"completion_tokens":64,"total_tokens":484}}\n\ndata: [DONE]\n\n'
    )
    + b"0\r\n\r\n"
)


class Provider(asyncio.Protocol):
    served = 0  # over all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # what uvloop gives is one in all but type
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if not body:
            text = b"%d" % Provider.served
            self.transport.write(_SERVED % (len(text), text))
            return
        Provider.served += 1
        pause = _PAUSE.search(body)
        if _STREAMED.search(body) is None:
            if pause is None:
                self.transport.write(_PLAIN)
            else:
                asyncio.get_running_loop().call_later(int(pause[1]) / 1000, self.transport.write, _PLAIN)
            return
        events = _EVENTS.search(body)
        self.left = int(events[1]) if events else 64
        self.pause = int(pause[1]) / 1000 if pause else 0.01
        self.transport.write(_STREAM)
        self.loop = asyncio.get_running_loop()
        self.due = self.loop.time()
        self.tick()

    def tick(self) -> None:
        if self.transport.is_closing():
            return
        if not self.left:
            self.transport.write(_END)
            return
        self.left -= 1
        self.transport.write(_EVENT)
        self.due += self.pause
        self.loop.call_at(self.due, self.tick)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
