"""The first start: something to call with at once. A demo owner, team, budgets and key, and keys for the emulator."""

from collections.abc import Collection, Mapping

from bursar.control.budgets import Budgets, BudgetTerms
from bursar.control.keys import KeyInput, Keys
from bursar.control.owners import Owners
from bursar.control.provider_keys import ProviderKeys
from bursar.control.teams import TeamInput, Teams
from bursar.core.directory import LimitDef, Policy, ProviderKey, WindowDef
from bursar.core.provider_keys import EMBEDDED
from bursar.core.routing import EMULATOR_ENVIRONMENT, address_parts
from bursar.core.secret import Secret
from bursar.core.units import usd_to_pico

ACTOR = "first-start"
DEMO = "demo"

_LIMITS = (
    LimitDef(id="demo-rps", unit="requests", amount=100, per_seconds=1, burst=200),
    LimitDef(id="demo-rpm", unit="requests", amount=6_000, per_seconds=60, scope="team"),
    LimitDef(id="demo-tpm", unit="tokens", amount=2_000_000, per_seconds=60),
    LimitDef(id="demo-concurrency", unit="concurrency", amount=200),
)
_MONTHLY = BudgetTerms(limit_pico=usd_to_pico("100"), hard=True, name="Demo, a month")
_DAILY = BudgetTerms(limit_pico=usd_to_pico("25"), hard=True, window=WindowDef(period="day"), name="Demo, a day")


async def make_demo(owners: Owners, teams: Teams, keys: Keys, budgets: Budgets) -> Secret | None:
    """The demo key's text, at the very first start only; None when there are teams already."""
    if teams.all():
        return None
    await owners.create(ACTOR, "Demo owner", owner_id=DEMO)
    team = TeamInput(name="Demo team", owner_id=DEMO, policy=Policy(limits=_LIMITS))
    await teams.create(ACTOR, team, team_id=DEMO)
    await budgets.create(ACTOR, "team", DEMO, _MONTHLY)
    minted = await keys.create(ACTOR, DEMO, KeyInput(name="Demo key"))
    await budgets.create(ACTOR, "key", minted.key.id, _DAILY)
    return minted.text


async def make_emulator_keys(provider_keys: ProviderKeys, providers: Collection[str]) -> None:
    """One made-up key a provider, in an environment that only the emulator serves. Owned: nothing to flag."""
    present = {entry.address for entry in await provider_keys.all()}
    for provider in providers:
        address = f"{provider}/*/api_key/{EMULATOR_ENVIRONMENT}/*"
        if address not in present:
            tags = {"billing_owner": DEMO, "purpose": "inference,embedding,batch"}
            value = Secret(f"emulator-key-for-{provider}")
            await provider_keys.put(ACTOR, address, value, tags, store=EMBEDDED)


def emulator_answers(stored: Collection[ProviderKey]) -> bool:
    """No provider key is stored but those of the emulator: then, and only then, it answers."""
    return all(address_parts(key.address)[3] == EMULATOR_ENVIRONMENT for key in stored)


def keys_in_environment(env: Mapping[str, str], providers: Collection[str]) -> dict[str, tuple[str, Secret]]:
    """Provider keys of the environment: variable -> (provider, value). `openai` is looked for in OPENAI_API_KEY."""
    named = {f"{provider.upper().replace('-', '_')}_API_KEY": provider for provider in providers}
    return {name: (provider, Secret(env[name])) for name, provider in named.items() if env.get(name)}


async def seal_environment(provider_keys: ProviderKeys, found: Mapping[str, tuple[str, Secret]]) -> list[str]:
    """Seal what the environment holds, without an owner (flagged until tagged) -> the variables that were sealed.

    Sealing the same value again changes nothing.
    """
    present = {entry.address for entry in await provider_keys.all()}
    sealed = []
    for variable, (provider, value) in found.items():
        address = f"{provider}/*/api_key/from-env/*"
        if address not in present:
            await provider_keys.put("seal-env", address, value, {}, store=EMBEDDED)
            sealed.append(variable)
    return sealed
