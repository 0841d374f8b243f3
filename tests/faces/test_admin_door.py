"""The door by itself: guesses at the same time, what is kept of a token, what the audit hears."""

import asyncio

import pytest

from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.tokens import mint
from bursar.faces.admin_door import OWNER, Door
from tests.control.tenants import SeededEntropy, SetClock

TOKEN = mint(SeededEntropy(), "admin")[1].reveal()


class Held:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.gate.wait()


async def test_many_guesses_at_once_do_not_pile_up_and_never_lock_the_operator_out() -> None:
    held = Held()
    door = Door(Secret(TOKEN), SetClock(), sleep=held.sleep)
    guesses = [asyncio.create_task(door.admit("Bearer wrong", "peer")) for _ in range(40)]
    await asyncio.sleep(0)
    assert await door.admit(f"Bearer {TOKEN}", "peer") == OWNER
    held.gate.set()
    refused = await asyncio.gather(*guesses, return_exceptions=True)
    words = [error.word for error in refused if isinstance(error, Refusal)]
    assert words.count("admin_token_invalid") == 16
    assert words.count("too_many_guesses") == 24
    assert door.failures == 40
    assert max(held.asked) == 3.0
    with pytest.raises(Refusal, match="not the admin token"):
        await door.admit("Bearer wrong", "peer")


async def test_a_guesser_who_hangs_up_frees_his_place() -> None:
    held = Held()
    door = Door(Secret(TOKEN), SetClock(), sleep=held.sleep)
    guesses = [asyncio.create_task(door.admit("Bearer wrong", "peer")) for _ in range(16)]
    await asyncio.sleep(0)
    for guess in guesses:
        guess.cancel()
    await asyncio.gather(*guesses, return_exceptions=True)
    held.gate.set()
    with pytest.raises(Refusal) as refused:
        await door.admit("Bearer wrong", "peer")
    assert refused.value.word == "admin_token_invalid"


async def test_the_audit_hears_of_an_attack_without_being_filled_by_it() -> None:
    heard: list[int] = []

    async def tell(failures: int, peer: str) -> None:
        assert peer == "10.0.0.9"
        heard.append(failures)

    async def no_wait(_: float) -> None:
        return

    door = Door(Secret(TOKEN), SetClock(), tell=tell, sleep=no_wait)
    for _ in range(1000):
        with pytest.raises(Refusal):
            await door.admit("Bearer x", "10.0.0.9")
    assert heard == [2**power for power in range(10)]


def test_the_door_keeps_no_token() -> None:
    door = Door(Secret(TOKEN), SetClock())
    assert TOKEN.encode() not in repr(vars(door)).encode()
    assert TOKEN not in str(vars(door))


def test_without_a_list_of_names_any_host_is_answered() -> None:
    Door(Secret(TOKEN), SetClock(), hosts=None).check_host("bursar.internal:4001")
    Door(Secret(TOKEN), SetClock(), hosts={"Bursar.internal"}).check_host("bursar.INTERNAL:4001")
