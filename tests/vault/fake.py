"""A strict stand-in for Vault / OpenBao, over real HTTP: what is documented and used here, nothing lenient beside it.

hvac drives it as well (tests/vault/test_fake.py), so that it cannot drift towards our own client. Faults are set by
the test: `sealed`, `standby`, `delay`, `health_status`, `fail_next`. `clock` runs on with the machine's, and `advance`
moves it.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.vault.answers import Answer, Ask, VaultError, ok
from tests.vault.kv import Kv1, Kv2
from tests.vault.logins import LOGINS, AppRole, Login
from tests.vault.policies import PolicyFault, Rule, capabilities_on, parse_policy
from tests.vault.tokens import Lives, Token

_DEFAULT = """
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "sys/internal/ui/mounts/*" { capabilities = ["read"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "sys/wrapping/wrap" { capabilities = ["update"] }
path "sys/wrapping/lookup" { capabilities = ["update"] }
path "sys/wrapping/unwrap" { capabilities = ["update"] }
"""
_OPEN = ("sys/health", "sys/seal-status", "sys/wrapping/lookup")
_CAPABILITY = {"GET": "read", "POST": "update", "PATCH": "patch", "DELETE": "delete", "LIST": "list"}


class Dynamic:
    """An engine that makes a credential at each read, on lease: `creds/<role>`."""

    kind, version = "llm", ""

    def __init__(self, vault: "FakeVault") -> None:
        self._vault = vault
        self.ttl, self.max_ttl = 3600, 0
        self.field = "api_key"
        self.made = 0

    def exists(self, path: str) -> bool:
        return False

    def handle(self, ask: Ask, path: str) -> Answer:
        if ask.method != "GET" or not path.startswith("creds/"):
            raise VaultError(404, "unsupported path")
        self.made += 1
        token = self._vault.lives.find(ask.token)
        lease = self._vault.lives.lend(token, f"{self._vault.mount_of(self)}/{path}", self.ttl, self.max_ttl)
        value = self._vault.new_value(self.made)
        data = {self.field: value, "key_id": f"key_{self.made}"}
        return ok(data, lease_id=lease.id, renewable=True, lease_duration=self.ttl)


Engine = Kv1 | Kv2 | Dynamic


class Space:
    """A namespace: its own engines, logins and policies."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.logins: dict[str, Login] = {}
        self.policies: dict[str, str] = {"default": _DEFAULT}
        self.rules: dict[str, list[Rule]] = {"default": parse_policy(_DEFAULT)}


class FakeVault:
    """`with FakeVault() as vault:` serves on `vault.url`; `vault.root` may do anything."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self.lives = Lives(self.clock)
        self.root = self.lives.mint(["root"], ttl=0).id
        self.spaces: dict[str, Space] = {"": Space()}
        self.spaces[""].engines["secret"] = Kv2(self.clock)
        self.new_value: Callable[[int], str] = lambda number: f"made-value-{number}"
        self.sealed, self.delay = False, 0.0
        self.standby_of = ""  # the address of the active node; set = every call is answered 307
        self.health_status = 0  # what sys/health answers, instead of what is true
        self.fail_next: list[tuple[int, str]] = []  # (status, message) of the next calls, in order; 0 = none
        self.asked: list[tuple[str, str, str]] = []  # method, path, namespace
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "FakeVault":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Away: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def clock(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def mount_of(self, engine: Engine) -> str:
        return next(name for space in self.spaces.values() for name, e in space.engines.items() if e is engine)

    # ---- short cuts for tests, past HTTP

    def token(self, policy: str, *, ttl: int = 3600, name: str = "test", namespace: str = "", **more: Any) -> str:
        """A token that may do what this policy (HCL) says."""
        space = self.spaces[namespace]
        space.policies[name], space.rules[name] = policy, parse_policy(policy)
        return self.lives.mint([name], ttl=ttl, namespace=namespace, **more).id

    def kv(self, mount: str = "secret", namespace: str = "") -> Kv2:
        engine = self.spaces[namespace].engines[mount]
        assert isinstance(engine, Kv2)
        return engine

    def write(
        self, path: str, data: dict[str, Any], custom: dict[str, str] | None = None, mount: str = "secret"
    ) -> None:
        """As somebody else would have written it before Bursar came."""
        ask = Ask("POST", "", {}, {"data": data}, self.root, "")
        self.kv(mount).handle(ask, f"data/{path}")
        if custom is not None:
            self.kv(mount).handle(Ask("POST", "", {}, {"custom_metadata": custom}, self.root, ""), f"metadata/{path}")

    # ---- one call

    def serve(self, ask: Ask, wrap_ttl: int) -> Answer:
        with self._lock:
            self.asked.append((ask.method, ask.path, ask.namespace))
            if ask.path == "sys/health":
                return self._health()
            if ask.path == "sys/seal-status":
                return Answer(200, {"type": "shamir", "initialized": True, "sealed": self.sealed, "version": "2.6.2"})
            if self.fail_next:
                status, message = self.fail_next.pop(0)
                if status:
                    raise VaultError(status, message)
            if self.sealed:
                raise VaultError(503, "Vault is sealed")
            if self.standby_of:
                return Answer(307, None, {"Location": f"{self.standby_of}/v1/{ask.path}"})
            answer = self._route(ask)
            if wrap_ttl and answer.payload is not None and answer.status < 300:
                return self.lives.wrap(answer.payload, ask.path, wrap_ttl)
            return answer

    def _health(self) -> Answer:
        truth = 503 if self.sealed else 429 if self.standby_of else 200
        body = {"initialized": True, "sealed": self.sealed, "standby": bool(self.standby_of), "version": "2.6.2"}
        return Answer(self.health_status or truth, body)

    def _route(self, ask: Ask) -> Answer:
        space = self.spaces.get(ask.namespace)
        if space is None:
            raise VaultError(404, f'no handler for route "{ask.path}". route entry not found.')
        head, _, rest = ask.path.partition("/")
        if head == "auth":
            mount, _, below = rest.partition("/")
            if mount in space.logins and below == "login" and ask.method == "POST":
                return space.logins[mount].login(ask)
        if ask.path in _OPEN or (ask.path == "sys/wrapping/unwrap" and self._unwraps(ask)):
            return self.lives.wrapping_call(ask, ask.path.rpartition("/")[2])
        token = self._permit(ask, space)
        if head == "sys":
            return self._system(ask, rest, space, token)
        if head == "auth":
            mount, _, below = rest.partition("/")
            if mount == "token":
                return self.lives.token_call(ask, below, token)
            if mount in space.logins:
                return space.logins[mount].handle(ask, below)
        for name, engine in space.engines.items():
            if ask.path.startswith(name + "/"):
                return engine.handle(ask, ask.path.removeprefix(name + "/"))
        raise VaultError(404, f'no handler for route "{ask.path}". route entry not found.')

    def _unwraps(self, ask: Ask) -> bool:
        """A wrapping token is its own permission: as the client's token, or in the body without one."""
        return self.lives.is_wrapping(ask.token) or not ask.token

    def _permit(self, ask: Ask, space: Space) -> Token:
        """Deny by default. Raises VaultError(403)."""
        if not ask.token:
            raise VaultError(403, "permission denied")
        token = self.lives.find(ask.token)
        if "root" in token.policies:
            return token
        if token.namespace != ask.namespace:
            raise VaultError(403, "permission denied")
        rules = [rule for name in token.policies for rule in space.rules.get(name, [])]
        allowed = capabilities_on(rules, ask.path)
        if ask.method == "LIST":
            allowed |= capabilities_on(rules, ask.path.rstrip("/") + "/")
        wanted = _CAPABILITY[ask.method]
        if wanted == "update" and not self._exists(ask, space):
            wanted = "create" if "create" in allowed or "update" not in allowed or self._is_kv(ask, space) else "update"
        if wanted not in allowed or "deny" in allowed:
            raise VaultError(403, "1 error occurred:\n\t* permission denied\n\n")
        return token

    def _is_kv(self, ask: Ask, space: Space) -> bool:
        mount, _, rest = ask.path.partition("/")
        return isinstance(space.engines.get(mount), Kv1 | Kv2) and rest.partition("/")[0] in ("data", "metadata")

    def _exists(self, ask: Ask, space: Space) -> bool:
        mount, _, rest = ask.path.partition("/")
        engine = space.engines.get(mount)
        return engine is not None and engine.exists(rest)

    def _system(self, ask: Ask, path: str, space: Space, token: Token) -> Answer:
        head, _, rest = path.partition("/")
        if head == "leases":
            return self.lives.lease_call(ask, rest)
        if path == "wrapping/wrap":
            return ok(ask.body)
        if path.startswith("wrapping/"):
            return self.lives.wrapping_call(ask, rest)
        if path.startswith("internal/ui/mounts/"):
            return self._preflight(path.removeprefix("internal/ui/mounts/"), space)
        if path.startswith(("policies/acl/", "policy/")):
            return self._policy(ask, path.rpartition("/")[2], space)
        if head == "mounts":
            return self._mount(ask, rest, space)
        if head == "auth":
            return self._enable_login(ask, rest, space)
        if head == "namespaces" and ask.method == "POST":
            self.spaces.setdefault(rest, Space())
            return ok({"path": rest + "/"})
        raise VaultError(404, "unsupported path")

    def _preflight(self, path: str, space: Space) -> Answer:
        for name, engine in space.engines.items():
            if (path + "/").startswith(name + "/"):
                options = {"version": engine.version} if engine.version else None
                return ok({"path": name + "/", "type": engine.kind, "options": options})
        raise VaultError(403, f'preflight capability check returned 403, please ensure access to path "{path}/"')

    def _policy(self, ask: Ask, name: str, space: Space) -> Answer:
        if ask.method == "GET":
            if name not in space.policies:
                raise VaultError(404)
            return ok({"name": name, "policy": space.policies[name]})
        try:
            space.rules[name] = parse_policy(str(ask.body.get("policy", "")))
        except PolicyFault as fault:
            raise VaultError(400, str(fault)) from None
        space.policies[name] = str(ask.body["policy"])
        return Answer(204)

    def _mount(self, ask: Ask, name: str, space: Space) -> Answer:
        name = name.rstrip("/")
        if ask.method == "DELETE":
            space.engines.pop(name, None)
            return Answer(204)
        if name in space.engines:
            raise VaultError(400, f"path is already in use at {name}/")
        kind = ask.body.get("type")
        second = str((ask.body.get("options") or {}).get("version", "1")) == "2" or kind == "kv-v2"
        if kind == "llm":
            space.engines[name] = Dynamic(self)
        elif kind in ("kv", "kv-v2"):
            space.engines[name] = Kv2(self.clock) if second else Kv1()
        else:
            raise VaultError(400, f'plugin not found in the catalog: "{kind}"')
        return Answer(204)

    def _enable_login(self, ask: Ask, name: str, space: Space) -> Answer:
        name = name.rstrip("/")
        kind = str(ask.body.get("type"))
        if name in space.logins:
            raise VaultError(400, f"path is already in use at {name}/")
        if kind not in LOGINS:
            raise VaultError(400, f'plugin not found in the catalog: "{kind}"')
        namespace = next(key for key, value in self.spaces.items() if value is space)
        space.logins[name] = LOGINS[kind](name, self.lives, namespace)
        return Answer(204)

    def approle(self, name: str, policy: str, **role: Any) -> tuple[str, str]:
        """A role that may do what this policy says -> (role id, secret id)."""
        space = self.spaces[""]
        space.policies[name], space.rules[name] = policy, parse_policy(policy)
        login = space.logins.setdefault("approle", AppRole("approle", self.lives, ""))
        assert isinstance(login, AppRole)
        login.role(Ask("POST", "", {}, {"token_policies": [name], **role}, self.root, ""), name)
        made = login.role(Ask("POST", "", {}, {}, self.root, ""), f"{name}/secret-id").payload
        assert made is not None
        return login.role_ids[name], made["data"]["secret_id"]


def _handler(vault: FakeVault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one packet

        def handle_any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            raw = self.rfile.read(length)
            if vault.delay:
                time.sleep(vault.delay)
            try:
                answer = vault.serve(self._ask(raw), int(str(self.headers.get("x-vault-wrap-ttl") or 0).rstrip("s")))
            except VaultError as error:
                answer = Answer(error.status, {"errors": error.errors})
            body = json.dumps(answer.payload).encode() if answer.payload is not None else b""
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if body:
                self.send_header("Content-Type", "application/json")
            if answer.status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _ask(self, raw: bytes) -> Ask:
            url = urlsplit(self.path)
            if not url.path.startswith("/v1/"):
                raise VaultError(404)
            try:
                body = json.loads(raw) if raw else {}
            except ValueError:
                raise VaultError(400, "error parsing JSON") from None
            query = dict(parse_qsl(url.query))
            method = {"PUT": "POST"}.get(self.command, self.command)
            if method == "GET" and query.pop("list", "") == "true":
                method = "LIST"
            token = self.headers.get("x-vault-token") or (self.headers.get("authorization") or "").removeprefix(
                "Bearer "
            )
            return Ask(
                method=method,
                path=unquote(url.path.removeprefix("/v1/")).rstrip("/"),
                query=query,
                body=body,
                token=token,
                namespace=(self.headers.get("x-vault-namespace") or "").strip("/"),
                media_type=self.headers.get("content-type") or "application/json",
            )

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "LIST"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    return Handler
