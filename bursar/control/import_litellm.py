"""A LiteLLM proxy's configuration, teams, users and virtual keys as manifests, with a report of every setting. Pure.

Nothing is lost silently: each setting is reported as taken, approximated (what differs), or left (why, and what to do).
Values that are or may be secret are never told. LiteLLM keeps only hashes of its virtual keys, salted its own way:
their texts cannot be taken over, so each gets a new one.

Shapes read in November 2026: docs.litellm.ai/docs/proxy/config_settings, virtual_keys, users; answers of /key/list
(return_full_object=true), /team/list, /user/list.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Any, Literal

import msgspec

from bursar.control.import_litellm_why import KNOWN_PROVIDERS, QUIET, why_left
from bursar.control.naming import id_from
from bursar.core.secret import Secret
from bursar.core.units import parse_duration, pico_to_usd, usd_to_pico

Outcome = Literal["taken", "approximated", "left"]
_ALL_MODELS = frozenset({"all-proxy-models", "all-team-models", "*"})
_NO_TEAM = "litellm-keys"
_WINDOWS: dict[str, dict[str, Any]] = {
    "1d": {"period": "day"},
    "24h": {"period": "day"},
    "7d": {"period": "week"},
    "1w": {"period": "week"},
    "30d": {"period": "month"},
    "31d": {"period": "month"},
    "1mo": {"period": "month"},
}
_MIN_S, _MAX_S = 60, 366 * 86_400


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: where it stood, what became of it, and why."""

    path: str
    outcome: Outcome
    told: str


class ProviderKeyFound(msgspec.Struct, frozen=True, kw_only=True):
    """A provider key of `model_list`: a value, or the variable in which it lies."""

    address: str
    models: tuple[str, ...]
    variable: str = ""
    value: Secret | None = None


@dataclass
class Imported:
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    provider_keys: list[ProviderKeyFound] = field(default_factory=list)

    def say(self, path: str, outcome: Outcome, told: str) -> None:
        self.lines.append(Line(path=path, outcome=outcome, told=told))


def convert(config: Any, answers: Sequence[Any] = (), owner: str = "litellm") -> Imported:
    """`answers`: of /key/list, /team/list and /user/list, told apart by what is in them. `owner`: the billing owner of
    all that is imported. Never raises for what it does not know: it says so.
    """
    return _Conversion(owner).run(config, answers)


class _Taken:
    """A mapping from which settings are taken one by one; what is left over is reported."""

    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        self.rest = {name: value for name, value in data.items() if value not in (None, [], {}, "")}
        self.path = path

    def take(self, name: str) -> Any:
        return self.rest.pop(name, None)

    def at(self, name: str) -> str:
        return f"{self.path}.{name}"


