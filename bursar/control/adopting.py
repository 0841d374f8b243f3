"""The first key of a team: which provider it is of, where it would lie, what the directory has to say. Pure."""

import re
from collections.abc import Container, Mapping
from typing import Any

import msgspec

from bursar.control.import_keys import Candidate, from_dotenv, from_value
from bursar.core.errors import Refusal
from bursar.core.key_shapes import look
from bursar.core.strict import Faults

PLACE = "adopted"
"""The fourth part of their addresses."""

MARK = "adopted_at"
"""The tag that names the version of the directory by which a provider key was adopted; `--undo` finds it by that."""

_BLANK = re.compile(r"\s")
_ANTHROPIC = """\
from anthropic import Anthropic
client = Anthropic(base_url="{url}", api_key="{key}")
answer = client.messages.create(model="{model}", max_tokens=100, messages=[{{"role": "user", "content": "Hello"}}])
print(answer.content[0].text)"""
_OPENAI = """\
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
print(answer.choices[0].message.content)"""
_MODELS = {"anthropic": "claude-haiku-4-5", "openai": "gpt-4o-mini"}


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `models`: names or globs; empty = any. Limits are a minute's; 0 = none."""

    team: str
    owner: str
    limit_usd: str
    models: tuple[str, ...] = ()
    requests: int = 60
    tokens: int = 100_000


def recognised(text: str, name: str, provider: str = "") -> Candidate:
    """The one provider key in what came in: the text itself, or a dotenv line. Raises Refusal(invalid_secret).

    `name`: of its variable; "" = it has none. `provider`: as named by the caller, for keys of no known shape.
    """
    stripped = text.strip()
    found = from_value(name, stripped, PLACE)
    if found is None and not name and "=" in stripped:
        found = _of_lines(stripped)
    if found is None and not provider:
        message = "What came in has the shape of no provider's key that is known"
        raise Refusal("invalid_secret", message, "See that it is whole, or name its provider: --provider NAME")
    if found is None:
        _check_plain(stripped)
        found = from_value(f"{provider.upper().replace('-', '_')}_API_KEY", stripped, PLACE)
    if found is None:
        raise Refusal("invalid_secret", "What came in is a key of Bursar, or no provider is named so", _WHAT)
    told = found.address.partition("/")[0]
    if not provider or provider == told:
        return found
    if look(found.value.reveal().encode("utf-8", "surrogatepass")):
        message = f"The key has the shape of one of {told}, and --provider says {provider}"
        raise Refusal("invalid_secret", message, "Leave --provider out, or take the other key")
    return msgspec.structs.replace(found, address=f"{provider}/*/api_key/{PLACE}/*")


_WHAT = "Adopt a key that a provider gave you; see: bursar adopt --help"


def _of_lines(text: str) -> Candidate | None:
    try:
        found = from_dotenv(text, PLACE)
    except Faults:
        return None
    if len(found) > 1:
        message = f"There are {len(found)} provider keys: {', '.join(one.name for one in found)}"
        raise Refusal("invalid_secret", message, "Take one; all at once: bursar import dotenv FILE")
    return found[0] if found else None


def _check_plain(text: str) -> None:
    if not text or _BLANK.search(text) or not text.isascii():
        message = "What came in is empty, or has blanks, several lines or letters that no key has"
        raise Refusal("invalid_secret", message, "Give the key alone, on standard input or in a file")


def address_of(provider: str, team: str, taken: Container[str]) -> str:
    """Where a team's adopted key would lie: of that team alone, and taken by no other."""
    number, address = 1, f"{provider}/*/api_key/{PLACE}/{team}"
    while address in taken:
        number += 1
        address = f"{provider}/*/api_key/{PLACE}-{number}/{team}"
    return address


def is_own_address(address: str, provider: str, team: str) -> bool:
    return re.fullmatch(rf"{re.escape(provider)}/\*/api_key/{PLACE}(-\d+)?/{re.escape(team)}", address) is not None


def key_name(provider: str) -> str:
    return f"Adopted {provider}"


def documents(wish: Wish, provider: str, *, owner_is_new: bool, team_is_new: bool) -> dict[str, dict[str, Any]]:
    """As a file would say it. Budget and limits are on a new team; in one that has its callers, on the new key only."""
    handle = f"adopted-{provider}-{wish.team}"[:64]
    scope = "team" if team_is_new else "key"
    limits = [
        {"unit": unit, "amount": amount, "per_seconds": 60, "scope": scope}
        for unit, amount in (("requests", wish.requests), ("tokens", wish.tokens))
        if amount
    ]
    models: Mapping[str, Any] = {"models": list(wish.models)} if wish.models else {}
    policy = {"limits": limits, **models}
    key: dict[str, Any] = {"team": wish.team, "name": key_name(provider)}
    found: dict[str, dict[str, Any]] = {}
    if owner_is_new:
        found["owners"] = {wish.owner: {"name": wish.owner}}
    if team_is_new:
        found["teams"] = {wish.team: {"name": wish.team, "owner": wish.owner, "policy": policy}}
        subject = f"team/{wish.team}"
    else:
        key["policy"] = policy
        subject = f"key/{handle}"
    found["keys"] = {handle: key}
    found["budgets"] = {handle: {"subject": subject, "limit_usd": wish.limit_usd, "name": f"{wish.team}, adopted"}}
    return found


def snippet(provider: str, url: str, key: str, models: tuple[str, ...]) -> str:
    """Python for the SDK that the provider's callers have."""
    plain = [model for model in models if "*" not in model]
    model = plain[0] if plain else _MODELS.get(provider, "MODEL")
    return (_ANTHROPIC if provider == "anthropic" else _OPENAI).format(url=url, key=key, model=model)
