"""hvac, Vault's own Python client, against the fake: what it knows of the API has to hold here as well."""

from collections.abc import Iterator

import hvac
import pytest
from hvac import exceptions

from tests.vault.fake import FakeVault
from tests.vault.logins import Machine
from tests.vault.policies import PolicyFault, capabilities_on, parse_policy


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as running:
        yield running


@pytest.fixture
def root(vault: FakeVault) -> hvac.Client:
    return hvac.Client(vault.url, vault.root)


def as_(vault: FakeVault, token: str, namespace: str | None = None) -> hvac.Client:
    return hvac.Client(vault.url, token, namespace=namespace)


def test_versions_are_kept_deleted_brought_back_and_destroyed(root: hvac.Client) -> None:
    kv = root.secrets.kv.v2
    for number in (1, 2):
        made = kv.create_or_update_secret("a/b", {"value": f"v{number}"}, cas=number - 1)
        assert made["data"]["version"] == number
    with pytest.raises(exceptions.InvalidRequest, match="check-and-set parameter did not match"):
        kv.create_or_update_secret("a/b", {"value": "late"}, cas=1)
    assert kv.read_secret_version("a/b", version=1, raise_on_deleted_version=True)["data"]["data"] == {"value": "v1"}
    kv.delete_latest_version_of_secret("a/b")
    with pytest.raises(exceptions.InvalidPath):
        kv.read_secret_version("a/b", raise_on_deleted_version=True)
    told = kv.read_secret_version("a/b", raise_on_deleted_version=False)  # the 404 carries its metadata
    assert told["data"]["data"] is None
    assert told["data"]["metadata"]["version"] == 2
    assert told["data"]["metadata"]["deletion_time"]
    kv.undelete_secret_versions("a/b", [2])
    assert kv.read_secret_version("a/b", raise_on_deleted_version=True)["data"]["data"] == {"value": "v2"}
    kv.destroy_secret_versions("a/b", [1])
    with pytest.raises(exceptions.InvalidPath):
        kv.read_secret_version("a/b", version=1, raise_on_deleted_version=True)
    versions = kv.read_secret_metadata("a/b")["data"]["versions"]
    assert (versions["1"]["destroyed"], versions["2"]["destroyed"]) == (True, False)
    kv.delete_metadata_and_all_versions("a/b")
    with pytest.raises(exceptions.InvalidPath):
        kv.read_secret_metadata("a/b")


def test_old_versions_fall_off_and_folders_are_listed(root: hvac.Client) -> None:
    kv = root.secrets.kv.v2
    kv.configure(max_versions=2)
    for number in range(4):
        kv.create_or_update_secret("deep/er/x", {"n": number})
    kv.create_or_update_secret("deep/y", {"n": 1})
    assert sorted(kv.read_secret_metadata("deep/er/x")["data"]["versions"]) == ["3", "4"]
    assert kv.list_secrets("deep")["data"]["keys"] == ["er/", "y"]
    with pytest.raises(exceptions.InvalidPath):
        kv.list_secrets("nothing")


def test_custom_metadata_is_checked_as_documented(root: hvac.Client) -> None:
    kv = root.secrets.kv.v2
    kv.create_or_update_secret("m", {"value": "v"})
    kv.update_metadata("m", custom_metadata={"billing_owner": "ann"})
    assert kv.read_secret_metadata("m")["data"]["custom_metadata"] == {"billing_owner": "ann"}
    for wrong in ({"k": "v" * 513}, {"k" * 129: "v"}, {"k": ""}, {f"k{n}": "v" for n in range(65)}):
        with pytest.raises(exceptions.InvalidRequest, match="custom_metadata validation failed"):
            kv.update_metadata("m", custom_metadata=wrong)
    kv.update_metadata("strict", cas_required=True)
    with pytest.raises(exceptions.InvalidRequest, match="check-and-set parameter required"):
        kv.create_or_update_secret("strict", {"value": "v"})


