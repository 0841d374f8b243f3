"""Which request takes the way: method and path -> route. A path that is not here does not exist."""

from typing import Literal, NamedTuple

from bursar.core.calls import DialectName, Purpose
from bursar.core.deployments import NAME
from bursar.core.errors import Refusal
from bursar.core.made_ids import MadeKind


class Route(NamedTuple):
    name: str
    dialect: DialectName
    purpose: Purpose
    kind: Literal["metered", "models", "handed", "trial", "owned", "files", "batches"]
    azure: bool = False  # the caller names deployments: in the path, or as the body's model
    deployment: str = ""  # the one that the path names
    owns: MadeKind = "response"  # of an owned route: what the id in its path names


_CHAT = Route("chat", "openai", "inference", "metered")
_COMPLETIONS = Route("completions", "openai", "inference", "metered")
_EMBEDDINGS = Route("embeddings", "openai", "embedding", "metered")
_MESSAGES = Route("messages", "anthropic", "inference", "metered")
_COUNT = Route("count_tokens", "anthropic", "inference", "metered")
_RESPONSES = Route("responses", "openai", "inference", "metered")
_KEPT_RESPONSE = Route("responses", "openai", "inference", "owned", owns="response")
_KEPT_CONVERSATION = Route("conversations", "openai", "inference", "owned", owns="conversation")
_FILES = Route("files", "openai", "inference", "files", owns="file")
_KEPT_FILE = _FILES._replace(kind="owned")
_BATCHES = Route("batches", "openai", "batch", "batches", owns="batch")
_KEPT_BATCH = _BATCHES._replace(kind="owned")
_MODELS = Route("models", "openai", "inference", "models")
_HANDED = Route("oauth", "openai", "inference", "handed")  # control answers it

ROUTES: dict[str, dict[str, Route]] = {
    "/v1/chat/completions": {"POST": _CHAT},
    "/v1/completions": {"POST": _COMPLETIONS},
    "/v1/embeddings": {"POST": _EMBEDDINGS},
    "/v1/responses": {"POST": _RESPONSES},
    "/v1/conversations": {"POST": _KEPT_CONVERSATION},
    "/v1/files": {"GET": _FILES, "POST": _FILES},
    "/v1/batches": {"GET": _BATCHES, "POST": _BATCHES},
    "/v1/messages": {"POST": _MESSAGES},
    "/v1/messages/count_tokens": {"POST": _COUNT},
    "/v1/models": {"GET": _MODELS},
    "/oauth/token": {"POST": _HANDED},
    "/oauth/introspect": {"POST": _HANDED},
    "/oauth/revoke": {"POST": _HANDED},
    "/oauth/jwks": {"GET": _HANDED},
    "/.well-known/openid-configuration": {"GET": _HANDED},
    "/.well-known/oauth-authorization-server": {"GET": _HANDED},
}


_HINT = (
    f"Routes: {', '.join(sorted(ROUTES))}; Azure clients: /openai/deployments/NAME/..., /openai/v1/...;"
    " what a call would cost: /v1/estimate"
)
_ANTHROPIC_BATCHES = "/v1/messages/batches/"
_NOT_OFFERED = (
    "Their cost would not be bounded: send the messages as calls of their own to /v1/messages;"
    " OpenAI's batches are offered: /v1/batches"
)
_AZURE = "/openai/"
_DEPLOYED = "/openai/deployments/"
_AZURE_V1 = "/openai/v1/"
_DEPLOYABLE = frozenset({"chat/completions", "completions", "embeddings"})
_AT_AZURE = frozenset({"chat", "completions", "embeddings", "responses", "conversations", "files", "models"})

TRIAL = "/v1/estimate"  # of a chat, or, for who names Anthropic's API version, of a message
ROUTES |= {
    TRIAL + path.removeprefix("/v1"): {"POST": route._replace(kind="trial")}
    for path, methods in ROUTES.items()
    for route in methods.values()
    if route.kind == "metered"
}
ROUTES[TRIAL] = {"POST": _CHAT._replace(kind="trial")}
TRIAL_OF_MESSAGE = _MESSAGES._replace(kind="trial")

