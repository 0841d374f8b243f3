"""Ways to log in to the fake: AppRole, Kubernetes, JWT. Signatures and claims are really checked."""

import secrets
import uuid
from collections.abc import Mapping
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from tests.vault.answers import Answer, Ask, VaultError, ok
from tests.vault.tokens import Lives


def _list(given: Any) -> list[str]:
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return [str(part) for part in given or ()]


def _seconds(given: Any) -> int:
    text = str(given or 0)
    scale = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    return int(text[:-1]) * scale if scale else int(text)


class Login:
    """Roles by name; what every method has in common."""

    kind = ""

    def __init__(self, mount: str, lives: Lives, namespace: str) -> None:
        self.mount, self.lives, self.namespace = mount, lives, namespace
        self.roles: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {}
        self.logins = 0

    def handle(self, ask: Ask, rest: str) -> Answer:
        if rest == "config":
            if ask.method == "GET":
                return ok(self.config)
            self.config = ask.body
            return Answer(204)
        if rest.startswith("role/"):
            name = rest.removeprefix("role/")
            return self.role(ask, name)
        raise VaultError(404, "unsupported path")

    def role(self, ask: Ask, name: str) -> Answer:
        if ask.method == "POST":
            self.roles[name] = {**self.roles.get(name, {}), **ask.body}
            return Answer(204)
        if name not in self.roles:
            raise VaultError(404)
        if ask.method == "DELETE":
            del self.roles[name]
            return Answer(204)
        return ok(self.roles[name])

    def login(self, ask: Ask) -> Answer:
        raise NotImplementedError

    def admit(self, role: Mapping[str, Any], meta: dict[str, str]) -> Answer:
        self.logins += 1
        token = self.lives.mint(
            _list(role.get("token_policies") or role.get("policies")),
            ttl=_seconds(role.get("token_ttl") or role.get("ttl")) or 2764800,
            max_ttl=_seconds(role.get("token_max_ttl")),
            path=f"auth/{self.mount}/login",
            namespace=self.namespace,
            meta=meta,
        )
        return ok(auth=self.lives.auth(token))


class AppRole(Login):
    kind = "approle"

    def __init__(self, mount: str, lives: Lives, namespace: str) -> None:
        super().__init__(mount, lives, namespace)
        self.role_ids: dict[str, str] = {}
        self.secret_ids: dict[str, dict[str, Any]] = {}

    def role(self, ask: Ask, name: str) -> Answer:
        name, _, action = name.partition("/")
        if not action:
            self.role_ids.setdefault(name, str(uuid.uuid4()))
            return super().role(ask, name)
        if name not in self.roles:
            raise VaultError(404)
        if action == "role-id":
            return ok({"role_id": self.role_ids[name]})
        if action == "secret-id" and ask.method == "POST":
            secret_id = str(uuid.uuid4())
            self.secret_ids[secret_id] = {"role": name, "left": int(self.roles[name].get("secret_id_num_uses", 0))}
            return ok(
                {
                    "secret_id": secret_id,
                    "secret_id_accessor": str(uuid.uuid4()),
                    "secret_id_num_uses": self.secret_ids[secret_id]["left"],
                    "secret_id_ttl": _seconds(self.roles[name].get("secret_id_ttl")),
                }
            )
        raise VaultError(404, "unsupported path")

    def login(self, ask: Ask) -> Answer:
        name = next((n for n, role_id in self.role_ids.items() if role_id == ask.body.get("role_id")), "")
        kept = self.secret_ids.get(str(ask.body.get("secret_id", "")))
        if not name or kept is None or kept["role"] != name:
            raise VaultError(400, "invalid role or secret ID")
        if kept["left"]:
            kept["left"] -= 1
            if kept["left"] == 0:
                del self.secret_ids[ask.body["secret_id"]]
        return self.admit(self.roles[name], {"role_name": name})


class JwtLogin(Login):
    kind = "jwt"

    def login(self, ask: Ask) -> Answer:
        role = self.roles.get(str(ask.body.get("role", "")))
        if role is None:
            raise VaultError(400, f"role {str(ask.body.get('role'))!r} could not be found")
        claims = self._claims(str(ask.body.get("jwt", "")), _list(self.config.get("jwt_validation_pubkeys")))
        if self.config.get("bound_issuer") and claims.get("iss") != self.config["bound_issuer"]:
            raise VaultError(400, "error validating token: invalid issuer (iss) claim")
        bound = _list(role.get("bound_audiences"))
        if bound and not set(bound) & set(_list(claims.get("aud"))):
            raise VaultError(400, "error validating token: invalid audience (aud) claim")
        if role.get("bound_subject") and claims.get("sub") != role["bound_subject"]:
            raise VaultError(400, "error validating token: invalid subject (sub) claim")
        for name, wanted in (role.get("bound_claims") or {}).items():
            if str(claims.get(name)) not in _list(wanted):
                raise VaultError(400, f"error validating claims: claim {name!r} does not match")
        return self.admit(role, {"role": ask.body["role"], "sub": str(claims.get("sub"))})

    def _claims(self, text: str, keys: list[str]) -> dict[str, Any]:
        for pem in keys:
            try:
                claims = jwt.decode(text, RSAKey.import_key(pem), algorithms=["RS256"]).claims
            except (JoseError, ValueError):
                continue
            if claims.get("exp", 0) <= self.lives.now():
                raise VaultError(400, "error validating token: token is expired")
            return claims
        raise VaultError(400, "error validating token: no known key successfully validated the token signature")


class KubernetesLogin(JwtLogin):
    kind = "kubernetes"

    def login(self, ask: Ask) -> Answer:
        role = self.roles.get(str(ask.body.get("role", "")))
        if role is None:
            raise VaultError(400, f"invalid role name {str(ask.body.get('role'))!r}")
        claims = self._claims(str(ask.body.get("jwt", "")), _list(self.config.get("pem_keys")))
        about = claims.get("kubernetes.io", {})
        name, namespace = about.get("serviceaccount", {}).get("name", ""), about.get("namespace", "")
        if not _in(name, role.get("bound_service_account_names")):
            raise VaultError(403, "service account name not authorized")
        if not _in(namespace, role.get("bound_service_account_namespaces")):
            raise VaultError(403, "namespace not authorized")
        if role.get("audience") and role["audience"] not in _list(claims.get("aud")):
            raise VaultError(403, "invalid audience (aud) claim")
        return self.admit(role, {"service_account_name": name, "service_account_namespace": namespace})


def _in(name: str, bound: Any) -> bool:
    return "*" in _list(bound) or name in _list(bound)


LOGINS: dict[str, type[Login]] = {"approle": AppRole, "jwt": JwtLogin, "kubernetes": KubernetesLogin}


class Machine:
    """A cluster or an identity provider: signs tokens whose public key the fake is told."""

    def __init__(self) -> None:
        self._key = RSAKey.generate_key(2048, private=True)
        self.pem = self._key.as_pem(private=False).decode()

    def token(self, **claims: Any) -> str:
        return jwt.encode({"alg": "RS256"}, {"jti": secrets.token_hex(8), **claims}, self._key)

    def service_account(self, name: str, namespace: str, audience: str, expires: float) -> str:
        about = {"namespace": namespace, "serviceaccount": {"name": name, "uid": str(uuid.uuid4())}}
        subject = f"system:serviceaccount:{namespace}:{name}"
        return self.token(sub=subject, aud=[audience], exp=int(expires), **{"kubernetes.io": about})