def test_sealed_standby_and_health(vault: FakeVault, root: hvac.Client) -> None:
    assert root.sys.read_health_status(method="GET")["sealed"] is False
    vault.sealed = True
    with pytest.raises(exceptions.VaultDown, match="Vault is sealed"):
        root.secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)
    assert root.sys.is_sealed()
    assert root.sys.read_health_status(method="GET").status_code == 503
    vault.sealed = False
    with FakeVault() as standby:
        standby.standby_of = vault.url
        root.secrets.kv.v2.create_or_update_secret("a", {"value": "v"})
        told = hvac.Client(standby.url, vault.root).secrets.kv.v2.read_secret_version(
            "a", raise_on_deleted_version=True
        )
        assert told["data"]["data"] == {"value": "v"}
        for status in (472, 473):
            standby.health_status = status
            assert hvac.Client(standby.url).sys.read_health_status(method="GET").status_code == status


def test_a_policy_allows_only_what_it_says(vault: FakeVault, root: hvac.Client) -> None:
    root.sys.create_or_update_policy("reader", 'path "secret/data/llm/*" { capabilities = ["read"] }')
    token = root.auth.token.create(policies=["reader"], ttl="60s")["auth"]["client_token"]
    root.secrets.kv.v2.create_or_update_secret("llm/a", {"value": "v"})
    reader = as_(vault, token)
    assert reader.secrets.kv.v2.read_secret_version("llm/a", raise_on_deleted_version=True)["data"]["data"]
    for act in (
        lambda: reader.secrets.kv.v2.create_or_update_secret("llm/a", {"value": "w"}),
        lambda: reader.secrets.kv.v2.read_secret_version("other", raise_on_deleted_version=True),
        lambda: reader.secrets.kv.v2.list_secrets("llm"),
        lambda: reader.sys.create_or_update_policy("more", ""),
        lambda: as_(vault, "hvs.unknown").secrets.kv.v2.read_secret_metadata("llm/a"),
        lambda: as_(vault, "").secrets.kv.v2.read_secret_metadata("llm/a"),
    ):
        with pytest.raises(exceptions.Forbidden):
            act()
    vault.advance(61)
    with pytest.raises(exceptions.Forbidden):
        reader.secrets.kv.v2.read_secret_version("llm/a", raise_on_deleted_version=True)


def test_precedence_of_patterns() -> None:
    rules = parse_policy(
        """
        path "secret/data/*" { capabilities = ["read"] }           # wide
        path "secret/data/+/key" { capabilities = ["update"] }
        path "secret/data/team/key" { capabilities = ["deny", "read"] }
        """
    )
    assert capabilities_on(rules, "secret/data/x") == {"read"}
    assert capabilities_on(rules, "secret/data/beta/key") == {"update"}
    assert capabilities_on(rules, "secret/data/team/key") == {"deny"}
    assert capabilities_on(rules, "other") == set()
    for wrong in (
        'path "a" { capabilities = ["fly"] }',
        'path "a*b" { capabilities = ["read"] }',
        "path {",
        "nonsense",
    ):
        with pytest.raises(PolicyFault):
            parse_policy(wrong)


def test_namespaces_are_apart(vault: FakeVault, root: hvac.Client) -> None:
    root.sys.create_namespace("team")
    inner = as_(vault, vault.root, "team")
    inner.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    inner.secrets.kv.v2.create_or_update_secret("a", {"value": "inner"})
    with pytest.raises(exceptions.InvalidPath):
        root.secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)
    with pytest.raises(exceptions.InvalidPath):
        as_(vault, vault.root, "nowhere").secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)


