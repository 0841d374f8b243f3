"""What this node is: the fields of `bursar.yaml`, their kinds and their defaults, as one frozen tree of values.

Tenants are not here but in the directory. Spans are ``250ms``, ``30s``, ``1h30m`` or a number of seconds; sizes
``64kB``, ``32MiB`` or a number of bytes. `bursar.config.load` reads and checks; a process that is handed a checked tree
needs only this module.
"""

from typing import Annotated, Literal

import msgspec

from bursar.config.batches import Batches
from bursar.config.breaker import Breaker
from bursar.config.explain import Explain
from bursar.config.ids import Ids
from bursar.config.observe import Observe
from bursar.config.spans import Seconds, Size
from bursar.core.roles import Role

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Quirk = Literal["no_stream_options", "max_tokens_only", "max_completion_tokens_only", "no_usage"]
AuthHeader = Literal["bearer", "x-api-key", "api-key", "none"]


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files of the data port; re-read when they change."""

    cert: str
    key: str


class DataListener(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Port = 4000
    tls: Tls | None = None
    proxies: tuple[str, ...] = ()  # CIDR blocks of proxies in front, whose word on the caller's address is taken
    forwarded_header: str = "x-forwarded-for"  # in which they say it


class AdminListener(msgspec.Struct, frozen=True, kw_only=True):
    """`hosts`: further names under which the admin API may be called; anything else is refused (DNS rebinding)."""

    host: str = "127.0.0.1"
    port: Port = 4001
    hosts: tuple[str, ...] = ()


class MetricsListener(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Port = 4002


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    data: DataListener = DataListener()
    admin: AdminListener = AdminListener()
    metrics: MetricsListener = MetricsListener()


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """Caps and deadlines of the data port. The head's cap (64 kB) is law, not configuration."""

    max_body: Size = 32 * 2**20
    max_connections: Count = 20_000
    max_bytes_in_flight: Size = 512 * 2**20
    head_timeout: Seconds = 10
    body_timeout: Seconds = 60
    idle_timeout: Seconds = 75
    min_body_rate: Size = 1024  # bytes per second, once the body is a few seconds old


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines of one exchange with a provider."""

    connect: Seconds = 10
    head: Seconds = 600  # request sent -> status line
    first_byte: Seconds = 600  # status line -> first byte of the body
    between_bytes: Seconds = 120
    total: Seconds = 1800


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream. Its keys are not here: `bursar secrets put` seals them."""

    dialect: Literal["openai", "anthropic"]
    base_url: str
    auth: AuthHeader = "bearer"
    headers: dict[str, str] = {}  # added to each request; no credentials
    quirks: tuple[Quirk, ...] = ()
    models: tuple[str, ...] = ()  # globs of the model names served here
    deployments: dict[str, str] = {}  # the upstream's own name -> the model by which it is priced
    prices: str = ""  # the provider of the price table whose prices hold here; "" = the one of the same name
    allow_private: bool = False  # base_url may lie in a private network (vLLM, Ollama, ...)
    timeouts: Timeouts = Timeouts()
    enabled: bool = True


class AwsKms(msgspec.Struct, frozen=True, kw_only=True):
    """A key in AWS KMS. Credentials come from where boto3 looks for them."""

    key: str  # id, ARN or alias/name
    region: str = ""  # "" = as boto3 finds it
    endpoint: str = ""  # "" = AWS's own
    timeout: Seconds = 5  # of each of two attempts


class Transit(msgspec.Struct, frozen=True, kw_only=True):
    """A key in the transit engine of Vault or OpenBao, and how this node logs in there.

    What the login shows (a token, an AppRole's secret id, a JWT) comes from `credential_file`, read anew at each
    login, else from the variable that `credential_env` names.
    """

    url: str
    key: str = "bursar"
    mount: str = "transit"
    namespace: str = ""
    login: Literal["token", "approle", "kubernetes", "jwt"] = "token"
    login_mount: str = ""  # "" = the login's own name
    role: str = ""  # of the login; for approle the role id
    credential_file: str = ""
    credential_env: str = "BURSAR_VAULT_TOKEN"
    ca: str = ""  # PEM file; "" = certifi's
    timeout: Seconds = 5  # of each call


class Wrapper(msgspec.Struct, frozen=True, kw_only=True):
    """Where the key-encryption key comes from. `path` empty = `wrapping.key` in the data folder."""

    kind: Literal["keyfile", "passphrase", "transit", "awskms"] = "keyfile"
    path: str = ""  # keyfile only
    passphrase_env: str = "BURSAR_PASSPHRASE"  # noqa: S105 - the name of the variable, not its value
    transit: Transit | None = None
    awskms: AwsKms | None = None


class FileSink(msgspec.Struct, frozen=True, kw_only=True):
    """A further copy of the audit, as JSON lines."""

    path: str
    required: bool = False  # True: nothing is released while it cannot be written


