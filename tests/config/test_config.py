"""bursar.yaml and the environment: every fault at once, where it stands, what was meant; no secret repeated."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.config import Config
from bursar.config.checks import check_files
from bursar.config.load import ConfigFaults, load
from bursar.config.spans import parse_size, parse_span


def loaded(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> Config:
    path = tmp_path / "bursar.yaml"
    path.write_text(text)
    return load(path, env or {})


def faults(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigFaults) as refused:
        loaded(tmp_path, text, env)
    told: dict[str, str] = {}
    for fault in refused.value.faults:
        told[fault.path] = f"{told.get(fault.path, '')}{fault.word}: {fault.message} {fault.hint}\n"
    return told


def test_without_file_and_environment_it_is_the_defaults() -> None:
    config = load(None, {})
    assert (config.listen.data.port, config.listen.admin.port, config.listen.metrics.port) == (4000, 4001, 4002)
    assert {listener.host for listener in (config.listen.data, config.listen.admin, config.listen.metrics)} == {
        "127.0.0.1"
    }
    assert set(config.providers) == {"openai", "anthropic"}


def test_the_tree_travels_as_json() -> None:
    config = load(None, {})
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


MANY = """\
dat: /srv
durability: powerr
listen:
  data: {port: 70000, tls: {cert: a.pem}}
  admin: {port: 4002}
wire:
  max_body: 32 parsecs
  head_timeout: soon
  max_body: 3
providers:
  openai:
    quirks: [no_stream_option]
    headers: {Authorization: "Bearer sk-secret-value"}
  local: {dialect: openai, base_url: "http://127.0.0.1:8000/v1"}
  vllm: {dialect: opnai}
"""


def test_all_faults_are_told_at_once_with_their_places_and_what_was_meant(tmp_path: Path) -> None:
    told = faults(tmp_path, MANY, {"BURSAR_METRICS__TOP_KEYS": "many"})
    expected = {
        "dat": "did you mean `data`",
        "durability": "did you mean `power`",
        "listen.data.port": "above 65535",
        "listen.data.tls.key": "is required",
        "listen.metrics.port": "also the port of listen.admin",
        "wire.max_body": "lines 7 and 9",
        "wire.head_timeout": "write 250ms, 30s, 1h30m",
        "providers.openai.quirks[0]": "did you mean `no_stream_options`",
        "providers.openai.headers.Authorization": "bursar secrets put",
        "providers.local.base_url": "allow_private: true",
        "providers.local.models": 'models: ["*"]',
        "providers.vllm.dialect": "did you mean `openai`",
        "providers.vllm.base_url": "is required",
        "metrics.top_keys": "BURSAR_METRICS__TOP_KEYS",
    }
    assert set(told) >= set(expected)
    for path, part in expected.items():
        assert part in told[path], told[path]
    assert "(line 2)" in told["durability"]
    assert "(line 14)" in told["providers.local.base_url"]


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    secret = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"
    text = f"""
durability: {secret}
drain: {secret}
listen: {{data: {{port: {secret}}}}}
providers:
  openai: {{base_url: "https://user:{secret}@api.openai.com/v1", headers: {{x-api-key: {secret}}}}}
