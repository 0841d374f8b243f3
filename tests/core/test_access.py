"""Access to provider keys: denied unless granted, exact in its paths, and no act implies another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.access import ACTS, check_access, check_path, check_subject, covers, granted
from bursar.core.directory import AccessGrant, Act, ProviderKey
from bursar.core.errors import Refusal
from bursar.core.roles import RIGHTS, Caller
from bursar.core.routing import key_fits

ADDRESS = "openai/gpt-4o/api/prod/search"
PARTS = st.sampled_from(["*", "a", "ab", "b", "prod", "prod-eu"])
ADDRESSES = st.tuples(*[PARTS] * 5).map("/".join)


def grant(
    path: str = "*/*/*/*/*", acts: tuple[Act, ...] = ("rotate",), subject: str = "role/operator", **more: object
) -> AccessGrant:
    return AccessGrant(id="g", subject=subject, acts=acts, path=path, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("*/*/*/*/*", True),
        ("openai/*/*/prod/*", True),
        ("openai/gpt-*/*/*/search", True),
        ("openai/*/*/dev/*", False),
        ("open*/*/*/*/*", True),
        ("anthropic/*/*/*/*", False),
    ],
)
def test_paths(path: str, covered: bool) -> None:
    assert covers(grant(check_path(path)), "rotate", ADDRESS, {}, 0) == covered


def test_a_beginning_does_not_cover_what_is_for_everybody() -> None:
    assert not covers(grant("openai/*/*/prod*/*"), "rotate", "openai/*/*/*/*", {}, 0)


@pytest.mark.parametrize(
    "path", ["", "openai", "*/*/*/*", "*/*/*/*/*/*", "o*p/*/*/*/*", "../*/*/*/*", "a//b/c/d", "a/b/c/d/e\n"]
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(Refusal, match="names no provider keys"):
        check_path(path)


@pytest.mark.parametrize(
    "subject", ["", "team/", "team/*", "team/a/b", "team/+", "role/{{identity}}", "user/x", "team/A"]
)
def test_who_cannot_be_granted_anything(subject: str) -> None:
    with pytest.raises(Refusal, match="nobody who could be granted"):
        check_subject(subject)


@given(ADDRESSES, st.sampled_from(ACTS), st.sampled_from(ACTS))
def test_no_act_implies_another(address: str, given_act: Act, asked: Act) -> None:
    assert granted([grant(acts=(given_act,))], {"role/operator"}, asked, address, {}, 0) == (given_act == asked)


@given(ADDRESSES, ADDRESSES)
def test_without_a_grant_that_covers_it_everything_is_denied(path: str, address: str) -> None:
    """Independently said: part by part equal, or open."""
    exact = all(wanted in ("*", part) for wanted, part in zip(path.split("/"), address.split("/"), strict=True))
    assert covers(grant(path), "rotate", address, {}, 0) == exact
    assert not granted([grant(path)], {"role/viewer", "admin/x"}, "rotate", address, {}, 0)
    assert not granted([], {"role/operator"}, "rotate", address, {}, 0)


def test_tags_and_ends_narrow() -> None:
    narrow = grant(tags={"purpose": "inference"}, expires_at=100)
    assert covers(narrow, "rotate", ADDRESS, {"purpose": "inference", "x": "y"}, 99)
    assert not covers(narrow, "rotate", ADDRESS, {"purpose": "embedding"}, 99)
    assert not covers(narrow, "rotate", ADDRESS, {}, 99)
    assert not covers(narrow, "rotate", ADDRESS, {"purpose": "inference"}, 100)


@pytest.mark.parametrize("role", RIGHTS)
@pytest.mark.parametrize("act", ["read", "write", "rotate"])
def test_by_default_only_an_admin_writes_and_nobody_reads(role: str, act: Act) -> None:
    caller = Caller("admin:abcdefgh2345", role)  # type: ignore[arg-type]
    if role == "admin" and act != "read":
        check_access([], caller, act, ADDRESS, {}, 0)
        return
    with pytest.raises(Refusal) as refused:
        check_access([], caller, act, ADDRESS, {}, 0)
    assert refused.value.word == "access_denied"
    check_access([grant(acts=(act,), subject=f"role/{role}")], caller, act, ADDRESS, {}, 0)
    check_access([grant(acts=(act,), subject="admin/abcdefgh2345")], caller, act, ADDRESS, {}, 0)


def test_a_team_may_use_the_key_of_another_where_it_was_granted() -> None:
    key = ProviderKey(id="k", version=1, address=ADDRESS, billing_owner="acme")
    call = key, "openai", "gpt-4o"
    assert key_fits(*call, "search", "inference")
    assert not key_fits(*call, "ads", "inference")
    lent = grant("openai/*/*/prod/search", ("use",), "team/ads", tags={"billing_owner": "acme"})
    assert key_fits(*call, "ads", "inference", [lent])
    assert not key_fits(*call, "ads", "embedding", [lent])
    assert not key_fits(*call, "other", "inference", [lent])