class _Conversion:
    def __init__(self, owner: str) -> None:
        self.out = Imported()
        self._owner = owner
        self._alias: dict[str, str] = {}  # model_name -> the model that it stands for
        self._teams: dict[str, str] = {}  # team_id -> ours
        self._models: dict[str, list[str]] = {}  # ours -> what the team may use; absent = any

    def run(self, config: Any, answers: Sequence[Any]) -> Imported:
        self._put("owners", self._owner, {"name": "Imported from LiteLLM"})
        self._config(config)
        sorted_out: dict[str, list[Any]] = {"teams": [], "keys": [], "users": []}
        for number, answer in enumerate(answers):
            kind, rows = _rows(answer)
            if kind in sorted_out:
                sorted_out[kind] += rows
            else:
                self.out.say(f"answer[{number}]", "left", "is no answer of /key/list, /team/list or /user/list")
        for kind, one in (("teams", self._team), ("keys", self._key), ("users", self._user)):
            for index, row in enumerate(sorted_out[kind]):
                self._one(f"{kind}[{index}]", row, one)
        return self.out

    def _put(self, section: str, name: str, said: dict[str, Any]) -> None:
        said = {field: value for field, value in said.items() if value not in (None, [], {}, (), False)}
        self.out.documents.setdefault(section, {})[name] = said

    def _one(self, path: str, data: Any, convert: Any) -> None:
        if not isinstance(data, Mapping):
            self.out.say(path, "left", "is no object with settings: ask LiteLLM with return_full_object=true")
            return
        given = _Taken(data, path)
        convert(given)
        self._rest(given)

    def _rest(self, given: _Taken) -> None:
        for name, value in given.rest.items():
            if name not in QUIET:
                self.out.say(given.at(name), "left", why_left(name, value))

    def _list(self, given: _Taken, name: str) -> list[Any]:
        """What should be a list; anything else is reported."""
        found = given.take(name)
        if found is not None and not isinstance(found, list):
            self.out.say(given.at(name), "left", "is no list")
        return found if isinstance(found, list) else []

    # ---- config.yaml

    def _config(self, config: Any) -> None:
        if not isinstance(config, Mapping):
            self.out.say("config", "left", "is no mapping of settings")
            return
        given = _Taken(config, "config")
        for index, entry in enumerate(self._list(given, "model_list")):
            self._one(f"model_list[{index}]", entry, self._model)
        self._join_keys()
        for section in ("litellm_settings", "general_settings", "router_settings", "environment_variables"):
            inner = given.take(section)
            if isinstance(inner, Mapping):
                below = _Taken(inner, section)
                if section == "litellm_settings":
                    self._budget(below, "owner", self._owner, self._owner)
                self._rest(below)
            elif inner is not None:
                self.out.say(section, "left", "is no mapping of settings")
        self._rest(given)

    def _model(self, given: _Taken) -> None:
        alias, raw = str(given.take("model_name") or ""), given.take("litellm_params")
        params = _Taken(raw if isinstance(raw, Mapping) else {}, given.at("litellm_params"))
        provider, _, model = str(params.take("model") or "").rpartition("/")
        provider = provider.partition("/")[0] or ("anthropic" if model.startswith("claude") else "openai")
        self._alias[alias] = model
        if alias and alias != model:
            told = f"{alias} stands for {model}: callers ask for {model} here; limits name it so too"
            self.out.say(given.at("model_name"), "approximated", told)
        else:
            self.out.say(given.at("model_name"), "taken", f"{model} of {provider}")
        base = params.take("api_base") or params.take("base_url")
        if base is not None or provider not in KNOWN_PROVIDERS:
            told = (
                f"name {provider} in bursar.yaml: providers.{provider}.base_url and dialect, with the address from here"
            )
            self.out.say(params.at("api_base" if base is not None else "model"), "left", told)
        self._provider_key(params, provider, model)
        info = given.take("model_info")
        for below in (params, _Taken(info if isinstance(info, Mapping) else {}, given.at("model_info"))):
            self._rest(below)

    def _provider_key(self, params: _Taken, provider: str, model: str) -> None:
        value = params.take("api_key")
        if value is None:
            return
        name = str(value).removeprefix("os.environ/") if str(value).startswith("os.environ/") else ""
        found = ProviderKeyFound(
            address=f"{provider}/*/api_key/litellm/*",
            models=(model,),
            variable=name,
            value=None if name else Secret(str(value)),
        )
        self.out.provider_keys.append(found)
        where = f"the variable {name}" if name else "a value in the file: delete it there afterwards"
        self.out.say(params.at("api_key"), "taken", f"a provider key of {provider}, from {where}")

    def _join_keys(self) -> None:
        """One entry a key, with all its models; a second key of a provider gets an address of its own."""
        joined: dict[tuple[str, str, str], list[ProviderKeyFound]] = {}
        for one in self.out.provider_keys:
            text = one.value.reveal() if one.value else ""
            joined.setdefault((one.address, one.variable, text), []).append(one)
        found: list[ProviderKeyFound] = []
        for same in joined.values():
            address = same[0].address
            number = sum(other.address.startswith(address[: -len("/*")]) for other in found)
            if number:
                address = address.replace("/litellm/", f"/litellm-{number + 1}/")
            models = tuple(dict.fromkeys(model for one in same for model in one.models))
            found.append(msgspec.structs.replace(same[0], address=address, models=models))
        self.out.provider_keys = found

    # ---- teams, keys, users

    def _team(self, given: _Taken) -> None:
        team_id, alias = str(given.take("team_id") or ""), str(given.take("team_alias") or "")
        name = id_from(alias or team_id, self.out.documents.get("teams", {}))
        self._teams[team_id] = name
        policy = self._policy(given, "team", name)
        if "models" in policy:
            self._models[name] = policy["models"]
        disabled = bool(given.take("blocked"))
        said = {"name": alias or team_id, "owner": self._owner, "policy": policy, "disabled": disabled}
        self._put("teams", name, {**said, "tags": self._tags(given)})
        self.out.say(given.path, "taken", f"team/{name}" + (", switched off" if disabled else ""))
        self._budget(given, "team", name, name)

    def _key(self, given: _Taken) -> None:
        alias, shown, token = (str(given.take(part) or "") for part in ("key_alias", "key_name", "token"))
        name = id_from(
            alias or f"key-{hashlib.sha256(token.encode()).hexdigest()[:8]}", self.out.documents.get("keys", {})
        )
        team = self._team_of(given)
        policy = self._policy(given, "key", team)
        disabled, expires = bool(given.take("blocked")), given.take("expires")
        said = {"team": team, "name": alias or name, "policy": policy, "disabled": disabled}
        self._put("keys", name, {**said, "expires_at": expires and _instant(expires), "tags": self._tags(given)})
        hint = f" (shown there as {shown[:3]}...{shown[-4:]})" if len(shown) > 7 else ""
        told = f"key/{name} of team/{team}{hint}: LiteLLM keeps a hash only, so it gets a new text"
        self.out.say(given.path, "taken", told + (", switched off" if disabled else ""))
        self._budget(given, "key", name, f"key-{name}")

    def _team_of(self, given: _Taken) -> str:
        team_id = str(given.take("team_id") or "")
        if team_id in self._teams:
            return self._teams[team_id]
        if _NO_TEAM not in self.out.documents.get("teams", {}):
            self._put("teams", _NO_TEAM, {"name": "Keys of LiteLLM without a team", "owner": self._owner})
        why = "its team is not in the list of teams" if team_id else "here each key is of a team"
        self.out.say(given.at("team_id"), "approximated", f"{why}: team/{_NO_TEAM}")
        return _NO_TEAM

    def _user(self, given: _Taken) -> None:
        user_id, email = str(given.take("user_id") or ""), str(given.take("user_email") or "")
        name = email or user_id
        before = len(self.out.documents.get("budgets", {}))
        self._budget(given, "user", name, id_from(f"user-{name}", self.out.documents.get("budgets", {})))
        if len(self.out.documents.get("budgets", {})) > before:
            told = (
                f"a budget on user/{name}: it counts calls that name this user, so set policy.user_header on the keys"
            )
            self.out.say(given.path, "approximated", told)
        else:
            self.out.say(given.path, "left", "a user without a budget: people are not kept here, calls name them")

    def _policy(self, given: _Taken, scope: str, team: str) -> dict[str, Any]:
        limits = []
        for name, unit in (
            ("rpm_limit", "requests"),
            ("tpm_limit", "tokens"),
            ("max_parallel_requests", "concurrency"),
        ):
            amount = given.take(name)
            if amount is None:
                continue
            if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
                self.out.say(given.at(name), "left", "a limit here is a whole number above 0: switch off instead")
                continue
            limits.append({"unit": unit, "amount": amount, "scope": scope})
            self.out.say(
                given.at(name), "taken", f"{amount} {unit} per {scope}" + ("" if unit == "concurrency" else "/min")
            )
        models = self._models_of(given, scope, team)
        return {**({"models": models} if models is not None else {}), **({"limits": limits} if limits else {})}

    def _models_of(self, given: _Taken, scope: str, team: str) -> list[str] | None:
        asked = self._list(given, "models")
        if not asked or _ALL_MODELS & set(map(str, asked)):
            return None
        models = list(dict.fromkeys(self._alias.get(str(model), str(model).rpartition("/")[2]) for model in asked))
        self.out.say(given.at("models"), "taken", ", ".join(models))
        allowed = self._models.get(team) if scope == "key" else None
        if allowed is not None and not set(models) <= set(allowed):
            beyond = [model for model in models if model not in allowed]
            self.out.say(given.at("models"), "approximated", f"its team does not allow {', '.join(beyond)}: left out")
            models = [model for model in models if model in allowed]
        return models

    def _tags(self, given: _Taken) -> list[str]:
        metadata = given.take("metadata")
        if not isinstance(metadata, Mapping):
            if metadata is not None:
                self.out.say(given.at("metadata"), "left", "is no mapping of settings")
            return []
        below = _Taken(metadata, given.at("metadata"))
        tags = [str(tag) for tag in self._list(below, "tags")]
        found = list(dict.fromkeys(id_from(tag, ()) for tag in tags))
        if tags:
            self.out.say(below.at("tags"), "taken" if tags == found else "approximated", ", ".join(found))
        self._rest(below)
        return found

    # ---- money

    def _budget(self, given: _Taken, kind: str, subject: str, name: str) -> None:
        amount, span, soft = (given.take(part) for part in ("max_budget", "budget_duration", "soft_budget"))
        spend = given.take("spend")
        if amount is None:
            for part, value in (("budget_duration", span), ("soft_budget", soft)):
                if value is not None:
                    self.out.say(given.at(part), "left", "without max_budget it limits nothing")
            return
        pico, exact = _pico(amount)
        if pico is None:
            self.out.say(given.at("max_budget"), "left", "is no amount of money")
            return
        window, told = _window(span)
        said: dict[str, Any] = {"subject": f"{kind}/{subject}", "limit_usd": pico_to_usd(pico), "window": window}
        soft_pico = _pico(soft)[0] if soft is not None else None
        if soft_pico and pico and 0 < soft_pico * 100 // pico <= 1000:
            said["thresholds"] = sorted({soft_pico * 100 // pico, 100})
            self.out.say(given.at("soft_budget"), "approximated", f"the owner is told at {soft_pico * 100 // pico} %")
        elif soft is not None:
            self.out.say(given.at("soft_budget"), "left", "is no part of max_budget")
        budget = id_from(f"{name}-budget", self.out.documents.get("budgets", {}))
        self._put("budgets", budget, said)
        same = exact and not told
        detail = f"budget/{budget}: a hard ${pico_to_usd(pico)}{told}" + (
            "" if exact else ", rounded down to a pico-USD"
        )
        self.out.say(given.at("max_budget"), "taken" if same else "approximated", detail)
        if spend not in (None, 0, "0", "0.0"):
            self.out.say(
                given.at("spend"), "left", "what was spent at LiteLLM is not counted here: the window begins at 0"
            )


def _window(span: Any) -> tuple[dict[str, Any], str]:
    """-> window, and what differs; LiteLLM begins each span when a job resets it."""
    if span is None:
        return {"kind": "lifetime"}, ""
    text = str(span)
    if text in _WINDOWS:
        return _WINDOWS[text], f" a {_WINDOWS[text]['period']} of the calendar (UTC), where LiteLLM has {text}"
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0
    if not _MIN_S <= seconds <= _MAX_S:
        return {"kind": "lifetime"}, f" for ever: the span {text[:24]!r} cannot be had here"
    return {"kind": "rolling", "seconds": seconds}, f" in any {text}, where LiteLLM resets every {text}"


def _pico(amount: Any) -> tuple[int | None, bool]:
    """Pico-USD, and whether that is exact. LiteLLM counts in floats: their tails are cut off."""
    try:
        number = Decimal(str(amount))
        if not number.is_finite() or not 0 <= number <= 10**12:
            return None, False
        cut = number.quantize(Decimal("1e-12"), ROUND_DOWN)
    except InvalidOperation:
        return None, False
    return usd_to_pico(f"{cut:f}"), cut == number


def _instant(text: Any) -> str:
    """LiteLLM writes instants with and without an offset; without one they are UTC."""
    return str(text).strip().replace(" ", "T")


def _rows(answer: Any) -> tuple[str, list[Any]]:
    """Of what an answer tells, and its rows: a list, or one below the name that such an answer has."""
    if isinstance(answer, Mapping):
        for kind in ("keys", "teams", "users"):
            if isinstance(answer.get(kind), list):
                return kind, answer[kind]
        return "", []
    rows = answer if isinstance(answer, list) else []
    named = [row for row in rows if isinstance(row, Mapping)]
    for kind, sign in (("keys", "token"), ("teams", "team_alias"), ("users", "user_email"), ("teams", "team_id")):
        if any(sign in row for row in named):
            return kind, rows
    return "", rows
