"""The use cases of control, each built once from what was opened, and handed to the doors as one value."""

from collections.abc import MutableMapping

from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.fetching import Fetcher
from bursar.app.logins import build_logins
from bursar.app.secret_stores import Opened, policy_places
from bursar.app.spec import NodeSpec
from bursar.app.stores import Stores
from bursar.app.trail import Trail
from bursar.config import issuer_of
from bursar.control.access import Access
from bursar.control.admins import Admins
from bursar.control.breakers import Breakers
from bursar.control.budgets import Budgets
from bursar.control.checklist import Checklist
from bursar.control.decisions import Decisions
from bursar.control.deployments import Deployments
from bursar.control.directory import Directory
from bursar.control.explain import Explainer
from bursar.control.federation import Federation
from bursar.control.history import History
from bursar.control.issuer_keys import IssuerKeys
from bursar.control.key_map import KeyMap
from bursar.control.keys import Keys
from bursar.control.manifests import Manifests
from bursar.control.observed_uses import ObservedUses
from bursar.control.observing import Observing
from bursar.control.owners import Owners
from bursar.control.prices import Prices
from bursar.control.promotion import Promotions
from bursar.control.provider_key_imports import Imports
from bursar.control.provider_keys import ProviderKeys
from bursar.control.replay_feed import ReplayFeed
from bursar.control.restored import RestoredNode
from bursar.control.shadow import Shadow
from bursar.control.signing_keys import SigningKeys
from bursar.control.status import StatusBoard
from bursar.control.tag_sheets import TagSheets
from bursar.control.teams import Teams
from bursar.control.token_marks import TokenMarks
from bursar.control.tokens import Tokens
from bursar.control.trust import TrustRules
from bursar.control.usage import Usage
from bursar.control.wrapping_keys import WrappingKeys
from bursar.core.directory import ProviderKey
from bursar.faces.admin_calls import Services
from bursar.secrets.wrap.recovery import RecoveryWrapper
from bursar.stores.catalogue import load as load_catalogue
from bursar.wire.client import Client


class UseCases:
    """What can be done at this node, whichever door it is asked at."""

    def __init__(
        self,
        spec: NodeSpec,
        env: MutableMapping[str, str],
        stores: Stores,
        secrets: Opened,
        trail: Trail,
        client: Client,
    ) -> None:
        self._spec, self._stores, self._secrets, self._trail = spec, stores, secrets, trail
        self._clock, self._entropy = SystemClock(), SystemEntropy()
        pepper, config = stores.vault.pepper, spec.config
        self.directory = Directory(stores.present, stores.directory, trail.log, self._clock, trail.people.digest)
        self.admins = Admins(self.directory, self._entropy, pepper)
        self.owners, self.teams = Owners(self.directory), Teams(self.directory)
        self.keys = Keys(self.directory, self._entropy, pepper)
        self.budgets = Budgets(self.directory)
        secrets.stores.lies_in = self._lies_in
        providers = list(config.providers)
        self.provider_keys = ProviderKeys(
            self.directory, secrets.stores, trail.log, providers, may_reveal=config.secrets.reveal
        )
        observe = config.observe
        self.observing = Observing(
            self.directory,
            self.provider_keys,
            self._entropy,
            pepper,
            team=observe.team if observe.enabled else "",
            most=observe.most,
        )
        self.wrapping_keys = WrappingKeys(stores.vault.store, trail.log, RecoveryWrapper)
        self.prices = Prices(self.directory, load_catalogue(), providers)
        self.breakers = Breakers(self.directory, providers)
        fetch = Fetcher(client, http_loopback=config.tokens.http_loopback)
        self.login = build_logins(config, env, trail.log, fetch, self._clock, self._entropy, pepper)
        self.decisions = Decisions(stores.decisions, self._clock, keep_s=config.explain.keep, most=config.explain.most)
        self._build_tokens(fetch)

    def _build_tokens(self, fetch: Fetcher) -> None:
        config, marks = self._spec.config, TokenMarks(self.directory)
        self.federation = Federation(self.directory, IssuerKeys(fetch, self._clock), marks)
        self.trust = TrustRules(self.directory, http_loopback=config.tokens.http_loopback)
        self.signing = SigningKeys(self._stores.vault.store, self.directory, self._entropy)
        self.tokens = Tokens(
            self.directory,
            self._trail.log,
            self.signing,
            self._entropy,
            pepper=self._stores.vault.pepper,
            issuer=issuer_of(config),
            life_s=int(config.tokens.life),
            marks=marks,
            federation=self.federation,
        )

    def services(self, restored: RestoredNode, status: StatusBoard) -> Services:
        """For the admin API."""
        config, ledger = self._spec.config, self._stores.ledger
        key_map = KeyMap(self.directory, self._secrets.stores, ledger, may_reveal=config.secrets.reveal)
        usage = Usage(self.directory, ledger)
        copies = [*(file.path for file in config.audit.files), *(sink.name for sink in config.audit.sinks)]
        lying_open = frozenset(config.secrets.environment)
        history = History(self.directory)
        return Services(
            directory=self.directory,
            history=history,
            admins=self.admins,
            sessions=self.login.sessions,
            owners=self.owners,
            teams=self.teams,
            keys=self.keys,
            budgets=self.budgets,
            provider_keys=self.provider_keys,
            observing=self.observing,
            observed_uses=ObservedUses(usage, ledger),
            access=Access(self.directory, policy_places(config)),
            deployments=Deployments(self.directory),
            breakers=self.breakers,
            wrapping_keys=self.wrapping_keys,
            manifests=Manifests(self.directory, self._entropy, self._stores.vault.pepper, self.trust.checked),
            key_map=key_map,
            checklist=Checklist(self.directory, key_map, usage, self.wrapping_keys, copies, lying_open),
            tag_sheets=TagSheets(self.directory, self.provider_keys),
            imports=Imports(self.provider_keys, history),
            prices=self.prices,
            usage=usage,
            restored=restored,
            status=status,
            decisions=self.decisions,
            explainer=Explainer(self.directory, self.decisions, ledger),
            fleet=self._stores.fleet,
            audit=self._trail.desk,
            trust=self.trust,
            federation=self.federation,
            tokens=self.tokens,
            promotions=Promotions(self.directory),
            shadow=Shadow(self.directory, self.decisions),
            replay=ReplayFeed(self.directory, ledger, self.decisions),
        )

    def _lies_in(self, secret_id: str) -> str | None:
        """The store in which the directory says that an entry lies."""
        key = self.directory.book.find(ProviderKey, secret_id)
        return None if key is None else key.store
