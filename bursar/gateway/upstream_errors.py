"""What is made of a provider that says no, or that breaks: its words without our key, and ours where it is about us."""

from bursar.core.directory import ProviderKey
from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.observing import is_presented
from bursar.core.secret import Secret
from bursar.gateway.forward import without_key
from bursar.gateway.node import Node, Provider
from bursar.ports import UpstreamResponse

_MOST_BODY = 2**20

_FAULT_WORDS = {
    "connect": "upstream_unreachable",
    "tls": "upstream_unreachable",
    "proxy": "upstream_unreachable",
    "private_address": "upstream_unreachable",
    "timeout_connect": "upstream_unreachable",
}


def is_encoded(response: UpstreamResponse) -> bool:
    """It was asked for as it is: what cannot be read cannot be metered, nor looked through."""
    return response.headers.get("content-encoding", "identity").lower() != "identity"


async def read_error(
    node: Node, provider: Provider, key: ProviderKey, response: UpstreamResponse, value: Secret | None
) -> tuple[bytes, Refusal | None]:
    """-> (the provider's words for the caller, what to tell him instead). Raises UpstreamFault."""
    node.counters.add("bursar_upstream_errors_total", (provider.name, str(response.status)))
    body = without_key(await response.read(_MOST_BODY), value)
    if is_encoded(response):
        body = b""  # nobody can read it, nor see whether the key stands in it
    if provider.dialect.upstream.rejects_key(response.status, body) and not is_presented(key.id):  # else: the caller's
        node.leases.forget(key.id)
        node.happenings("upstream_key_refused", key.id, {"provider": provider.name, "status": response.status})
        return body, Refusal(
            "upstream_key_refused",
            f"The provider {provider.name} does not accept the provider key {key.id}",
            "Whoever runs this broker can see it with `bursar secrets list` and put a new one",
        )
    if response.status < 400:
        message = f"The provider answered {response.status}, a redirect that is not followed"
        return body, Refusal("upstream_broken", message)
    return body, None


def fault_refusal(node: Node, provider: Provider, fault: UpstreamFault, hint: str = "") -> Refusal:
    """The exchange broke before anything reached the caller."""
    node.counters.add("bursar_upstream_errors_total", (provider.name, fault.kind))
    word = _FAULT_WORDS.get(fault.kind)
    if word is None:
        word = "upstream_timeout" if fault.kind.startswith("timeout") else "upstream_broken"
    return Refusal(word, f"The provider {provider.name} failed ({fault.kind})", hint)
