"""From values to the JSON of the admin API. Pure; amounts become decimal text, instants RFC 3339."""

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.control.prices import PriceLine
from bursar.control.status import Status
from bursar.core.directory import BudgetDef, Owner, Policy, PriceOverride, Team, VirtualKey
from bursar.core.ledger_records import JOINT, Balance, UsageRow
from bursar.core.tariff import Band
from bursar.core.units import pico_to_usd
from bursar.core.windows import FOREVER
from bursar.faces import admin_shapes as shapes
from bursar.faces.admin_shapes import instant

_MILLION = 10**6


def policy_view(policy: Policy) -> dict[str, Any]:
    """Only the fields that say something; limits without the fields left at their defaults."""
    plain: dict[str, Any] = msgspec.to_builtins(policy)
    return {name: value for name, value in plain.items() if value not in (None, (), [], {})}


def owner_view(owner: Owner) -> shapes.OwnerView:
    return shapes.OwnerView(id=owner.id, name=owner.name, contacts=owner.contacts)


def team_view(team: Team, keys_beyond: list[str] | None = None) -> shapes.TeamView:
    return shapes.TeamView(
        id=team.id,
        name=team.name,
        owner=team.owner_id,
        policy=policy_view(team.policy),
        tags=team.tags,
        disabled=team.disabled,
        keys_beyond=tuple(keys_beyond or ()),
    )


def key_view(key: VirtualKey, now: int) -> shapes.KeyView:
    overlaps = [secret.expires_at for secret in key.secrets if secret.expires_at and secret.expires_at > now]
    return shapes.KeyView(
        id=key.id,
        name=key.name,
        team=key.team_id,
        policy=policy_view(key.policy),
        tags=key.tags,
        state=_key_state(key, now),
        expires_at=None if key.expires_at is None else instant(key.expires_at),
        overlap_until=instant(max(overlaps)) if overlaps else None,
    )


def _key_state(key: VirtualKey, now: int) -> str:
    if key.disabled:
        return "disabled"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def budget_view(budget: BudgetDef) -> shapes.BudgetView:
    return shapes.BudgetView(
        id=budget.id,
        version=budget.version,
        subject_kind=budget.subject_kind,
        subject=budget.subject,
        limit_usd=pico_to_usd(budget.limit_pico),
        hard=budget.hard,
        window=budget.window,
        thresholds=budget.thresholds,
        name=budget.name,
        mode=budget.mode,
    )


def balance_view(balance: Balance) -> shapes.BalanceView:
    left = max(0, balance.limit_pico - balance.posted_pico - balance.held_pico)
    return shapes.BalanceView(
        budget=balance.budget_id,
        name=balance.name,
        hard=balance.hard,
        window_start=instant(balance.window_start_ns),
        window_end=None if balance.window_end_ns >= FOREVER else instant(balance.window_end_ns),
        limit_usd=pico_to_usd(balance.limit_pico),
        posted_usd=pico_to_usd(balance.posted_pico),
        held_usd=pico_to_usd(balance.held_pico),
        overage_usd=pico_to_usd(balance.overage_pico),
        left_usd="0.00" if balance.closed else pico_to_usd(left),
        closed=balance.closed,
    )


def per_million(pico_per_token: int) -> str:
    return pico_to_usd(pico_per_token * _MILLION)


def _optional_rate(pico_per_token: int | None) -> str | None:
    return None if pico_per_token is None else per_million(pico_per_token)


def price_view(line: PriceLine) -> shapes.PriceView:
    price = line.price
    return shapes.PriceView(
        provider=line.provider,
        model=line.model,
        id=price.id,
        digest=price.digest,
        source=price.source,
        overridden=line.overridden,
        bands=tuple(_band_view(band) for band in price.bands),
        context_window=price.context_window,
        max_output=price.max_output,
        tools={tool: pico_to_usd(fee) for tool, fee in price.tools.items()},
    )


def _band_view(band: Band) -> shapes.BandView:
    return shapes.BandView(
        above=band.above,
        input=per_million(band.input),
        output=per_million(band.output),
        cache_read=per_million(band.cache_read),
        cache_write=per_million(band.cache_write_5m),
    )


def override_view(override: PriceOverride) -> shapes.OverrideView:
    return shapes.OverrideView(
        provider=override.provider,
        model=override.model,
        from_=instant(override.from_ns),
        input=per_million(override.input),
        output=per_million(override.output),
        cache_read=_optional_rate(override.cache_read),
        cache_write=_optional_rate(override.cache_write),
        source=override.source,
    )


def usage_line(row: UsageRow, names: tuple[str, ...]) -> shapes.UsageLine:
    groups = tuple(row.group.split(JOINT))
    return shapes.UsageLine(
        group=" / ".join(groups),
        name=" / ".join(filter(None, names)),
        groups=groups,
        names=names,
        attempts=row.attempts,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        cost_usd=pico_to_usd(row.cost_pico),
        overage_usd=pico_to_usd(row.overage_pico),
        inexact=row.inexact,
    )


def status_view(status: Status, failed_guesses: int) -> shapes.StatusView:
    facts = status.facts
    return shapes.StatusView(
        ok=status.ok,
        version=facts.version,
        node=facts.node,
        data=facts.data,
        started_at=instant(facts.started_ns),
        directory_version=status.directory_version,
        gateways=tuple(shapes.GatewayView(**msgspec.structs.asdict(gateway)) for gateway in facts.gateways),
        emulator=facts.emulator,
        counts=status.counts,
        failed_guesses=failed_guesses,
        warnings=tuple(status.warnings),
    )


def merge_patch(present: object, patch: object) -> object:
    """RFC 7396: what the patch names replaces, null removes, the rest stays."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(present) if isinstance(present, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def editable(view: msgspec.Struct, shape: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of a view that its input has as well: what a patch is laid over."""
    plain: dict[str, Any] = msgspec.to_builtins(view)
    names = {field.encode_name for field in msgspec.structs.fields(shape)}
    return {name: value for name, value in plain.items() if name in names and value is not None}
