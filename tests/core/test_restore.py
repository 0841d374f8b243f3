"""What the audit after a backup means for the restored node: nothing that was taken away comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.audit import Outcome, Record
from bursar.core.restore import BALANCES_ACTION, Effects, Known, effects_of, written_balances


def record(action: str, target: str, seq: int = 1, outcome: Outcome = "allowed", **facts: str | int) -> Record:
    return Record(seq=seq, at_ns=seq, actor="admin", action=action, target=target, outcome=outcome, facts=facts)


@pytest.mark.parametrize("verb", ["disable", "remove", "rotate", "update", "of_tomorrow"])
def test_a_key_that_lost_something_is_off(verb: str) -> None:
    effects = effects_of([record(f"key.{verb}", "key/k1")])
    assert effects.keys == {"k1": verb}
    assert bool(effects.repeat) == (verb not in ("disable", "remove"))
    assert effects.unknown == []


@given(st.lists(st.sampled_from(["disable", "enable", "update", "rotate", "remove", "create"]), max_size=12))
def test_a_key_is_on_only_if_nothing_happened_to_it_but_switching(verbs: list[str]) -> None:
    effects = effects_of([record(f"key.{verb}", "key/k1", n) for n, verb in enumerate(verbs, 1)])
    lost = any(verb in ("update", "rotate", "remove") for verb in verbs)
    switches = [verb for verb in verbs if verb in ("disable", "enable")]
    assert ("k1" in effects.keys) == (lost or switches[-1:] == ["disable"])


def test_what_was_refused_or_failed_did_not_happen() -> None:
    happened = [
        record("key.disable", "key/k1", outcome="failed"),
        record("secret.destroy", "secret/s", outcome="refused"),
    ]
    effects = effects_of(happened)
    assert (effects.keys, effects.destroyed) == ({}, set())


def test_secrets_teams_and_admins() -> None:
    effects = effects_of(
        [
            record("secret.destroy", "secret/sec_a"),
            record("secret.disable", "secret/sec_b"),
            record("secret.tag", "secret/sec_c"),
            record("secret.put", "secret/openai/*/api_key/*/*"),
            record("team.update", "team/t"),
            record("admin.role", "admin/a"),
            record("secret.rewrap", "secrets"),
            record("secret.use", "secret/sec_d", uses=4),
        ]
    )
    assert effects.destroyed == {"sec_a"}
    assert effects.secrets == {"sec_b": "disable", "sec_c": "tag"}
    assert (effects.teams, effects.admins) == ({"t": "update"}, {"a": "role"})
    assert len(effects.repeat) == 4
    assert effects.unknown == []


def test_budgets_that_are_not_known_here_pause_what_they_bind() -> None:
    effects = effects_of(
        [
            record("budget.lower", "budget/b", limit_usd="1.50", subject="key/k0"),
            record("budget.create", "budget/c", 2, subject="key/k1", limit_usd="1"),
            record("budget.update", "budget/d", 3, subject="team/t1", limit_usd="1"),
            record("budget.create", "budget/e", 4, subject="model/gpt-4o", limit_usd="1"),
        ]
    )
    assert effects.limits == {"b": 1_500_000_000_000}
    assert (effects.keys, effects.teams) == ({"k1": "budget.create"}, {"t1": "budget.update"})
    assert effects.unknown == ["#4 budget.create budget/e"], "nothing can be paused for it but the node"


@pytest.mark.parametrize("action", ["apply", "rollback", "apply.undo"])
def test_files_that_changed_something_keep_the_node_paused(action: str) -> None:
    """A record of many objects names the first few: whichever lost something would have it again."""
    for create, change, remove in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        told = record(action, "directory/git", create=create, change=change, remove=remove, directory_version=9)
        effects = effects_of([told])
        assert (effects.unknown, effects.repeat) == ([f"#1 {action} directory/git"], [])
    marks = effects_of([record(action, "directory/git", create=0, change=0, remove=0, directory_version=9)])
    assert (marks.unknown, marks.repeat) == ([], [f"#1 {action} directory/git"]), "only who manages it changed"
    assert effects_of([record(action, "directory/git", directory_version=9)]).unknown, "not told is not nothing"


@pytest.mark.parametrize(
    "action",
    ["managed.release", "deployment.map", "deployment.unmap", "deployment.map.undo", "breaker.open", "breaker.close"],
)
def test_what_opens_nothing_is_told(action: str) -> None:
    target = f"{action.partition('.')[0]}/x"
    assert effects_of([record(action, target, directory_version=9)]) == Effects(repeat=[f"#1 {action} {target}"])


def test_what_was_enforced_since_is_off_and_what_was_put_in_shadow_is_told() -> None:
    def moved(way: str) -> Effects:
        kinds = {"key": "k", "team": "t", "budget": "b"}
        return effects_of([record(f"{kind}.{way}", f"{kind}/{it}", subject="key/k2") for kind, it in kinds.items()])

    up, down = moved("promote"), moved("demote")
    assert (up.keys, up.teams) == ({"k": "promote", "k2": "budget.promote"}, {"t": "promote"})
    assert (down.keys, down.teams) == ({}, {}), "restored, it is as strict as it was"
    assert len(up.repeat) == len(down.repeat) == 3
    assert up.unknown == down.unknown == []


def test_a_change_of_a_kind_that_is_not_known_keeps_the_node_paused() -> None:
    for action in ("trust.remove", "trust.update", "token.rotate_keys", "of_tomorrow.remove"):
        assert effects_of([record(action, "trust/x", directory_version=9)]).unknown == [f"#1 {action} trust/x"]
    for action in ("trust.add", "token.revoke"):
        assert effects_of([record(action, "trust/x")]).repeat == [f"#1 {action} trust/x"]
    quiet = [
        "audit.start",
        "node.joined",
        "ledger_overage",
        "secret.release",
        "backup.take",
        "admin.guess",
        "token.issue",
    ]
    assert effects_of([record(action, "audit") for action in quiet]) == effects_of([])


def test_the_last_word_on_a_balance_counts() -> None:
    first, last = Known(1, 100, 10, 5), Known(1, 100, 30, 0)
    effects = effects_of(
        [
            record(BALANCES_ACTION, "budgets", 1, **written_balances({"b": first, "c": first})),
            record(BALANCES_ACTION, "budgets", 2, **written_balances({"b": last})),
        ]
    )
    assert effects.balances == {"b": last, "c": first}


def test_who_was_erased_is_erased_again() -> None:
    assert effects_of([record("audit.erase", "audit/person:0f")]).erased == {"person:0f"}
