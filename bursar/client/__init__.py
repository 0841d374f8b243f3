"""For applications that call through Bursar: tokens of minutes in place of a key that lies around.

    from bursar.client import TokenSource, environment_key
    tokens = TokenSource("http://127.0.0.1:4000", environment_key(), scope="model:gpt-4o-mini")
    client = OpenAI(base_url="http://127.0.0.1:4000/v1", api_key=tokens.api_key)      # asked before each call
    client = AsyncOpenAI(base_url="http://127.0.0.1:4000/v1", api_key=tokens.async_api_key)

Standard library only, nothing of the server: quick to import. `bursar.client.httpx_auth` needs httpx.
"""

from bursar.client.source import TokenFault, TokenSource
from bursar.client.subjects import environment_key, file_subject, github_subject, variable_subject

__all__ = [
    "TokenFault",
    "TokenSource",
    "environment_key",
    "file_subject",
    "github_subject",
    "variable_subject",
]
