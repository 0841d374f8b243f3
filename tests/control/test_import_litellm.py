"""What a LiteLLM proxy was told becomes files; every setting is accounted for, and no secret is told."""

from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bursar.control.import_litellm import Imported, convert
from bursar.control.import_litellm_why import QUIET
from tests.control.test_manifests import Desk

CANARY = "sk-canary-0123456789abcdef0123456789"
CONFIG: dict[str, Any] = {
    "model_list": [
        {
            "model_name": "gpt-4o",
            "litellm_params": {"model": "openai/gpt-4o", "api_key": "os.environ/OPENAI_API_KEY", "rpm": 480},
            "model_info": {"id": "one", "input_cost_per_token": "0.000001"},
        },
        {
            "model_name": "smart",
            "litellm_params": {"model": "anthropic/claude-sonnet-4-6", "api_key": CANARY},
        },
        {
            "model_name": "gpt-4o-mini",
            "litellm_params": {"model": "gpt-4o-mini", "api_key": "os.environ/OPENAI_API_KEY"},
        },
        {
            "model_name": "local",
            "litellm_params": {"model": "hosted_vllm/llama", "api_base": "http://10.0.0.9:8000/v1"},
        },
    ],
    "litellm_settings": {"max_budget": 1000, "budget_duration": "30d", "drop_params": True, "invented": 7},
    "general_settings": {"master_key": CANARY, "database_url": f"postgresql://u:{CANARY}@db/litellm"},
    "router_settings": {"routing_strategy": "least-busy", "redis_password": CANARY},
    "environment_variables": {"SOMETHING": CANARY},
}
TEAMS = [
    {
        "team_id": "t-1",
        "team_alias": "Search & Ads",
        "max_budget": 100.5,
        "budget_duration": "30d",
        "models": ["gpt-4o", "smart"],
        "tpm_limit": 100000,
        "rpm_limit": 600,
        "blocked": False,
        "members_with_roles": [{"user_id": "u"}],
        "spend": 12.25,
    },
    {"team_id": "t-2", "team_alias": "Old", "blocked": True, "models": []},
]
KEYS = {
    "keys": [
        {
            "token": "8f2c" * 16,
            "key_alias": "nightly",
            "key_name": "sk-...Yz12",
            "team_id": "t-1",
            "models": ["smart", "gpt-4o-mini"],
            "max_budget": "0.30000000000000004",
            "budget_duration": "12h",
            "soft_budget": 0.15,
            "expires": "2027-01-31T00:00:00Z",
            "max_parallel_requests": 4,
            "metadata": {"tags": ["prod", "Nightly Jobs"], "logging": [{"callback": "x"}]},
            "blocked": None,
        },
        {"token": CANARY, "key_alias": None, "models": ["all-team-models"], "blocked": True, "rpm_limit": 0},
        "just-a-hash",
    ],
    "total_count": 3,
}
USERS = {"users": [{"user_id": "u", "user_email": "ann@example.org", "max_budget": 5}, {"user_id": "v"}]}


def outcomes(found: Imported) -> dict[str, str]:
    return {line.path: line.outcome for line in found.lines}


def test_teams_keys_budgets_and_limits_become_files() -> None:
    said = convert(CONFIG, [KEYS, TEAMS, USERS], "acme").documents
    assert said["owners"] == {"acme": {"name": "Imported from LiteLLM"}}
    assert said["teams"]["search-ads"]["policy"] == {
        "models": ["gpt-4o", "claude-sonnet-4-6"],
        "limits": [
            {"unit": "requests", "amount": 600, "scope": "team"},
            {"unit": "tokens", "amount": 100000, "scope": "team"},
        ],
    }
    assert said["teams"]["old"]["disabled"] is True
    assert said["keys"]["nightly"] == {
        "team": "search-ads",
        "name": "nightly",
        "policy": {
            "models": ["claude-sonnet-4-6"],
            "limits": [{"unit": "concurrency", "amount": 4, "scope": "key"}],
        },
        "expires_at": "2027-01-31T00:00:00Z",
        "tags": ["prod", "nightly-jobs"],
    }
    budgets = said["budgets"]
    assert budgets["search-ads-budget"] == {
        "subject": "team/search-ads",
        "limit_usd": "100.50",
        "window": {"period": "month"},
    }
    assert budgets["key-nightly-budget"] == {
        "subject": "key/nightly",
        "limit_usd": "0.30",
        "window": {"kind": "rolling", "seconds": 43200},
        "thresholds": [50, 100],
    }
    assert budgets["acme-budget"]["subject"] == "owner/acme"
    assert budgets["user-ann-example.org-budget"]["subject"] == "user/ann@example.org"
    (loose,) = [key for name, key in said["keys"].items() if name != "nightly"]
    assert (loose["team"], loose["disabled"]) == ("litellm-keys", True)


