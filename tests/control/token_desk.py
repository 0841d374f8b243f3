"""Everything in control that issues tokens, over a real directory; the secret store is a dict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bursar.control.federation import Federation
from bursar.control.issuer_keys import IssuerKeys
from bursar.control.keys import KeyInput
from bursar.control.signing_keys import SigningKeys
from bursar.control.token_marks import TokenMarks
from bursar.control.tokens import Issued, Tokens, Wish
from bursar.control.trust import TrustRules
from bursar.core.access_tokens import read_claims, take_apart
from bursar.core.directory import Policy
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.faces.oauth import OAuth
from tests.control.issuers import AUDIENCE
from tests.control.tenants import ACTOR, PEPPER, SeededEntropy, Tenants


class DictVault:
    """`bursar.control.signing_keys.Vault`."""

    def __init__(self) -> None:
        self.kept: dict[str, Secret] = {}

    async def internal(self, name: str, create: Callable[[], Secret]) -> Secret:
        return self.kept.setdefault(name, create())

    async def set_internal(self, name: str, value: Secret) -> None:
        self.kept[name] = value


class Web:
    """What is to be found where; an address that is not there is an issuer that is away."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def __call__(self, url: str, *, private: bool) -> bytes:
        del private
        self.asked.append(url)
        if url not in self.pages:
            raise Refusal("subject_keys_unavailable", "The issuer cannot be read", retry_after=30)
        return self.pages[url]


class TokenDesk(Tenants):
    def __init__(self, folder: Path, vault: DictVault | None = None) -> None:
        super().__init__(folder)
        self.web, self.vault, self.entropy = Web(), vault or DictVault(), SeededEntropy()
        marks = TokenMarks(self.directory)
        self.signing = SigningKeys(self.vault, self.directory, self.entropy)
        self.federation = Federation(self.directory, IssuerKeys(self.web, self.clock), marks)
        self.tokens = Tokens(
            self.directory,
            self.audit,
            self.signing,
            self.entropy,
            pepper=PEPPER,
            issuer=AUDIENCE,
            life_s=900,
            marks=marks,
            federation=self.federation,
        )
        self.oauth = OAuth(self.tokens)
        self.trust = TrustRules(self.directory)

    async def key(self, policy: Policy | None = None, team: Policy | None = None, **more: Any) -> Secret:
        """A key of the team `search`, which is made if need be."""
        if not self.teams.all():
            await self.team(team)
        minted = await self.keys.create(ACTOR, "search", KeyInput(name="app", policy=policy or Policy(), **more))
        return minted.text

    async def exchange(self, subject: str | Secret, scope: str = "", **more: Any) -> Issued:
        text = subject if isinstance(subject, Secret) else Secret(subject)
        return await self.tokens.exchange(Wish(subject=text, scope=scope, address="127.0.0.1", **more))

    def claims(self, issued: Issued) -> Any:
        return read_claims(take_apart(issued.text.reveal()).payload, AUDIENCE, self.clock.now())
