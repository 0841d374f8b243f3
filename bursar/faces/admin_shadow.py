"""Controls in shadow over the admin API: what they would have done, and the step to enforcing them and back."""

from typing import Annotated, Any, Literal

import msgspec

from bursar.control.promotion import Subject, Way
from bursar.control.shadow import By, Line, Wanted
from bursar.core.errors import Refusal
from bursar.core.units import NS_PER_S, pico_to_usd
from bursar.faces.admin_calls import AdminCall
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Instant, Limit, Shape, instant

_WEEK_S = 7 * 86_400
_MOST_S = 400 * 86_400


class ShadowQuery(Shape, frozen=True, kw_only=True):
    """`last_s` seconds up to `until`, which is now when left out; or from `since` on. Whole hours."""

    since: Instant | None = None
    until: Instant | None = None
    last_s: Annotated[int, msgspec.Meta(ge=3600, le=_MOST_S)] = _WEEK_S
    by: By = "rule"
    team: str = ""
    key: str = ""
    control: str = ""
    rule: str = ""
    limit: Limit = 200


class ShadowLine(Shape, frozen=True, kw_only=True):
    """What one rule would have done. `cost_usd`: what these calls did cost; `saved_usd`: what of it would have been
    saved; `ceiling_usd`: the most that they could have cost. Parts that were not asked for are empty.
    """

    team: str
    team_name: str
    key: str
    key_name: str
    control: str
    rule: str
    verdict: str  # refuses | clamps
    word: str
    calls: int
    cost_usd: str
    saved_usd: str
    ceiling_usd: str


class ShadowDay(Shape, frozen=True, kw_only=True):
    day: str
    control: str
    verdict: str
    calls: int
    saved_usd: str


class ShadowView(Shape, frozen=True, kw_only=True):
    """`left_out`: lines beyond `limit`. `not_recorded`: calls of which the sums tell, and no record."""

    since: str
    until: str
    lines: tuple[ShadowLine, ...]
    days: tuple[ShadowDay, ...]
    left_out: int
    not_recorded: int


class PromotionInput(Shape, frozen=True, kw_only=True):
    """`subject`: key/ID, team/ID or budget/ID. `controls`: as policies name them, ``limits/ID``, ``budgets/ID``; none
    = all.
    """

    subject: str
    way: Literal["promote", "demote"]
    controls: tuple[str, ...] = ()


class PromotionView(Shape, frozen=True, kw_only=True):
    """What was moved, as it is named in `controls`."""

    subject: str
    way: str
    moved: tuple[str, ...]


def _line(call: AdminCall, line: Line) -> ShadowLine:
    team, key = call.services.shadow.name_of(line)
    return ShadowLine(
        team=line.team_id,
        team_name=team,
        key=line.key_id,
        key_name=key,
        control=line.control,
        rule=line.rule,
        verdict=line.verdict,
        word=line.word,
        calls=line.calls,
        cost_usd=pico_to_usd(line.cost_pico),
        saved_usd=pico_to_usd(line.saved_pico),
        ceiling_usd=pico_to_usd(line.ceiling_pico),
    )


async def shadow_report(call: AdminCall) -> object:
    query: ShadowQuery = call.query
    until = call.services.directory.now() if query.until is None else query.until
    since = until - query.last_s * NS_PER_S if query.since is None else query.since
    wanted = Wanted(query.team, query.key, query.control, query.rule)
    report = await call.services.shadow.report(since, until, query.by, wanted, query.limit)
    days: list[Any] = [
        ShadowDay(
            day=instant(it.day_ns)[:10],
            control=it.control,
            verdict=it.verdict,
            calls=it.calls,
            saved_usd=pico_to_usd(it.saved_pico),
        )
        for it in report.days
    ]
    return ShadowView(
        since=instant(since),
        until=instant(until),
        lines=tuple(_line(call, line) for line in report.lines),
        days=tuple(days),
        left_out=report.left_out,
        not_recorded=report.not_recorded,
    )


async def promote(call: AdminCall) -> object:
    given: PromotionInput = call.body
    kind, subject = _subject(given.subject)
    way: Way = given.way
    done = await call.services.promotions.move(call.actor, way, kind, subject, given.controls)
    return PromotionView(subject=given.subject, way=way, moved=tuple(done))


def _subject(text: str) -> tuple[Subject, str]:
    """Raises Refusal(invalid_input)."""
    kind, _, name = text.partition("/")
    if kind in ("key", "team", "budget") and name:
        return kind, name  # type: ignore[return-value]  # one of these three
    raise Refusal("invalid_input", f"{text[:64]!r} is no subject", "Write key/ID, team/ID or budget/ID")


ROUTES = (
    Route(
        "GET",
        "/shadow",
        "What controls in shadow would have done",
        shadow_report,
        ShadowView,
        query=ShadowQuery,
        refusals=("decisions_unavailable",),
    ),
    Route(
        "POST",
        "/promotions",
        "Enforce what is in shadow, or put it back into shadow",
        promote,
        PromotionView,
        body=PromotionInput,
        previews=True,
        refusals=("unknown_id", "policy_widens"),
    ),
)
