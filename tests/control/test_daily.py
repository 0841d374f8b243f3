"""Unowned provider keys are flagged every day until somebody tags them."""

import asyncio

import pytest

from bursar.control.daily import every_day, flag_unowned
from bursar.core.errors import Refusal
from bursar.core.provider_keys import SecretEntry


class Keys:
    def __init__(self, *owners: str) -> None:
        self.entries = [
            SecretEntry(id=f"sec_{n}", address="openai/*/api_key/*/*", tags={"billing_owner": owner}, version=1)
            for n, owner in enumerate(owners)
        ]

    async def unowned(self) -> list[SecretEntry]:
        return [entry for entry in self.entries if entry.unowned]


class Audit:
    def __init__(self, *, away: bool = False) -> None:
        self.targets: list[str] = []
        self.away = away
        self.third = asyncio.Event()

    async def append(self, actor: str, action: str, target: str, facts: object) -> None:
        if self.away:
            raise Refusal("audit_unavailable", "away")
        assert action == "secret.unowned"
        self.targets.append(target)
        if len(self.targets) == 3:
            self.third.set()


async def test_only_unowned_keys_are_flagged() -> None:
    audit = Audit()
    assert await flag_unowned(Keys("finance", "unassigned", "unassigned"), audit) == 2  # type: ignore[arg-type]
    assert audit.targets == ["secret/sec_1", "secret/sec_2"]


@pytest.mark.parametrize("away", [False, True])
async def test_it_is_looked_at_again_and_again(away: bool) -> None:
    """Also when the audit is away for a while."""
    audit = Audit(away=away)
    task = asyncio.create_task(every_day(Keys("unassigned"), audit, day_s=0))  # type: ignore[arg-type]
    for _ in range(20):
        await asyncio.sleep(0)
    audit.away = False
    async with asyncio.timeout(5):
        await audit.third.wait()
    task.cancel()