# Paths with ids in them, which stand where the stars are.
OWNED: dict[str, dict[str, Route]] = {
    "/v1/responses/*": {"GET": _KEPT_RESPONSE, "DELETE": _KEPT_RESPONSE},
    "/v1/responses/*/cancel": {"POST": _KEPT_RESPONSE},
    "/v1/responses/*/input_items": {"GET": _KEPT_RESPONSE},
    "/v1/conversations/*": {"GET": _KEPT_CONVERSATION, "POST": _KEPT_CONVERSATION, "DELETE": _KEPT_CONVERSATION},
    "/v1/conversations/*/items": {"GET": _KEPT_CONVERSATION, "POST": _KEPT_CONVERSATION},
    "/v1/conversations/*/items/*": {"GET": _KEPT_CONVERSATION, "DELETE": _KEPT_CONVERSATION},
    "/v1/files/*": {"GET": _KEPT_FILE, "DELETE": _KEPT_FILE},
    "/v1/files/*/content": {"GET": _KEPT_FILE},
    "/v1/batches/*": {"GET": _KEPT_BATCH},
    "/v1/batches/*/cancel": {"POST": _KEPT_BATCH},
}
_LONGEST_PATH = 1024
_ID_PLACES = (3, 5)  # among the parts of a path between slashes
_MOST_PARTS = 6


def ids_in(path: str) -> tuple[str, ...]:
    """The ids in a path of `OWNED`, as they stand there: none in one of `ROUTES`."""
    parts = path.split("/")
    return tuple(parts[place] for place in _ID_PLACES if place < len(parts))


def _owned(path: str) -> dict[str, Route] | None:
    """A path that is no route as it stands: one look-up more, with stars in the place of ids."""
    if len(path) > _LONGEST_PATH:
        return None
    parts = path.split("/", _MOST_PARTS)
    for place in _ID_PLACES:
        if place < len(parts) and parts[place]:
            parts[place] = "*"
    return OWNED.get("/".join(parts))


def find_route(method: str, path: str) -> Route:
    """The route of a request. Raises Refusal(not_found | method_not_allowed)."""
    methods = ROUTES.get(path) or _owned(path)
    if methods is None and path.startswith(_AZURE):
        methods = _azure_methods(path)
    if methods is None and (path + "/").startswith(_ANTHROPIC_BATCHES):
        raise Refusal("not_found", "This Bursar does not offer batches of messages", _NOT_OFFERED)
    if methods is None:
        raise Refusal("not_found", f"There is no route {path[:200]}", _HINT)
    route = methods.get(method)
    if route is None:
        raise Refusal("method_not_allowed", f"{path} takes {', '.join(methods)}", facts={"allow": ", ".join(methods)})
    return route


def plain_path(path: str) -> str:
    """As OpenAI has it: what Azure has below ``/openai/v1/`` or ``/openai/`` is below ``/v1/``."""
    for prefix in (_AZURE_V1, _AZURE):
        if path.startswith(prefix):
            return f"/v1/{path.removeprefix(prefix)}"
    return path


def _azure_methods(path: str) -> dict[str, Route] | None:
    """The forms in which Azure OpenAI is called; what is deployed under a name is known to the directory.

    Chat, completions and embeddings have the deployment in their path; all else, and what is below `v1`, in the body.
    https://learn.microsoft.com/azure/ai-services/openai/reference, .../azure/ai-services/openai/api-version-lifecycle.
    """
    name, plain = "", plain_path(path)
    if path.startswith(_DEPLOYED):
        name, _, operation = path.removeprefix(_DEPLOYED).partition("/")
        if not NAME.fullmatch(name) or operation not in _DEPLOYABLE:
            return None
        plain = f"/v1/{operation}"
    elif not path.startswith(_AZURE_V1) and path.removeprefix(_AZURE) in _DEPLOYABLE:
        return None
    methods = ROUTES.get(plain) or _owned(plain)
    if methods is None or next(iter(methods.values())).name not in _AT_AZURE:
        return None
    found = {method: route._replace(azure=True, deployment=name) for method, route in methods.items()}
    return None if any(route.kind == "trial" for route in found.values()) else found


def dialect_of_path(path: str) -> DialectName:
    """In whose words a request that found no route is answered."""
    return "anthropic" if path.startswith(("/v1/messages", f"{TRIAL}/messages")) else "openai"
