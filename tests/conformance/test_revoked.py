"""Who may spend no more: one history of revoked, switched off and removed, and what each hold is told of it.

On one node the gateway has heard of a change before the next call. In a fleet a node may not have heard, and the act
that holds the money decides. Both are asked with every hold: over the reference and over the journal as a gateway that
has heard, over PostgreSQL as one that has not. They answer in the same word.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.access_tokens import trust_plan
from bursar.core.directory import (
    Delta,
    Owner,
    Policy,
    Snapshot,
    Team,
    TokenKey,
    TokenMark,
    TrustRule,
    VirtualKey,
    revoked_mark,
)
from bursar.core.errors import Refusal
from bursar.core.grants import Grant, Scopes
from bursar.core.policy import KeyPlan
from bursar.gateway.tenants import Tenants
from bursar.stores.directory_postgres import DirectoryPostgres
from tests.conformance.money import Hands, JournalSide, PostgresSide, Reference
from tests.postgres import PostgresServer
from tests.stores.journal_kit import asking, budget

OWNER = Owner(id="acme", name="Acme")
TEAMS = {name: Team(id=name, name=name, owner_id="acme", policy=Policy()) for name in ("red", "blue")}
KEYS = {
    f"{team}-{n}": VirtualKey(id=f"{team}-{n}", name="K", team_id=team, secrets=()) for team in TEAMS for n in (1, 2)
}
RULE = TrustRule(id="ci", team_id="red", issuer="https://issuer", audience="bursar", match={"sub": ("*",)})
HOLDERS = [*KEYS, "token-1", "token-2", "token-3", "federated"]
TOKENS = {"token-1": "red-1", "token-2": "red-1", "token-3": "blue-1", "federated": trust_plan("ci")}
ENDS = 2**62

STEPS = st.one_of(
    st.tuples(st.just("revoke"), st.sampled_from(sorted(TOKENS))),
    st.tuples(st.just("sweep"), st.sampled_from(sorted(TOKENS))),
    st.tuples(st.sampled_from(("off", "on", "gone")), st.sampled_from([*KEYS, *TEAMS, "ci"])),
)
HISTORIES = st.lists(STEPS, min_size=1, max_size=8)


class Gateway:
    """What a gateway knows, and its way from a call to a hold: the last look at its directory, then the money."""

    def __init__(self, money: Any, snapshot: Snapshot) -> None:
        self.tenants = Tenants(lambda _: None)
        self.tenants.replace(snapshot)
        self._money = money
        self._plans = {name: self._plan(name) for name in HOLDERS}

    def _plan(self, holder: str) -> KeyPlan:
        """As found when the call arrived."""
        if holder not in TOKENS:
            found = self.tenants._plan_by_id(holder)
            assert found is not None
            return found
        kind: Any = "federation" if holder == "federated" else "token"
        made = Grant(jti=holder, kind=kind, parent=TOKENS[holder], expires_at=ENDS, scopes=Scopes(), kid="kid")
        return self.tenants.narrowed(made)

    async def call(self, holder: str) -> str:
        plan = self._plans[holder]
        try:
            self.tenants.current(plan).check_alive(0)
            names = {"key_id": plan.key_id, "team_id": plan.team_id, "owner_id": plan.owner_id}
            request = asking(1, credential=plan.credential, **names)
            held = await self._money.hold(request, plan.grant.jti if plan.grant else "")
        except Refusal as refusal:
            return refusal.word
        await self._money.void(held.hold_id)
        return "held"


class Directory:
    """The history of one run: each change is written to PostgreSQL, and told to those who hear."""

    def __init__(self, store: DirectoryPostgres) -> None:
        self._store = store
        self.version = 0

    async def write(self, **what: Any) -> Delta:
        self.version += 1
        delta = Delta(version=self.version, **what)
        await self._store.commit(delta, "admin", "test.change", 1)
        return delta

    async def anew(self) -> Snapshot:
        """All as it was at first."""
        marks: list[tuple[Any, str]] = [("token_mark", revoked_mark(token)) for token in TOKENS]
        kid = TokenKey(id="kid", public=b"k" * 32)
        made: dict[str, Any] = {
            "owners": [OWNER],
            "teams": [*TEAMS.values()],
            "keys": [*KEYS.values()],
            "trust": [RULE],
        }
        await self.write(**made, token_keys=[kid], gone=marks)
        return Snapshot(version=self.version, **made, token_keys=[kid])

    async def step(self, act: str, name: str) -> Delta:
        if act in ("revoke", "sweep"):
            mark = revoked_mark(name)
            if act == "revoke":
                return await self.write(token_marks=[TokenMark(id=mark, until=ENDS)])
            return await self.write(gone=[("token_mark", mark)])
        kind, entity = ("teams", TEAMS[name]) if name in TEAMS else ("keys", KEYS.get(name))
        if entity is None:
            kind, entity = "trust", RULE
        if act == "gone":
            return await self.write(gone=[(kind.removesuffix("s"), name)])
        fields = {field: getattr(entity, field) for field in entity.__struct_fields__} | {"disabled": act == "off"}
        return await self.write(**{kind: [type(entity)(**fields)]})


class Fleet:
    """The stores, opened once."""

    def __init__(self, folder: Path, url: str) -> None:
        clock = Hands()
        self.loop = asyncio.Runner()
        self.reference, self.journal = Reference(clock), JournalSide(folder, clock)
        self.postgres = self.loop.run(PostgresSide.open(url, clock))
        self.directory = Directory(DirectoryPostgres(self.postgres.store))
        self.words: set[str] = set()
        for side in (self.reference, self.journal, self.postgres):
            self.loop.run(side.define(budget(10**6)))

    def play(self, history: list[tuple[str, str]]) -> None:
        self.loop.run(self._play(history))

    async def _play(self, history: list[tuple[str, str]]) -> None:
        first = await self.directory.anew()
        heard = [Gateway(money, first) for money in (self.reference, self.journal, self.postgres)]
        deaf = Gateway(self.postgres, first)
        for act, name in history:
            delta = await self.directory.step(act, name)
            for gateway in heard:
                gateway.tenants.change(delta)
            for holder in HOLDERS:
                answers = [await gateway.call(holder) for gateway in (*heard, deaf)]
                assert len(set(answers)) == 1, f"{holder} after {act} {name}: {answers}"
                self.words.add(answers[0])

    def close(self) -> None:
        self.loop.run(self.postgres.close())
        self.journal.journal.close()
        self.loop.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Fleet]:
    opened = Fleet(tmp_path_factory.mktemp("journal"), postgres_server.new_database())
    yield opened
    opened.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=HISTORIES)
def test_who_may_not_spend_is_told_the_same_whether_the_node_has_heard_or_not(
    fleet: Fleet, history: list[tuple[str, str]]
) -> None:
    fleet.play(history)


@pytest.mark.parametrize(
    ("history", "word"),
    [
        ([("revoke", "token-1"), ("sweep", "token-1"), ("revoke", "federated")], "token_revoked"),
        ([("off", "red-1"), ("revoke", "token-1"), ("on", "red-1"), ("gone", "red-1")], "token_revoked"),
        ([("off", "ci"), ("off", "red"), ("gone", "ci"), ("on", "red")], "key_disabled"),
        ([("off", "red-1"), ("gone", "red"), ("on", "red"), ("gone", "blue")], "key_disabled"),
    ],
)
def test_named_histories(fleet: Fleet, history: list[tuple[str, str]], word: str) -> None:
    fleet.words.clear()
    fleet.play(history)
    assert {"held", word} <= fleet.words
