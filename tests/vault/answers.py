"""What goes in and out of the fake."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ask:
    method: str  # PUT counts as POST, GET ?list=true as LIST
    path: str  # below /v1/, without the namespace
    query: dict[str, str]
    body: dict[str, Any]
    token: str
    namespace: str
    media_type: str = "application/json"


@dataclass
class Answer:
    status: int
    payload: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)


class VaultError(Exception):
    """Answered as {"errors": [...]}; without a message the list is empty, as for 404."""

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(*errors)
        self.status, self.errors = status, list(errors)


def ok(data: dict[str, Any] | None = None, *, status: int = 200, **more: Any) -> Answer:
    """The envelope that Vault puts around every answer."""
    return Answer(
        status,
        {
            "request_id": "00000000-0000-4000-8000-000000000000",
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "data": data,
            "wrap_info": None,
            "warnings": None,
            "auth": None,
            **more,
        },
    )
