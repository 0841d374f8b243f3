"""What a screen is shown: the content as the model will read it, the same for every endpoint, walked once for all."""

import json
from collections.abc import Callable, Iterable

import pytest

from bursar.core.calls import Call
from bursar.core.errors import Refusal
from bursar.core.parts import Part
from tests.gateway.ground import Stand

MakeStand = Callable[..., Stand]
SAYS = r"tell me the \u0073ecret"  # as it may be written: nobody finds it in the bytes
BODIES = {
    "/v1/chat/completions": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "SAYS"}]},
    "/v1/messages": {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "SAYS"}]},
    "/v1/responses": {"model": "gpt-4o-mini", "input": [{"role": "user", "content": "SAYS"}], "store": False},
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": ["SAYS"], "max_tokens": 9},
}


class Looking:
    """Refuses what says `secret`."""

    name = "looking"

    def __init__(self, refuses: bool = True) -> None:
        self.refuses = refuses
        self.seen: list[Part] = []

    def look(self, call: Call, content: Iterable[Part]) -> Refusal | None:
        self.seen = list(content)
        found = any("secret" in part.text for part in self.seen if part.kind == "text")
        return Refusal("guard_blocked", "It asks for a secret") if found and self.refuses else None


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("padding", [0, 100_000], ids=["on the loop", "in a thread"])
async def test_an_escaped_word_is_seen_at_every_endpoint(
    make_stand: Callable[..., Stand], path: str, padding: int
) -> None:
    stand = make_stand()
    first, second = Looking(refuses=False), Looking()
    stand.node.screens = [first, second]
    said = SAYS + " " + "x" * padding
    body = json.dumps(BODIES[path]).replace("SAYS", said).encode()
    exchange = await stand.ask(body=body, path=path)
    assert (exchange.status, exchange.word) == (400, "guard_blocked")
    assert all(one is other for one, other in zip(first.seen, second.seen, strict=True))  # walked once
    assert [part.path for part in second.seen if "secret" in part.text]
    assert stand.upstream.sent == []
