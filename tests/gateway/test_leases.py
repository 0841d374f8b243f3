"""Provider keys on loan: asked for once, renewed in time, gone when revoked, every use counted once."""

import asyncio

import pytest

from bursar.core.errors import Refusal
from bursar.gateway.lease import Leases
from tests.gateway.fakes import FakeClock, FakeReleases, turns
from tests.gateway.ground import provider_key

KEY = provider_key("pk", "openai/*/api/prod/*")
AWAY = Refusal("audit_unavailable", "The audit is full")
SECONDS = 900


class Loans:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.control = FakeReleases(self.clock, SECONDS)
        self.leases = Leases(self.control, self.clock)


@pytest.fixture
def loans() -> Loans:
    return Loans()


async def test_the_value_comes_from_control_and_is_kept(loans: Loans) -> None:
    first = await loans.leases.borrow(KEY)
    second = await loans.leases.borrow(KEY)
    assert first.value.reveal() == "sk-pk-1"
    assert second is first
    assert loans.control.asked == [("pk", 1)]
    assert "sk-pk-1" not in repr(first)


async def test_callers_who_come_together_share_one_release(loans: Loans) -> None:
    leases = await asyncio.gather(*(loans.leases.borrow(KEY) for _ in range(20)))
    assert loans.control.asked == [("pk", 1)]
    assert len({id(lease) for lease in leases}) == 1
    assert loans.leases.take_uses() == [("pk", 1, 20)]


async def test_one_who_leaves_does_not_fail_the_others(loans: Loans) -> None:
    leaver = asyncio.ensure_future(loans.leases.borrow(KEY))
    waiter = asyncio.ensure_future(loans.leases.borrow(KEY))
    await asyncio.sleep(0)
    leaver.cancel()
    assert (await waiter).value.reveal() == "sk-pk-1"
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert loans.leases.take_uses() == [("pk", 1, 1)]


async def test_each_version_is_a_lease_of_its_own(loans: Loans) -> None:
    await loans.leases.borrow(KEY)
    rotated = provider_key("pk", KEY.address, version=2)
    assert (await loans.leases.borrow(rotated)).value.reveal() == "sk-pk-2"
    assert sorted(loans.leases.take_uses()) == [("pk", 1, 1), ("pk", 2, 1)]


async def test_it_is_renewed_in_the_background_after_two_thirds(loans: Loans) -> None:
    old = await loans.leases.borrow(KEY)
    loans.clock.advance(SECONDS * 2 / 3 - 1)
    await loans.leases.borrow(KEY)
    await turns()
    assert len(loans.control.asked) == 1
    loans.clock.advance(1)
    assert await loans.leases.borrow(KEY) is old  # nobody waits for a renewal
    await turns()
    assert len(loans.control.asked) == 2
    new = await loans.leases.borrow(KEY)
    assert new.expires_at == old.expires_at + SECONDS * 10**9 * 2 // 3
    assert loans.leases.take_uses() == [("pk", 1, 4)]  # also those before the renewal


async def test_while_control_is_away_a_live_lease_goes_on(loans: Loans) -> None:
    await loans.leases.borrow(KEY)
    loans.control.refusal = AWAY
    loans.clock.advance(SECONDS * 2 / 3)
    for _ in range(3):
        assert (await loans.leases.borrow(KEY)).value.reveal() == "sk-pk-1"
        await turns()
    assert len(loans.control.asked) == 2  # not at every use
    loans.clock.advance(5)
    await loans.leases.borrow(KEY)
    await turns()
    assert len(loans.control.asked) == 3


async def test_a_lease_that_has_ended_is_not_used(loans: Loans) -> None:
    await loans.leases.borrow(KEY)
    loans.clock.advance(SECONDS)
    loans.control.refusal = AWAY
    with pytest.raises(Refusal) as refused:
        await loans.leases.borrow(KEY)
    assert refused.value.word == "audit_unavailable"
    loans.control.refusal = None
    await loans.leases.borrow(KEY)
    assert loans.leases.take_uses() == [("pk", 1, 2)]


async def test_what_is_refused_is_asked_again(loans: Loans) -> None:
    loans.control.refusal = AWAY
    for _ in range(2):
        with pytest.raises(Refusal):
            await loans.leases.borrow(KEY)
    loans.control.refusal = None
    await loans.leases.borrow(KEY)
    assert len(loans.control.asked) == 3


@pytest.mark.parametrize("version", [1, None])
async def test_what_is_revoked_is_gone_at_once(loans: Loans, version: int | None) -> None:
    await loans.leases.borrow(KEY)
    loans.leases.forget("pk", version)
    loans.control.refusal = AWAY
    with pytest.raises(Refusal):
        await loans.leases.borrow(KEY)


async def test_forgetting_one_version_leaves_the_others(loans: Loans) -> None:
    await loans.leases.borrow(KEY)
    await loans.leases.borrow(provider_key("other", KEY.address))
    loans.leases.forget("pk", 2)
    loans.leases.forget("another")
    await loans.leases.borrow(KEY)
    await loans.leases.borrow(provider_key("other", KEY.address))
    assert len(loans.control.asked) == 2


async def test_uses_before_a_revocation_still_reach_the_audit(loans: Loans) -> None:
    await loans.leases.borrow(KEY)
    await loans.leases.borrow(KEY)
    loans.leases.forget("pk")
    assert loans.leases.take_uses() == [("pk", 1, 2)]
    assert loans.leases.take_uses() == []


async def test_a_release_under_way_when_it_is_revoked_is_not_kept(loans: Loans) -> None:
    """Who waited for it may use it once, as one whose request was already on its way; nobody after him."""
    waiter = asyncio.ensure_future(loans.leases.borrow(KEY))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert loans.control.asked == [("pk", 1)]
    loans.leases.forget("pk")
    await waiter
    assert loans.leases.take_uses() == [("pk", 1, 1)]
    loans.control.refusal = AWAY
    with pytest.raises(Refusal):
        await loans.leases.borrow(KEY)


async def test_asked_anew_after_a_revocation_the_new_release_is_kept(loans: Loans) -> None:
    first = asyncio.ensure_future(loans.leases.borrow(KEY))
    await turns(2)
    loans.leases.forget("pk")
    second = asyncio.ensure_future(loans.leases.borrow(KEY))
    await asyncio.gather(first, second)
    assert len(loans.control.asked) == 2
    await loans.leases.borrow(KEY)
    assert len(loans.control.asked) == 2


async def test_uses_are_told_once(loans: Loans) -> None:
    await loans.leases.borrow(KEY)
    assert loans.leases.take_uses() == [("pk", 1, 1)]
    assert loans.leases.take_uses() == []
    await loans.leases.borrow(KEY)
    assert loans.leases.take_uses() == [("pk", 1, 1)]
