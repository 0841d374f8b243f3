"""What is exchanged for a token: a virtual key, or an identity that the surroundings give."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from bursar.client.exchange import TokenFault, send

Subject = Callable[[], str]
_MOST = 65_536


def environment_key(name: str = "BURSAR_API_KEY", env: Mapping[str, str] = os.environ) -> Subject:
    """A virtual key in a variable."""
    return variable_subject(name, env)


def variable_subject(name: str, env: Mapping[str, str] = os.environ) -> Subject:
    """Whatever lies in a variable: GitLab puts an ID token there (`id_tokens:`)."""

    def read() -> str:
        text = env.get(name, "").strip()
        if not text:
            raise TokenFault(
                "subject_missing", f"The variable {name} is not set", f"Set {name}, or name another source"
            )
        return text

    return read


def file_subject(path: str | os.PathLike[str]) -> Subject:
    """The content of a file, read anew each time: Kubernetes and SPIFFE helpers renew it in place."""

    def read() -> str:
        try:
            with Path(path).open("rb") as file:
                text = file.read(_MOST).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise TokenFault(
                "subject_missing", f"{path} cannot be read: {why}", "Name the file with the token"
            ) from None
        if not text:
            raise TokenFault("subject_missing", f"{path} is empty", "Name the file with the token", again=True)
        return text

    return read


def github_subject(audience: str, env: Mapping[str, str] = os.environ, timeout: float = 10.0) -> Subject:
    """The identity of a job of GitHub Actions (`permissions: id-token: write`), made out to this broker."""

    def ask() -> str:
        url, bearer = env.get("ACTIONS_ID_TOKEN_REQUEST_URL"), env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
        if not url or not bearer:
            hint = "Give the job `permissions: id-token: write`"
            raise TokenFault("subject_missing", "This is no GitHub job that may ask for an identity", hint)
        separator = "&" if "?" in url else "?"
        headers = {"authorization": f"Bearer {bearer}", "accept": "application/json"}
        status, raw = send(f"{url}{separator}audience={quote(audience, safe='')}", "GET", headers, None, timeout)
        try:
            value = json.loads(raw)["value"]
        except (ValueError, KeyError, TypeError):
            value = None
        if status != 200 or not isinstance(value, str):
            raise TokenFault("subject_missing", f"GitHub gave no identity (it answered {status})", again=status >= 500)
        return value

    return ask
