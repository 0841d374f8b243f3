"""Owners, teams, keys and budgets made through the admin API, as an operator would."""

import itertools
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.e2e.broker import Broker


@dataclass(frozen=True)
class MadeKey:
    """A virtual key with the team it belongs to; `text` is what an application holds."""

    id: str
    text: str
    team: str
    budgets: tuple[str, ...] = ()


class Tenants:
    """Each key gets a team of its own, so that nothing is shared unless a test says so."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._numbers = itertools.count(1)
        self.owner = self.post("/owners", name="Test owner")["id"]

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.broker.admin("POST", f"/v1/admin{path}", json=body)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    def team(self, **policy: Any) -> str:
        name = f"Team {next(self._numbers)}"
        return str(self.post("/teams", name=name, owner=self.owner, policy=policy)["id"])

    def key(
        self,
        policy: dict[str, Any] | None = None,
        budget: dict[str, Any] | None = None,
        team: str = "",
    ) -> MadeKey:
        """A key under a policy, with one budget of its own if `budget` is given."""
        team = team or self.team()
        minted = self.post("/keys", name=f"key {next(self._numbers)}", team=team, policy=policy or {})
        key_id = minted["key"]["id"]
        made = [self.budget("key", key_id, **budget)] if budget else []
        return MadeKey(key_id, minted["text"], team, tuple(made))

    def budget(self, kind: str, subject: str, **fields: Any) -> str:
        return str(self.post("/budgets", subject_kind=kind, subject=subject, **fields)["id"])

    def disable(self, key: MadeKey) -> None:
        self.post(f"/keys/{key.id}/disable")

    def worst_case(self, ask: dict[str, Any]) -> int:
        """The ceiling of a chat call in pico-USD, as a key that cannot pay it is told."""
        poor = self.key(budget={"limit_usd": "0.000000000001"})
        headers = {"authorization": f"Bearer {poor.text}"}
        told = httpx.post(f"{self.broker.url}/v1/chat/completions", headers=headers, json=ask, timeout=10).json()
        assert told["error"]["code"] == "can_never_fit", told
        return int(told["bursar"]["facts"]["asked_pico"])

    def balance(self, budget: str, seconds: float = 10, *, spent: bool = True) -> dict[str, Any]:
        """Where a budget stands once the read model has caught up with the journal (all that was held is settled).

        `spent` False: nothing is expected to be posted, and who asks knows that the read model has come so far.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.broker.admin("GET", "/v1/admin/balances", params={"limit": 1000})
            assert answer.status_code == 200, answer.text
            for row in answer.json()["items"]:
                if row["budget"] == budget and bool(float(row["posted_usd"])) is spent and not float(row["held_usd"]):
                    return dict(row)
            time.sleep(0.05)
        raise AssertionError(f"nothing was posted to {budget} in {seconds} s")