def test_approle_logs_in_and_its_token_is_renewed(vault: FakeVault, root: hvac.Client) -> None:
    root.sys.enable_auth_method("approle")
    root.auth.approle.create_or_update_approle(
        "bursar", token_policies=["default"], token_ttl="60s", secret_id_num_uses=1
    )
    role_id = root.auth.approle.read_role_id("bursar")["data"]["role_id"]
    secret_id = root.auth.approle.generate_secret_id("bursar")["data"]["secret_id"]
    client = hvac.Client(vault.url)
    client.auth.approle.login(role_id, secret_id)
    assert client.auth.token.lookup_self()["data"]["ttl"] == 60
    vault.advance(40)
    client.auth.token.renew_self()
    vault.advance(40)
    assert client.is_authenticated()
    client.auth.token.revoke_self()
    assert not client.is_authenticated()
    with pytest.raises(exceptions.InvalidRequest, match="invalid role or secret ID"):  # used up
        client.auth.approle.login(role_id, secret_id)


def test_kubernetes_and_jwt_check_what_they_are_given(vault: FakeVault, root: hvac.Client) -> None:
    cluster, later = Machine(), vault.clock() + 600
    for kind in ("kubernetes", "jwt"):
        root.sys.enable_auth_method(kind)
    root.write_data("auth/kubernetes/config", data={"kubernetes_host": "https://cluster", "pem_keys": [cluster.pem]})
    root.auth.kubernetes.create_role("bursar", "bursar", "llm", ttl="60s", policies=["default"], audience="vault")
    root.auth.jwt.configure(jwt_validation_pubkeys=[cluster.pem], bound_issuer="https://ci")
    root.auth.jwt.create_role("ci", "sub", [], role_type="jwt", bound_audiences=["vault"], bound_subject="repo:main")
    client = hvac.Client(vault.url)
    client.auth.kubernetes.login("bursar", cluster.service_account("bursar", "llm", "vault", later))
    assert client.is_authenticated()
    good = {"iss": "https://ci", "sub": "repo:main", "aud": "vault", "exp": int(later)}
    client.auth.jwt.jwt_login("ci", cluster.token(**good))
    for wrong in (
        cluster.service_account("other", "llm", "vault", later),
        cluster.service_account("bursar", "default", "vault", later),
        cluster.service_account("bursar", "llm", "someone", later),
        cluster.service_account("bursar", "llm", "vault", vault.clock() - 1),
        Machine().service_account("bursar", "llm", "vault", later),
    ):
        with pytest.raises((exceptions.Forbidden, exceptions.InvalidRequest)):
            client.auth.kubernetes.login("bursar", wrong)
    for change in ({"iss": "x"}, {"sub": "repo:fork"}, {"aud": "else"}, {"exp": 1}):
        with pytest.raises(exceptions.InvalidRequest):
            client.auth.jwt.jwt_login("ci", cluster.token(**{**good, **change}))


def test_a_wrapped_response_opens_once(vault: FakeVault, root: hvac.Client) -> None:
    root.sys.enable_auth_method("approle")
    root.auth.approle.create_or_update_approle("bursar")
    wrapped = root.auth.approle.generate_secret_id("bursar", wrap_ttl="60s")["wrap_info"]
    assert wrapped["creation_path"] == "auth/approle/role/bursar/secret-id"
    client = hvac.Client(vault.url)
    assert client.sys.unwrap(wrapped["token"])["data"]["secret_id"]
    with pytest.raises(exceptions.InvalidRequest, match="wrapping token is not valid"):
        client.sys.unwrap(wrapped["token"])


def test_leases_are_renewed_up_to_their_end_and_revoked(vault: FakeVault, root: hvac.Client) -> None:
    root.sys.enable_secrets_engine("llm", path="openai")
    engine = vault.spaces[""].engines["openai"]
    engine.ttl, engine.max_ttl = 60, 100  # type: ignore[union-attr]
    made = root.read("openai/creds/inference")
    assert (made["lease_duration"], made["renewable"]) == (60, True)
    vault.advance(50)
    assert root.sys.renew_lease(made["lease_id"])["lease_duration"] == 50
    root.sys.revoke_lease(made["lease_id"])
    with pytest.raises(exceptions.InvalidRequest, match="lease not found"):
        root.sys.renew_lease(made["lease_id"])
