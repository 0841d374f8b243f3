"""What control knows of tenants, as the gateway holds it: owners, teams, keys, policies, limits, budgets.

Plain values with stable ids, sent over `link` as one snapshot and then as versioned deltas. Amounts are pico-USD,
instants nanoseconds since the epoch. `bursar.core.policy` compiles a key and its team into one effective policy.

There may be hundreds of thousands: they hold no cycles, so the collector need not look at them (`gc=False`), and what
is left at its default is not written.
"""

from typing import Literal, NamedTuple, TypeVar

import msgspec

from bursar.core.roles import Role

Mode = Literal["off", "shadow", "enforce"]
OverMax = Literal["clamp", "refuse"]
LimitUnit = Literal["requests", "tokens", "input_tokens", "output_tokens", "concurrency"]
SubjectKind = Literal["key", "user", "team", "owner", "tag", "model", "provider_key", "node"]
WindowKind = Literal["calendar", "rolling", "lifetime"]
Period = Literal["day", "week", "month", "year"]
IssuerKind = Literal["oidc", "kubernetes", "github", "gitlab", "spiffe"]


class LimitDef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One rate limit. `requests` 60 per 60 s with burst 10; `concurrency` 8 (no period, no burst)."""

    id: str = ""  # unique in its policy; control names it after scope, unit and span when left out
    unit: LimitUnit
    amount: int  # units per `per_seconds`; for concurrency: calls in flight
    per_seconds: int = 60
    burst: int | None = None  # bucket size; None = `amount`
    scope: SubjectKind = "key"  # what gets a counter of its own
    on_outage: Literal["open", "closed"] = "open"  # rates' store away: this node's share is granted, or nothing is
    mode: Mode | None = None  # None = that of its policy's limits


class WindowDef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When a budget starts anew. Computed from the clock, never by a job."""

    kind: WindowKind = "calendar"
    period: Period = "month"  # calendar only
    zone: str = "UTC"  # IANA name, calendar only
    week_start: int = 0  # 0 = Monday, calendar weeks only
    seconds: int = 0  # rolling only


class BudgetDef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A money limit on one subject. Hard budgets keep the money promise; soft ones refuse on expected cost."""

    id: str
    version: int
    subject_kind: SubjectKind
    subject: str
    limit_pico: int
    hard: bool = True
    window: WindowDef = WindowDef()
    thresholds: tuple[int, ...] = (50, 80, 95, 100)  # percent of the limit at which the owner is told
    name: str = ""
    mode: Mode = "enforce"
    deleted: bool = False


class Policy(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Rules on a team or a key. None = says nothing (inherits). A key can only narrow what its team allows."""

    models: tuple[str, ...] | None = None  # names or globs; "*" = any
    purposes: tuple[str, ...] | None = None
    max_tokens_profile: Literal["conservative", "standard"] | None = None  # 256 / 512 by default
    max_tokens_default: int | None = None
    max_tokens_cap: int | None = None
    over_max_tokens: OverMax | None = None
    max_input_tokens: int | None = None
    max_prompt_chars: int | None = None
    external: bool | None = None  # prompts come from outside: smaller caps
    user_header: str | None = None  # header whose value this key is trusted to give as the user
    user_missing: Literal["deny", "shared"] | None = None
    unpriced: Literal["refuse", "assume_dearest"] | None = None
    unknown_fields: Literal["refuse", "allow"] | None = None  # under a hard budget
    tool_uses_cap: int | None = None  # injected into server-side tools that came without a cap
    on_disconnect: Literal["drain", "abort"] | None = None
    shrink_to_budget: bool | None = None  # lower max_tokens to what the budget affords instead of refusing
    stop: tuple[str, ...] | None = None  # stop sequences to inject
    networks: tuple[str, ...] | None = None  # CIDR blocks that callers must come from
    limits: tuple[LimitDef, ...] = ()
    modes: dict[str, Mode] = {}  # control (bursar.core.controls) -> mode, e.g. {"limits": "shadow", "models": "off"}