def test_what_differs_and_what_is_left_is_told_with_why() -> None:
    found = convert(CONFIG, [KEYS, TEAMS, USERS])
    told = outcomes(found)
    assert told["model_list[0].model_name"] == "taken"
    assert told["model_list[1].model_name"] == "approximated"
    assert told["model_list[0].litellm_params.rpm"] == "left"
    assert told["model_list[0].model_info.input_cost_per_token"] == "left"
    assert told["model_list[3].litellm_params.api_base"] == "left"
    assert told["litellm_settings.max_budget"] == "approximated"
    assert told["litellm_settings.invented"] == "left"
    assert told["general_settings.master_key"] == "left"
    assert told["router_settings.redis_password"] == "left"
    assert told["environment_variables.SOMETHING"] == "left"
    assert told["teams[0].members_with_roles"] == "left"
    assert told["teams[0].spend"] == "left"
    assert told["keys[0].metadata.logging"] == "left"
    assert told["keys[0].models"] == "approximated"
    assert told["keys[1].rpm_limit"] == "left"
    assert told["keys[2]"] == "left"
    assert told["users[1]"] == "left"
    assert all(line.told for line in found.lines)


def test_no_secret_is_told_and_provider_keys_are_joined() -> None:
    found = convert(CONFIG, [KEYS, TEAMS, USERS])
    assert CANARY[:12] not in repr(found.lines) + repr(found.documents) + repr(found.provider_keys)
    first, second = found.provider_keys
    assert (first.address, first.variable) == ("openai/*/api_key/litellm/*", "OPENAI_API_KEY")
    assert first.models == ("gpt-4o", "gpt-4o-mini")
    assert (second.address, second.value and second.value.reveal()) == ("anthropic/*/api_key/litellm/*", CANARY)


async def test_what_was_taken_can_be_applied_and_then_changes_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    said = convert(CONFIG, [KEYS, TEAMS, USERS]).documents
    done = await desk.apply(said)
    assert {minted.name for minted in done.minted} == set(said["keys"])
    assert (await desk.plan(said)).steps == ()
    await desk.history.undo("ann", 1)
    assert desk.teams.all() == []
    desk.store.close()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just(CANARY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
_SETTINGS = st.dictionaries(
    st.sampled_from(["model_list", "litellm_settings", "general_settings", "anything", "max_budget", "callbacks"]),
    _VALUES,
)
_OBJECTS = st.dictionaries(
    st.sampled_from(
        """token key_alias models max_budget budget_duration soft_budget metadata team_id team_alias user_id expires
        tpm_limit rpm_limit blocked whatever""".split()  # noqa: SIM905
    ),
    _VALUES,
)


def says(value: Any) -> bool:
    """Whether there is anything to lose."""
    return any(map(says, value.values())) if isinstance(value, dict) else value not in (None, [], "")


@given(
    config=_SETTINGS | _VALUES, rows=st.lists(_OBJECTS | _VALUES, max_size=3), kind=st.sampled_from(["keys", "teams"])
)
def test_whatever_it_is_given_nothing_falls_over_and_nothing_is_lost(config: Any, rows: list[Any], kind: str) -> None:
    found = convert(config, [{kind: rows}])
    msgspec.json.encode(found.documents)
    paths = [line.path for line in found.lines]
    if isinstance(config, dict):
        for name, value in config.items():
            assert not says(value) or any(path.startswith((name, f"config.{name}", "config")) for path in paths), name
    for index, row in enumerate(rows):
        if isinstance(row, dict):
            assert any(path.startswith(f"{kind}[{index}]") for path in paths)
            unknown = {name for name, value in row.items() if name == "whatever" and value not in (None, [], {}, "")}
            assert all(f"{kind}[{index}].{name}" in paths for name in unknown - QUIET)
    names = ("keys[", "teams[", "users[")  # names are told: they are no secrets
    assert CANARY not in repr([line for line in found.lines if not line.path.startswith(names)])