"""
    with pytest.raises(ConfigFaults) as refused:
        loaded(tmp_path, text)
    assert len(refused.value.faults) == 5
    assert "0123456789abcdef" not in str(refused.value) + repr(refused.value.faults)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "is not YAML"),
        ("- a\n- b", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("listen: &l {data: *l}", ""),
        ("data: \x00", "is not YAML"),
    ],
)
def test_what_is_no_mapping_is_one_fault(tmp_path: Path, text: str, part: str) -> None:
    assert any(part in told for told in faults(tmp_path, text).values())


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"data: \xff\xfe")
    with pytest.raises(ConfigFaults, match="not YAML"):
        load(tmp_path / "x.yaml", {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="No such file"):
        load(tmp_path / "nowhere.yaml", {})


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, "# nothing\n") == load(None, {})


def test_a_named_builtin_is_merged_field_by_field(tmp_path: Path) -> None:
    config = loaded(tmp_path, "providers: {openai: {timeouts: {connect: 3s}}, anthropic: }")
    assert config.providers["openai"].timeouts.connect == 3
    assert config.providers["openai"].base_url == "https://api.openai.com/v1"
    assert config.providers["anthropic"].auth == "x-api-key"


# ---- the environment


def test_every_field_can_be_set_from_the_environment(tmp_path: Path) -> None:
    env = {
        "BURSAR_DATA": "123",
        "BURSAR_LISTEN__DATA__PORT": "8443",
        "BURSAR_LISTEN__DATA__TLS__CERT": "c.pem",
        "BURSAR_LISTEN__DATA__TLS__KEY": "k.pem",
        "BURSAR_WIRE__MAX_BODY": "1MiB",
        "BURSAR_DRAIN": "1m30s",
        "BURSAR_PROVIDERS__OPENAI__MODELS": '["gpt-4o"]',
        "BURSAR_PROVIDERS__MY_VLLM__ALLOW_PRIVATE": "true",
        "BURSAR_AUDIT__FILES": "[{path: /var/log/bursar.jsonl, required: true}]",
    }
    text = 'providers: {my-vllm: {dialect: openai, base_url: "http://10.0.0.1/v1", models: ["*"]}}\nwire: {max_body: 5}'
    config = loaded(tmp_path, text, env)
    assert config.data == "123"
    assert config.listen.data.port == 8443
    assert config.listen.data.tls is not None
    assert config.wire.max_body == 2**20
    assert config.drain == 90
    assert config.providers["openai"].models == ("gpt-4o",)
    assert config.providers["my-vllm"].allow_private is True
    assert config.audit.files[0].required is True


def test_the_environment_never_changes_the_defaults_for_others() -> None:
    before = load(None, {})
    load(None, {"BURSAR_PROVIDERS__OPENAI__BASE_URL": "https://elsewhere.test/v1"})
    assert load(None, {}) == before


@pytest.mark.parametrize(
    "name", ["BURSAR_LISTN__DATA__PORT", "BURSAR_DATTA", "BURSAR_DATA__X", "BURSAR_LISTEN__DATA__PRT"]
)
def test_a_slip_in_a_variable_is_a_fault(name: str) -> None:
    with pytest.raises(ConfigFaults):
        load(None, {name: "1"})


def test_what_kubernetes_and_our_clients_set_is_left_alone() -> None:
    env = {
        "BURSAR_PORT": "tcp://10.0.0.1:4000",
        "BURSAR_PORT_4000_TCP_ADDR": "10.0.0.1",
        "BURSAR_SERVICE_HOST": "10.0.0.1",
        "BURSAR_ADMIN_TOKEN": "x",
        "BURSAR_CONFIG": "x",
        "BURSAR_API_KEY": "x",
        "BURSARY__X": "1",
    }
    assert load(None, env) == load(None, {})


# ---- single rules

PROVIDER = 'providers: {{p: {{dialect: openai, models: ["*"], base_url: "{url}", headers: {{{headers}}}}}}}'


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.test",
        "x.test/v1",
        "https://",
        "https://x.test:99999/v1",
        "https://x.test:abc",
        "https://x.test/v1?key=1",
        "https://x.test/#f",
        "http://x.test/v1",
        "https://127.0.0.1/v1",
        "https://169.254.169.254/latest",
        "https://[::1]/v1",
        "https://[fd00::1]/v1",
        "https://localhost/v1",
        "https://metadata.google.internal/v1",
        "https://[bad/v1",
    ],
)
def test_base_urls_that_are_refused(tmp_path: Path, url: str) -> None:
    assert "providers.p.base_url" in faults(tmp_path, PROVIDER.format(url=url, headers=""))


@pytest.mark.parametrize("header", ["Host: x", "X-Api-Key: x", '"bad header": x', '"x-a": "two\\nlines"', "TE: x"])
def test_headers_that_are_refused(tmp_path: Path, header: str) -> None:
    told = faults(tmp_path, PROVIDER.format(url="https://x.test/v1", headers=header))
    assert any(path.startswith("providers.p.headers.") for path in told)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("node: 'A b'", "node"),
        ("data: ''", "data"),
        ("wrapper: {kind: passphrase, path: /x}", "wrapper.path"),
        ("wire: {idle_timeout: 0}", "wire.idle_timeout"),
        ("wire: {max_body: 2GiB, max_bytes_in_flight: 1GiB}", "wire.max_body"),
        ("listen: {metrics: {host: ''}}", "listen.metrics.host"),
        ("metrics: {top_keys: 0}", "metrics.top_keys"),
        ("drain: -1", "drain"),
        ("drain: yes", "drain"),
        ("listen: 7", "listen"),
        ("providers: [openai]", "providers"),
        ("providers: {openai: 7}", "providers.openai"),
        ("providers: {7: {}}", "providers.7.dialect"),
        ("emulator: on", "emulator"),
    ],
)
def test_one_rule_each(tmp_path: Path, text: str, path: str) -> None:
    assert path in faults(tmp_path, text)


def test_words_that_yaml_1_1_takes_for_something_else(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, "emulator: off\nnode: no\ndata: 2026-01-01\nlisten: {data: {host: ~}}".replace("~", "1:30")
    )
    assert (config.emulator, config.node, config.data, config.listen.data.host) == ("off", "no", "2026-01-01", "1:30")


def test_a_provider_that_is_switched_off_is_not_checked(tmp_path: Path) -> None:
    loaded(tmp_path, "providers: {p: {dialect: openai, base_url: nonsense, enabled: false}}")


def test_files_that_must_exist_before_a_start(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("x")
    config = loaded(tmp_path, f"listen: {{data: {{tls: {{cert: {tmp_path}/c.pem, key: {tmp_path}/k.pem}}}}}}")
    assert [fault.path for fault in check_files(config)] == ["listen.data.tls.key"]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6))
def test_spans_and_sizes_read_what_people_write(number: int) -> None:
    assert parse_span(number) == parse_span(f"{number}s") == number
    assert parse_span(f"{number}ms") == number / 1000
    assert parse_size(f"{number}KiB") == parse_size(f"{number} KiB") == number * 1024
    assert parse_size(number) == number


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "port", "listen", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*Config.__struct_fields__, "x"]), JSON, max_size=4))
def test_any_tree_is_a_config_or_a_list_of_faults(tmp_path_factory: pytest.TempPathFactory, tree: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(msgspec.yaml.encode(tree))
    try:
        assert isinstance(load(path, {}), Config)
    except ConfigFaults as refused:
        told = refused.faults
    else:
        return
    assert told
    assert all(fault.word and fault.message for fault in told)


# ---- the store


def test_a_store_in_postgresql_is_checked_without_opening_it(tmp_path: Path) -> None:
    text = "store: {kind: postgres, url: 'postgresql://bursar@db.example.com/bursar?sslmode=verify-full'}"
    assert loaded(tmp_path, text).store.schema == "bursar"
    assert loaded(tmp_path, "store: {kind: postgres}").store.url_env == "BURSAR_STORE_URL"
    assert loaded(tmp_path, "store: {kind: postgres, url: 'postgresql://b@/b?host=/run/pg'}").store.url_file == ""


@pytest.mark.parametrize(
    ("store", "path", "said"),
    [
        ("kind: postgres, url: 'postgresql://b:hush@localhost/b'", "store.url", "holds a password"),
        ("kind: postgres, url: 'postgresql://b@localhost/b?password=hush'", "store.url", "holds a password"),
        ("kind: postgres, url: 'postgresql://b@10.0.0.7/b'", "store.url", "sslmode"),
        ("kind: postgres, url: 'postgresql://b@127.0.0.1,db2/b'", "store.url", "sslmode"),
        ("kind: postgres, url: 'mysql://b@localhost/b'", "store.url", "postgresql://"),
        ("kind: postgres, url: 'postgresql://b@localhost'", "store.url", "database"),
        ("kind: postgres, url: 'postgresql://b@localhost/b', url_file: /x", "store.url_file", "second place"),
        ("kind: postgres, url_env: 'no name'", "store.url_env", "variable"),
        ("kind: postgres, schema: 'x; drop'", "store.schema", "plain name"),
        ("kind: postgres, schema: pg_x", "store.schema", "plain name"),
        ("kind: postgres, statement_timeout: 0", "store.statement_timeout", "above zero"),
        ("url: 'postgresql://b@localhost/b'", "store.url", "embedded"),
        ("kind: sqlite", "store.kind", "postgres"),
    ],
)
def test_faults_of_a_store(tmp_path: Path, store: str, path: str, said: str) -> None:
    told = faults(tmp_path, f"store: {{{store}}}")
    assert said in told[path]
    assert "hush" not in str(told)


def test_a_url_file_must_exist(tmp_path: Path) -> None:
    config = loaded(tmp_path, "store: {kind: postgres, url_file: /nowhere/url}")
    assert [fault.path for fault in check_files(config)] == ["store.url_file"]


# ---- rates


def test_rates_in_redis_are_checked_without_opening_them(tmp_path: Path) -> None:
    assert loaded(tmp_path, "rates: {kind: redis}").rates.url_env == "BURSAR_RATES_URL"
    text = "rates: {kind: redis, url: 'rediss+sentinel://bursar@a:1,b:2/rates/0', nodes: 3, wait: 100ms}"
    assert loaded(tmp_path, text).rates.nodes == 3
    missing = loaded(tmp_path, "rates: {kind: redis, url_file: /nowhere/url, ca_file: /nowhere/ca}")
    assert [fault.path for fault in check_files(missing)] == ["rates.url_file", "rates.ca_file"]


@pytest.mark.parametrize(
    ("rates", "path", "said"),
    [
        ("kind: redis, url: 'redis://b:hush@localhost/0'", "rates.url", "holds a password"),
        ("kind: redis, url: 'redis+sentinel://h/s?sentinel_password=hush'", "rates.url", "holds a password"),
        ("kind: redis, url: 'http://localhost/0'", "rates.url", "not a URL of Redis"),
        ("kind: redis, url: 'redis://h/0', url_file: /x", "rates.url_file", "second place"),
        ("kind: redis, url_env: 'no name'", "rates.url_env", "variable"),
        ("kind: redis, prefix: 'a b'", "rates.prefix", "name"),
        ("kind: redis, wait: 300ms", "rates.wait", "250ms"),
        ("kind: redis, nodes: 0", "rates.nodes", "1"),
        ("url: 'redis://h/0'", "rates.url", "memory"),
    ],
)
def test_faults_of_rates(tmp_path: Path, rates: str, path: str, said: str) -> None:
    told = faults(tmp_path, f"rates: {{{rates}}}")
    assert said in told[path]
    assert "hush" not in str(told)