class Sink(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver of the audit elsewhere. Its credential is read from a variable or a file, never from here."""

    name: str
    kind: Literal["syslog", "ocsf", "webhook"]
    url: str  # tcp://host:port or tls://host:port for syslog, https://... for the others
    format: Literal["rfc5424", "cef"] = "rfc5424"  # syslog only: what its messages hold
    required: bool = False  # True: nothing is released while it does not take records
    timeout: Seconds = 5
    secret_env: str = ""  # the variable that holds the webhook's signing key, or the bearer token for ocsf
    secret_file: str = ""  # ... or the file that does
    ca: str = ""  # PEM file of the authorities that are trusted; empty: the usual ones
    cert: str = ""  # PEM files with which Bursar shows itself to a syslog receiver
    key: str = ""
    allow_private: bool = False  # an http(s) address may lie in a private network


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long the audit keeps records, by class of acts. 0 = for ever."""

    uses: Seconds = 0  # counts of uses under a lease
    releases: Seconds = 0  # provider keys released to a node
    reads: Seconds = 0  # searches, exports, proofs
    access: Seconds = 0  # logins, tokens, wrong guesses
    events: Seconds = 0  # what the ledger and the providers told
    changes: Seconds = 0  # everything else


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """`audit.db` in the data folder always is a sink; these come on top."""

    files: tuple[FileSink, ...] = ()
    sinks: tuple[Sink, ...] = ()
    checkpoints: str = ""  # where the signed checkpoints go; empty: audit-checkpoints.jsonl in the data folder
    timeout: Seconds = 5  # of the trail, the files and the checkpoints
    retention: Retention = Retention()
    spool: Count = 1_000_000  # records that wait for a sink that is away before retention may take them


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """Where money, directory, audit and sealed secrets lie. `embedded` = the data folder, one node.

    `postgres` = one database, many nodes (the extra [postgres]). Its URL comes from `url` (no password in it), else
    from the file `url_file`, else from the variable that `url_env` names; each process reads it at its start.
    """

    kind: Literal["embedded", "postgres"] = "embedded"
    url: str = ""
    url_file: str = ""
    url_env: str = "BURSAR_STORE_URL"
    schema: str = "bursar"  # of the database; all tables lie in it
    connections: Count = 8  # a process has open at most
    pooler: Literal["none", "transaction"] = "none"  # transaction: pgbouncer stands between, in that mode
    connect_timeout: Seconds = 5
    statement_timeout: Seconds = 5


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests, tokens and slots of all limits are counted. `memory` = in each gateway by itself.

    `redis` = shared by all nodes (the extra [redis]). Its URL comes from `url` (no password in it), else from the file
    `url_file`, else from the variable that `url_env` names; the gateway reads it at its start.
    """

    kind: Literal["memory", "redis"] = "memory"
    url: str = ""
    url_file: str = ""
    url_env: str = "BURSAR_RATES_URL"
    ca_file: str = ""  # PEM file of the authorities that are trusted with rediss://; empty: the usual ones
    prefix: str = "bursar"  # of every name in Redis
    wait: Seconds = 0.25  # a call waits at most so long; above that the node decides alone
    nodes: Count = 1  # among how many a limit is shared out where nobody can be asked; more, if more were seen


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    top_keys: Count = 50  # keys with series of their own; the rest is "other"


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that this broker issues at the data port. `issuer` empty = the data port's own address."""

    issuer: str = ""  # under which callers and other verifiers know it: https://bursar.example.org
    life: Seconds = 900  # of a token for a virtual key, unless less is asked for
    rotate_every: Seconds = 30 * 86_400  # the key that signs
    http_loopback: bool = False  # issuers on this machine may be asked without TLS


class Oidc(msgspec.Struct, frozen=True, kw_only=True):
    """The issuer at which people log in to the admin API. Without a secret this node is a public client there."""

    issuer: str  # exactly as in its tokens
    client_id: str
    client_secret_env: str = ""  # the variable that holds the secret
    client_secret_file: str = ""  # ... or the file that does
    redirect_url: str = ""  # as registered at the issuer; empty: /login/callback at the admin listener
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    claim: str = "groups"  # of the ID token; a/b is b inside a
    roles: dict[str, Role]  # value of the claim -> role; the highest that fits counts
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")  # by which ID tokens may be signed
    session: Seconds = 8 * 3600
    allow_private: bool = False  # the issuer may lie in a private network


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """Who may enter the admin API besides the holders of tokens."""

    oidc: Oidc | None = None


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """In front of a store that lies elsewhere."""

    ttl: Seconds = 60  # how long an answer is believed
    negative_ttl: Seconds = 5  # how long "there is none" and "not permitted" are
    stale: Seconds = 3600  # how long after its ttl an answer serves while the store is away


class VaultLogin(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown comes from `file`, else from the variable `env`: a token, a secret id or a JWT; never from here."""

    method: Literal["token", "approle", "kubernetes", "jwt"] = "token"
    mount: str = ""  # of the login method; empty = its own name
    role: str = ""  # role id of approle, role of kubernetes and jwt
    file: str = ""  # read anew at each login
    env: str = "VAULT_TOKEN"  # used where `file` is empty
    wrapped: bool = False  # it is a response-wrapping token, opened once


class Leased(msgspec.Struct, frozen=True, kw_only=True):
    """A credential that a dynamic engine of Vault makes at each read."""

    path: str  # openai/creds/inference
    address: str
    field: str = "api_key"
    tags: dict[str, str] = {}


class VaultStore(msgspec.Struct, frozen=True, kw_only=True):
    """HashiCorp Vault or OpenBao: a KV engine of version 2."""

    url: str
    namespace: str = ""
    mount: str = "secret"
    path: str = "bursar/{provider}/{model}/{key_type}/{environment}/{team}"  # of an entry within the mount
    address: dict[str, str] = {}  # parts of the address that neither path nor fields give
    value_field: str = "value"
    tags_in: Literal["custom_metadata", "data"] = "custom_metadata"
    tags: dict[str, str] = {}  # of every entry that has none of that name
    login: VaultLogin = VaultLogin()
    leased: tuple[Leased, ...] = ()
    ca_file: str = ""  # PEM bundle instead of the built-in one
    timeout: Seconds = 5
    cache: Cache = Cache()


class AwsStore(msgspec.Struct, frozen=True, kw_only=True):
    """AWS Secrets Manager, the extra [aws]. Who comes in is decided by AWS's own chain of credentials."""

    region: str = ""  # empty: as AWS_REGION says
    profile: str = ""
    endpoint: str = ""  # of a private endpoint
    path: str = "bursar/{provider}/{model}/{key_type}/{environment}/{team}"
    address: dict[str, str] = {}
    value_field: str = ""  # empty: the whole text is the key; else it is JSON, and the other fields are tags
    tags: dict[str, str] = {}
    timeout: Seconds = 5
    cache: Cache = Cache()


class MountedStore(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that Kubernetes, the CSI driver or an agent fills. For reading only."""

    folder: str
    path: str = "{provider}"  # of a file within it
    address: dict[str, str] = {}
    format: Literal["text", "json"] = "text"
    value_field: str = "value"  # json only
    tags: dict[str, str] = {}


class EnvironmentKey(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    tags: dict[str, str] = {}


class EnvironmentStore(msgspec.Struct, frozen=True, kw_only=True):
    """Variables that hold provider keys. For reading only; only control sees them."""

    variables: dict[str, EnvironmentKey]


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Stores of provider keys beside the sealed one of the node, each under a name of its own."""

    default: str = "embedded"  # where new entries go
    reveal: bool = False  # may an admin read a value in clear?
    refresh: Seconds = 10  # how often the stores are looked through for what others changed
    vault: dict[str, VaultStore] = {}
    aws: dict[str, AwsStore] = {}
    mounted: dict[str, MountedStore] = {}
    environment: dict[str, EnvironmentStore] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole tree, as checked."""

    node: str = "main"
    data: str = "bursar-data"  # folder; relative to the working directory
    listen: Listen = Listen()
    wire: Wire = Wire()
    durability: Literal["process", "power"] = "process"
    store: Store = Store()
    rates: Rates = Rates()
    breaker: Breaker = Breaker()
    wrapper: Wrapper = Wrapper()  # new secrets are sealed under it
    former_wrappers: tuple[Wrapper, ...] = ()  # may still open what was sealed under them
    secrets: Secrets = Secrets()
    providers: dict[str, Provider] = {}
    emulator: Literal["auto", "off"] = "auto"  # auto: answers while no provider key is stored
    audit: Audit = Audit()
    metrics: Metrics = Metrics()
    explain: Explain = Explain()
    observe: Observe = Observe()
    tokens: Tokens = Tokens()
    admin: Admin = Admin()
    ids: Ids = Ids()
    batches: Batches = Batches()
    drain: Seconds = 30  # how long open streams may run on after a stop


BUILTIN_PROVIDERS: dict[str, dict[str, object]] = {
    "openai": {
        "dialect": "openai",
        "base_url": "https://api.openai.com/v1",
        "models": ["gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "codex-*", "text-embedding-*", "davinci-*", "babbage-*"],
    },
    "anthropic": {
        "dialect": "anthropic",
        "base_url": "https://api.anthropic.com",
        "auth": "x-api-key",
        "models": ["claude-*"],
    },
}


def issuer_of(config: Config) -> str:
    """The address under which this broker issues tokens: as configured, else that of its data port."""
    if config.tokens.issuer:
        return config.tokens.issuer
    data = config.listen.data
    host = "127.0.0.1" if data.host in ("0.0.0.0", "::", "localhost") else data.host  # noqa: S104 - named, not bound
    return f"{'https' if data.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{data.port}"
