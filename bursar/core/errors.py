"""The one vocabulary of refusals. Each word is stable: machine word in the answer, metric label, exit-code key.

`RULES` is the one table word -> status -> type per dialect -> retry. `bursar.gateway.answer` renders it.
A message tells what happened, `hint` what to do next. Neither ever holds a key, a prompt or an upstream credential.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """How one word is answered."""

    status: int
    openai_type: str
    anthropic_type: str
    retry: bool  # False sets `x-should-retry: false`: the SDKs otherwise retry 409, 429 and every 5xx
    title: str


class Refusal(Exception):
    """A decision not to serve. Raised by stages, rendered once at the edge in the caller's dialect."""

    def __init__(
        self,
        word: str,
        message: str,
        hint: str = "",
        retry_after: float | None = None,
        facts: dict[str, str | int] | None = None,
        counter: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.word = word
        self.message = message
        self.hint = hint
        self.retry_after = retry_after  # seconds
        self.facts = facts or {}  # numbers behind the decision, safe to show to whose they are
        self.counter = counter  # whose: ("limits" or "budgets", "kind/name"); `bursar.core.discretion` reads it

    @property
    def rule(self) -> Rule:
        return RULES[self.word]

    def __repr__(self) -> str:
        return f"Refusal({self.word}: {self.message})"


class UpstreamFault(Exception):
    """The exchange with a provider broke: nobody decided it, so it is not a Refusal.

    `sent` is False only when it is certain that no byte of the request was written to a socket: then, and only
    then, its hold may be voided.
    """

    def __init__(self, kind: str, message: str = "", *, sent: bool) -> None:
        super().__init__(message or kind)
        self.kind = kind
        self.sent = sent


class ClientGone(Exception):
    """The caller's connection was lost before its body was read: there is nobody left to answer."""


_INVALID = "invalid_request_error"
_RATE = "rate_limit_error"

RULES: dict[str, Rule] = {
    # -- the door
    "malformed_request": Rule(400, _INVALID, _INVALID, False, "The request could not be read"),
    "duplicate_field": Rule(400, _INVALID, _INVALID, False, "A governed field occurs twice or differs only in case"),
    "invalid_field": Rule(400, _INVALID, _INVALID, False, "A governed field has a value of the wrong kind"),
    "body_too_large": Rule(413, _INVALID, "request_too_large", False, "The body is larger than this node accepts"),
    "head_too_large": Rule(431, _INVALID, _INVALID, False, "The request head is larger than 64 kB"),
    "request_timeout": Rule(408, _INVALID, "timeout_error", True, "The request arrived too slowly"),
    "not_found": Rule(404, _INVALID, "not_found_error", False, "No such route"),
    "method_not_allowed": Rule(405, _INVALID, _INVALID, False, "The route does not take this method"),
    "unsupported_media_type": Rule(415, _INVALID, _INVALID, False, "The body is not JSON"),
    "overloaded": Rule(503, "server_error", "overloaded_error", True, "This node is full"),
    "draining": Rule(503, "server_error", "overloaded_error", True, "This node is shutting down"),
    "directory_stale": Rule(503, "server_error", "api_error", True, "This node is cut off from the store"),
    "not_ready": Rule(503, "server_error", "overloaded_error", True, "This node is still starting"),
    # -- who
    "key_missing": Rule(401, "authentication_error", "authentication_error", False, "No key was given"),
    "key_invalid": Rule(401, "authentication_error", "authentication_error", False, "The key is not known"),
    "key_expired": Rule(401, "authentication_error", "authentication_error", False, "The key has expired"),
    "key_disabled": Rule(403, "permission_error", "permission_error", False, "The key is switched off"),
    "network_not_allowed": Rule(
        403, "permission_error", "permission_error", False, "The key may not be used from there"
    ),
    "token_invalid": Rule(401, "authentication_error", "authentication_error", False, "Not a token of this broker"),
    "token_expired": Rule(401, "authentication_error", "authentication_error", False, "The token has expired"),
    "token_revoked": Rule(401, "authentication_error", "authentication_error", False, "The token was revoked"),
    "user_required": Rule(403, "permission_error", "permission_error", False, "The key needs a user to be named"),
    # -- may it run
    "model_not_allowed": Rule(403, "permission_error", "permission_error", False, "The key may not use this model"),
    "model_not_found": Rule(404, _INVALID, "not_found_error", False, "No provider serves this model"),
    "deployment_unknown": Rule(404, _INVALID, "not_found_error", False, "The deployment is mapped to no model"),
    "purpose_not_allowed": Rule(403, "permission_error", "permission_error", False, "The key may not do this"),
    "max_tokens_exceeded": Rule(400, _INVALID, _INVALID, False, "More output was asked for than the policy allows"),
    "prompt_too_large": Rule(413, _INVALID, "request_too_large", False, "The prompt is larger than the policy allows"),
    "unpriced_model": Rule(403, "permission_error", "permission_error", False, "The model has no price"),
    "unbounded_request": Rule(400, _INVALID, _INVALID, False, "No finite cost ceiling can be given for this request"),
    "guard_blocked": Rule(400, _INVALID, _INVALID, False, "A guard refused the content"),
    # -- rates
    "rate_limited": Rule(429, "rate_limit_exceeded", _RATE, True, "A rate limit is reached"),
    "concurrency_limited": Rule(429, "rate_limit_exceeded", _RATE, True, "Too many calls are in flight"),
    # -- money
    "budget_exhausted": Rule(429, "insufficient_quota", _RATE, False, "The budget is spent"),
    "held_by_requests_in_flight": Rule(429, "rate_limit_exceeded", _RATE, True, "The rest of the budget is held"),
    "can_never_fit": Rule(402, "insufficient_quota", "billing_error", False, "The call can cost more than the budget"),
    "ids_unavailable": Rule(503, "server_error", "api_error", True, "The store of provider-made ids does not answer"),
    "store_unavailable": Rule(503, "server_error", "api_error", True, "The money store cannot be written"),
    # -- upstream
    "no_provider_key": Rule(503, "server_error", "api_error", False, "No provider key fits this call"),
    "audit_unavailable": Rule(503, "server_error", "api_error", True, "The audit cannot be written"),
    "upstream_unreachable": Rule(502, "server_error", "api_error", True, "The provider could not be reached"),
    "upstream_timeout": Rule(504, "server_error", "timeout_error", True, "The provider did not answer in time"),
    "upstream_broken": Rule(502, "server_error", "api_error", False, "The provider's answer broke off"),
    "upstream_unavailable": Rule(
        503, "server_error", "api_error", True, "Every provider of the model has failed lately"
    ),
    "upstream_key_refused": Rule(502, "server_error", "api_error", False, "The provider refused its key"),
    # -- provider keys in the store
    "secret_not_found": Rule(404, _INVALID, "not_found_error", False, "No such provider key"),
    "duplicate_secret": Rule(409, _INVALID, _INVALID, False, "The same provider key is already stored"),
    "invalid_address": Rule(400, _INVALID, _INVALID, False, "The address of a provider key is malformed"),
    "invalid_tags": Rule(400, _INVALID, _INVALID, False, "The tags of a provider key are malformed"),
    "invalid_secret": Rule(400, _INVALID, _INVALID, False, "The value cannot be a provider key"),
    "secrets_unavailable": Rule(503, "server_error", "api_error", True, "The secret store cannot be reached"),
    "secret_changed": Rule(409, _INVALID, _INVALID, True, "The secret was changed by somebody else meanwhile"),
    "secret_malformed": Rule(503, "server_error", "api_error", False, "What lies in the store is no provider key"),
    "store_unknown": Rule(404, _INVALID, "not_found_error", False, "No secret store has this name"),
    "store_read_only": Rule(409, _INVALID, _INVALID, False, "The secret store can only be read"),
    "store_unsupported": Rule(409, _INVALID, _INVALID, False, "The secret store cannot do that"),
    "store_sealed": Rule(503, "server_error", "api_error", True, "The secret store is sealed"),
    "store_denied": Rule(503, "server_error", "api_error", False, "The secret store does not let this node do that"),
    "store_login_failed": Rule(503, "server_error", "api_error", False, "The secret store does not let this node in"),
    "store_throttled": Rule(503, "server_error", "api_error", True, "The secret store asks to be called less often"),
    "store_mismatch": Rule(503, "server_error", "api_error", False, "The secret store is not of the kind configured"),
    "move_unverified": Rule(503, "server_error", "api_error", True, "What was moved did not read back the same"),
    "reveal_not_allowed": Rule(403, "permission_error", "permission_error", False, "Values may not be read in clear"),
    "not_installed": Rule(503, "server_error", "api_error", False, "A part that this needs is not installed"),
    "wrapper_lost": Rule(503, "server_error", "api_error", False, "The key that wraps this secret is not loaded"),
    "wrapper_wrong": Rule(503, "server_error", "api_error", False, "The wrapping key is not the one used to seal"),
    "wrapper_unsafe": Rule(503, "server_error", "api_error", False, "The wrapping key is open to others or too weak"),
    "wrapper_unavailable": Rule(503, "server_error", "api_error", True, "The wrapping key's service cannot be reached"),
    "wrapper_denied": Rule(503, "server_error", "api_error", False, "The wrapping key's service refuses Bursar"),
    "tags_changed": Rule(503, "server_error", "api_error", False, "The address or tags are not those sealed"),
    "tampered": Rule(503, "server_error", "api_error", False, "The sealed secret was altered"),
    "format_unknown": Rule(503, "server_error", "api_error", False, "The sealed secret has an unknown format"),
    "scan_unreadable": Rule(400, _INVALID, _INVALID, False, "What should be scanned cannot be read"),
    # -- tokens for keys and outside identities: POST /oauth/token
    "control_unavailable": Rule(503, "server_error", "api_error", True, "The control process does not answer"),
    "token_request_invalid": Rule(400, _INVALID, _INVALID, False, "The token request is not what RFC 8693 asks for"),
    "token_type_unknown": Rule(400, _INVALID, _INVALID, False, "Only tokens are revoked here"),
    "grant_not_supported": Rule(400, _INVALID, _INVALID, False, "Only token exchange is offered"),
    "target_unknown": Rule(400, _INVALID, _INVALID, False, "Tokens are issued for this broker only"),
    "scope_invalid": Rule(400, _INVALID, _INVALID, False, "The scope cannot be read"),
    "scope_widens": Rule(400, _INVALID, _INVALID, False, "The scope is wider than what stands behind it"),
    "subject_malformed": Rule(400, _INVALID, _INVALID, False, "The subject token is not a readable JWT"),
    "subject_too_large": Rule(400, _INVALID, _INVALID, False, "The subject token is too large"),
    "subject_header_refused": Rule(400, _INVALID, _INVALID, False, "The subject token has a header that is not taken"),
    "subject_algorithm_refused": Rule(400, _INVALID, _INVALID, False, "The subject token is signed in another way"),
    "subject_claims_refused": Rule(400, _INVALID, _INVALID, False, "A claim of the subject token is missing or wrong"),
    "subject_issuer_unknown": Rule(400, _INVALID, _INVALID, False, "No trust rule names this issuer"),
    "subject_keys_unavailable": Rule(503, "server_error", "api_error", True, "The issuer's keys cannot be had"),
    "subject_key_unknown": Rule(400, _INVALID, _INVALID, False, "The issuer has no such key"),
    "subject_signature_wrong": Rule(400, _INVALID, _INVALID, False, "The subject token's signature is wrong"),
    "subject_expired": Rule(400, _INVALID, _INVALID, False, "The subject token has expired"),
    "subject_not_yet_valid": Rule(400, _INVALID, _INVALID, False, "The subject token is not valid yet"),
    "subject_audience_wrong": Rule(400, _INVALID, _INVALID, False, "The subject token is for another audience"),
    "subject_not_trusted": Rule(400, _INVALID, _INVALID, False, "No trust rule fits the subject token's claims"),
    "subject_ambiguous": Rule(400, _INVALID, _INVALID, False, "More than one trust rule fits the subject token"),
    "subject_replayed": Rule(400, _INVALID, _INVALID, False, "The subject token was used before"),
    # -- backup and restore
    "restore_unacknowledged": Rule(503, "server_error", "api_error", False, "Restored from a backup and still paused"),
    "backup_failed": Rule(503, "server_error", "api_error", False, "The backup could not be taken"),
    "backup_damaged": Rule(400, _INVALID, _INVALID, False, "The backup is not whole"),
    "folder_not_empty": Rule(409, _INVALID, _INVALID, False, "The data folder is not empty"),
    "replay_unfit": Rule(400, _INVALID, _INVALID, False, "The audit does not continue this backup"),
    # -- administration
    "admin_token_missing": Rule(401, "authentication_error", "authentication_error", False, "No admin token was given"),
    "admin_token_invalid": Rule(401, "authentication_error", "authentication_error", False, "Not the admin token"),
    "admin_token_expired": Rule(401, "authentication_error", "authentication_error", False, "The admin token is over"),
    "role_not_allowed": Rule(403, "permission_error", "permission_error", False, "The role may not do this"),
    "access_denied": Rule(403, "permission_error", "permission_error", False, "The key is not yours to do this"),
    "template_unsafe": Rule(409, _INVALID, _INVALID, False, "A name would widen the policy it stands in"),
    "login_off": Rule(404, _INVALID, "not_found_error", False, "Nobody logs in at this node"),
    "login_unknown": Rule(400, _INVALID, _INVALID, False, "No such login is under way"),
    "login_denied": Rule(403, "permission_error", "permission_error", False, "The issuer did not let the person in"),
    "login_token_refused": Rule(403, "permission_error", "permission_error", False, "The issuer's ID token is wrong"),
    "login_no_role": Rule(403, "permission_error", "permission_error", False, "The person has no role here"),
    "login_issuer_unavailable": Rule(503, "server_error", "api_error", True, "The issuer of logins cannot be asked"),
    "too_many_logins": Rule(429, "rate_limit_exceeded", _RATE, True, "Too many logins or sessions are open"),
    "too_many_guesses": Rule(429, "rate_limit_exceeded", _RATE, True, "Too many wrong admin tokens"),
    "host_not_allowed": Rule(403, "permission_error", "permission_error", False, "The admin API has another name"),
    "invalid_input": Rule(400, _INVALID, _INVALID, False, "What was sent does not fit"),
    "unknown_id": Rule(404, _INVALID, "not_found_error", False, "Nothing has this id"),
    "already_exists": Rule(409, _INVALID, _INVALID, False, "The id is taken"),
    "in_use": Rule(409, _INVALID, _INVALID, False, "Something else still needs it"),
    "no_undo": Rule(409, _INVALID, _INVALID, False, "The change has no way back"),
    "no_preview": Rule(400, _INVALID, _INVALID, False, "The act cannot be tried out first"),
    "changed_since": Rule(409, _INVALID, _INVALID, False, "It was changed again since"),
    "managed_by_git": Rule(409, _INVALID, _INVALID, False, "It is kept in files, which say what it is"),
    "plan_stale": Rule(409, _INVALID, _INVALID, False, "The directory is not what the plan was made for"),
    "too_many_changes": Rule(413, _INVALID, "request_too_large", False, "More changes than are made at once"),
    "policy_widens": Rule(409, _INVALID, _INVALID, False, "A key may only narrow what its team allows"),
    "node_name_taken": Rule(409, _INVALID, _INVALID, False, "Another node of the fleet has this name"),
    "directory_changed": Rule(409, _INVALID, _INVALID, True, "The directory was changed by somebody else"),
    "ledger_unreadable": Rule(503, "server_error", "api_error", True, "The ledger's read model stands still"),
    "decisions_unavailable": Rule(503, "server_error", "api_error", True, "The kept decisions cannot be read"),
    "directory_unavailable": Rule(503, "server_error", "api_error", True, "The directory cannot be written"),
    "internal_error": Rule(500, "server_error", "api_error", True, "Something failed inside Bursar"),
}