class Owner(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A billing owner: who pays, and who is told."""

    id: str
    name: str
    contacts: tuple[str, ...] = ()


class Team(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    id: str
    name: str
    owner_id: str
    policy: Policy = Policy()
    disabled: bool = False
    tags: tuple[str, ...] = ()


class KeySecret(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One accepted secret of a virtual key; during an overlap rotation a key has two. The digest is keyed."""

    digest: bytes
    expires_at: int | None = None  # ns; end of the overlap for a replaced secret
    provider: bool = False  # of a provider key that its application still presents (observe mode)


class Observed(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What is known of an application that came with its own provider key, and changed only the base URL."""

    provider: str  # as configured: the only place to which the presented key is ever sent
    since: int  # ns: when its first answer came
    owner: str = ""  # billing owner in the place of its team's; "" = nobody has said
    purpose: str = ""  # in a person's words
    secret_id: str = ""  # of the provider key in the vault, once it is sealed: from then on that one is used
    sealed_at: int = 0  # ns


class VirtualKey(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    id: str  # public id, stable across rotations
    name: str
    team_id: str
    secrets: tuple[KeySecret, ...]
    policy: Policy = Policy()
    expires_at: int | None = None  # ns
    disabled: bool = False
    tags: tuple[str, ...] = ()
    observed: Observed | None = None  # it came into being by a provider key at the door


class ProviderKey(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A provider key's entry without its value. Tags bind: they are enforced at use."""

    id: str
    version: int
    address: str  # provider/model/key_type/environment/team, "*" where it does not narrow
    billing_owner: str  # "unassigned" until tagged
    purposes: tuple[str, ...] = ("inference",)
    allowed_models: tuple[str, ...] = ("*",)
    max_tokens_default: int | None = None
    disabled: bool = False
    tags: dict[str, str] = {}
    store: str = "embedded"  # where its value lies


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody, or some program, that may enter the admin API. Control's own: no gateway is told of it."""

    id: str  # the token's public id
    name: str
    role: Role
    digest: bytes  # keyed, of the token's text
    expires_at: int | None = None  # ns
    disabled: bool = False


Act = Literal["use", "read", "write", "rotate"]


class AccessGrant(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what with which provider keys, besides what role and address say (`bursar.core.access`)."""

    id: str
    subject: str  # "team/search", "role/operator", "admin/abcdefgh2345"
    acts: tuple[Act, ...]
    path: str = "*/*/*/*/*"  # of the address, part by part; a part is a name, `*`, or a beginning: `prod-*`
    tags: dict[str, str] = {}  # the key's own must say the same
    expires_at: int | None = None  # ns


class Deployment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A name by which callers of the Azure paths ask, and the model that it stands for (`bursar.core.deployments`)."""

    id: str  # "chat-prod" for everybody, "search:chat-prod" for one team
    model: str


class BreakerMark(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """That a person has opened or closed a circuit (`bursar.core.circuits`): a provider, a provider key, or a provider
    key for one model.
    """

    id: str  # "provider/openai", "key/sec_1", "key/sec_1/gpt-4o"
    open: bool  # False: it was closed by hand, whatever was known of its failures
    at: int  # ns
    until: int | None = None  # ns; None = until it is closed
    by: str = ""
    reason: str = ""

    def shuts(self, now: int) -> bool:
        """Whether it keeps calls away now (ns)."""
        return self.open and (self.until is None or now < self.until)


class PriceOverride(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An operator's own dated price, appended, never edited. Rates are pico-USD per token."""

    provider: str
    model: str
    from_ns: int
    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    context_window: int | None = None
    max_output: int | None = None
    source: str = "operator"


class TrustRule(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens become Bursar tokens, and what those may do: issuer and claims -> team and policy.

    `match`: claim -> values or globs, one of which it must have. A claim inside another is named by a JSON pointer
    without its first slash (RFC 6901): ``kubernetes.io/namespace``.
    """

    id: str
    team_id: str
    kind: IssuerKind = "oidc"
    issuer: str  # the `iss`, exactly; for SPIFFE bundles the trust domain, spiffe://example.org
    audience: str  # one of the token's `aud`, exactly
    match: dict[str, tuple[str, ...]]
    jwks: str = ""  # https address, path of a file, or the JWK set itself; "" = by the issuer's discovery document
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    single_use: bool = False  # a subject token is taken once
    life_s: int = 900  # the most that an issued token lives
    allow_private: bool = False  # the issuer may lie in a private network
    disabled: bool = False


class TokenKey(msgspec.Struct, frozen=True, kw_only=True):
    """One public key under which Bursar's own tokens are read. The private half never leaves control."""

    id: str  # `kid`: the thumbprint of RFC 7638
    public: bytes  # Ed25519, 32 bytes
    until: int | None = None  # ns; None = signs now or will sign next


class TokenMark(msgspec.Struct, frozen=True, kw_only=True):
    """What must be remembered of one token until it has expired anyway: that it is revoked, or was used up."""

    id: str  # "revoked/<jti>", "used/<digest of issuer and jti>"
    until: int  # ns


def revoked_mark(jti: str) -> str:
    """The id of the mark that revokes a token. In a fleet the act of holding money looks for it, by this name."""
    return f"revoked/{jti}"


class Managed(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """That an entity is kept in files, and refuses other hands. Control's own."""

    id: str  # "team/search": kind and id of what is kept so
    source: str  # "git", "git:platform"
    name: str = ""  # of a key in its file, where that is not its id
    file: str = ""
    by: str = ""  # who applied it last
    at: int = 0  # ns
    applied: str = ""  # digest of what the file said then: what differs from it was changed by another hand


Kind = Literal[
    "owner",
    "team",
    "key",
    "budget",
    "provider_key",
    "price",
    "admin",
    "trust",
    "token_key",
    "token_mark",
    "grant",
    "deployment",
    "breaker",
    "managed",
]
Tenant = Owner | Team | VirtualKey | BudgetDef
Controls = Admin | TrustRule | TokenKey | TokenMark | AccessGrant | Managed
Entity = Tenant | ProviderKey | PriceOverride | Deployment | BreakerMark | Controls


class Snapshot(msgspec.Struct, kw_only=True):
    """The whole directory at one version."""

    version: int
    owners: list[Owner] = []
    teams: list[Team] = []
    keys: list[VirtualKey] = []
    budgets: list[BudgetDef] = []
    provider_keys: list[ProviderKey] = []
    prices: list[PriceOverride] = []
    admins: list[Admin] = []
    trust: list[TrustRule] = []
    token_keys: list[TokenKey] = []
    token_marks: list[TokenMark] = []
    grants: list[AccessGrant] = []
    deployments: list[Deployment] = []
    breakers: list[BreakerMark] = []
    managed: list[Managed] = []


class Delta(msgspec.Struct, kw_only=True):
    """Changes from `version - 1` to `version`: full new values, and the ids that are gone as (kind, id)."""

    version: int
    owners: list[Owner] = []
    teams: list[Team] = []
    keys: list[VirtualKey] = []
    budgets: list[BudgetDef] = []
    provider_keys: list[ProviderKey] = []
    prices: list[PriceOverride] = []
    admins: list[Admin] = []
    trust: list[TrustRule] = []
    token_keys: list[TokenKey] = []
    token_marks: list[TokenMark] = []
    grants: list[AccessGrant] = []
    deployments: list[Deployment] = []
    breakers: list[BreakerMark] = []
    managed: list[Managed] = []
    gone: list[tuple[str, str]] = []


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """What one version did to one entity, and who did it. None = it was, or is, not there."""

    version: int
    action: str
    actor: str
    at_ns: int
    kind: Kind
    id: str
    before: Entity | None
    after: Entity | None


class KindRow(NamedTuple):
    """How one kind of entity is named in a Snapshot or Delta, and as what it is read back."""

    field: str
    type: type[Entity]
    private: bool = False  # stays in control


KINDS: dict[Kind, KindRow] = {
    "owner": KindRow("owners", Owner),
    "team": KindRow("teams", Team),
    "key": KindRow("keys", VirtualKey),
    "budget": KindRow("budgets", BudgetDef),
    "provider_key": KindRow("provider_keys", ProviderKey),
    "price": KindRow("prices", PriceOverride),
    "admin": KindRow("admins", Admin, private=True),
    "trust": KindRow("trust", TrustRule),
    "token_key": KindRow("token_keys", TokenKey),
    "token_mark": KindRow("token_marks", TokenMark),
    "grant": KindRow("grants", AccessGrant),
    "deployment": KindRow("deployments", Deployment),
    "breaker": KindRow("breakers", BreakerMark),
    "managed": KindRow("managed", Managed, private=True),
}
S = TypeVar("S", Snapshot, Delta)
_KIND_OF: dict[type, Kind] = {row.type: kind for kind, row in KINDS.items()}


def for_gateways(news: S) -> S:
    """What a gateway may know of a snapshot or a delta: the same version, without what is private to control."""
    private = {kind: row.field for kind, row in KINDS.items() if row.private}
    if not any(getattr(news, field) for field in private.values()) and not isinstance(news, Delta):
        return news
    kept = msgspec.structs.replace(news, **{field: [] for field in private.values()})
    if isinstance(kept, Delta):
        kept.gone = [(kind, name) for kind, name in kept.gone if kind not in private]
    return kept


def kind_of(entity: Entity) -> Kind:
    return _KIND_OF[type(entity)]


def id_of(entity: Entity) -> str:
    """The id by which an entity is stored and by which `Delta.gone` names it."""
    if isinstance(entity, PriceOverride):
        return f"{entity.provider}/{entity.model}@{entity.from_ns}"
    return entity.id
