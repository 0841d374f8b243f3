"""`bursar adopt`: the first key of a team in one command, and the way back in another."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from bursar.control.adopting import (
    MARK,
    Wish,
    address_of,
    documents,
    is_own_address,
    key_name,
    recognised,
    snippet,
)
from bursar.control.history import is_whole
from bursar.control.import_keys import Candidate
from bursar.control.manifest_files import Merged
from bursar.control.manifest_plan import Given
from bursar.core.errors import Refusal
from bursar.core.key_shapes import look
from bursar.faces.adopt_call import try_one
from bursar.faces.cli_apply import KeyFile, KeysTo, apply_planned, ask_plan
from bursar.faces.cli_keys import Yes
from bursar.faces.cli_terminal import REFUSED, USAGE, Locate, Terminal, Trouble, command, provider_key_text, usd
from bursar.faces.client import ApiRefusal, NotReachable, segment
from bursar.faces.plan_view import write_plan
from bursar.faces.tables import card, secret_panel, write

FromEnv = Annotated[str, typer.Option("--from-env", metavar="NAME", help="Read the key from this variable.")]
FromFile = Annotated[
    Path | None, typer.Option("--from-file", metavar="FILE", help="Read it from there: the key alone, or a dotenv.")
]
Undo = Annotated[int, typer.Option("--undo", metavar="N", min=0, help="Take an adoption back: all of it.")]
Try = Annotated[str, typer.Option("--try", metavar="MODEL", help="Make one call of one token, and tell its price.")]


def add_adopt(app: typer.Typer, locate: Locate) -> None:
    @command(app, "adopt", locate)
    def adopt(  # noqa: PLR0913 - each is an option
        terminal: Terminal,
        team: Annotated[str, typer.Argument(metavar="TEAM", help="Whose key it is to be; made if missing.")] = "",
        *,
        owner: Annotated[str, typer.Option("--owner", help="Who pays; made if missing. Left out: as the team.")] = "",
        from_env: FromEnv = "",
        from_file: FromFile = None,
        provider: Annotated[str, typer.Option("--provider", help="Where the key's shape does not tell.")] = "",
        models: Annotated[str, typer.Option("--models", help="Names or globs with commas; left out: any.")] = "",
        purpose: Annotated[str, typer.Option("--purpose", help="inference, embedding, ...")] = "inference",
        limit: Annotated[str, typer.Option("--limit", metavar="USD", help="Hard, a month.")] = "$10",
        requests: Annotated[int, typer.Option("--requests", min=0, help="A minute; 0 = no limit.")] = 60,
        tokens: Annotated[int, typer.Option("--tokens", min=0, help="A minute; 0 = no limit.")] = 100_000,
        try_model: Try = "",
        keys_to: KeysTo = None,
        preview: Annotated[bool, typer.Option("--preview", help="Only show what would be done.")] = False,
        yes: Yes = False,
        undo: Undo = 0,
    ) -> None:
        """Take a team's provider key (standard input, file or variable) into the vault, behind a budget, limits and a
        virtual key. The provider key is never printed."""
        if undo:
            _take_back(terminal, undo, yes)
            return
        _check_team(team)
        found, origin = _read(from_env, from_file, provider)
        wish = Wish(
            team=team,
            owner=owner,
            limit_usd=usd(limit),
            models=tuple(part for raw in models.split(",") if (part := raw.strip())),
            requests=requests,
            tokens=tokens,
        )
        job = _Adoption(terminal, found, origin, wish, purpose)
        job.look()
        if preview:
            job.show()
            return
        job.run(keys_to, try_model, yes)


def _check_team(team: str) -> None:
    if not team:
        raise Trouble("Whose key is it?", "bursar adopt TEAM < file-with-the-key", USAGE)
    if look(team.encode("utf-8", "surrogatepass")):
        message = "A key was given as an argument, where `ps` and the shell's history show it"
        raise Trouble(message, "Replace it at the provider, and pipe the new one in: bursar adopt TEAM < FILE", USAGE)


def _read(variable: str, file: Path | None, provider: str) -> tuple[Candidate, str]:
    """The key, and what to delete afterwards. Raises Trouble."""
    if variable and file is not None:
        raise Trouble("--from-env and --from-file exclude one another", "Name the one place where it lies", USAGE)
    try:
        if variable:
            if not os.environ.get(variable):
                raise Trouble(f"The variable {variable} is empty or not set", "Pipe the key in instead", USAGE)
            return recognised(os.environ[variable], variable, provider), f"the variable {variable}, and what sets it"
        if file is None:
            text = provider_key_text()
            return recognised(text, "", provider), "the file or command that was piped in"
        found = recognised(file.read_text(encoding="utf-8"), "", provider)
        return found, f"{file}:{found.line} {found.name}" if found.line else str(file)
    except (OSError, UnicodeDecodeError) as fault:
        reason = getattr(fault, "strerror", None) or "is not UTF-8"
        raise Trouble(f"{file or 'standard input'}: {reason}", "Give a text file in UTF-8", USAGE) from None
    except Refusal as refusal:
        raise Trouble(refusal.message, refusal.hint, USAGE, refusal.word) from None


class _Adoption:
    """Looks first, changes nothing before it is asked; seals, then makes the rest in one change, then tags.

    In that order what breaks off leaves a sealed key that only its team could use, and the same command goes on.
    """

    def __init__(self, terminal: Terminal, found: Candidate, origin: str, wish: Wish, purpose: str) -> None:
        self._terminal, self._found, self._origin, self._purpose = terminal, found, origin, purpose
        self._wish = wish
        self._provider = found.address.partition("/")[0]

    def look(self) -> None:
        """What is there, and the plan of what is not. Raises Trouble, and the node's refusals."""
        api, wish = self._terminal.api, self._wish
        team = _there(self._terminal, f"/teams/{segment(wish.team)}")
        if team is not None and wish.owner not in ("", team["owner"]):
            message = f"Team {wish.team} is of {team['owner']}, not of {wish.owner}"
            raise Trouble(message, "Leave --owner out, or name another team", USAGE)
        self._wish = wish = msgspec.structs.replace(wish, owner=team["owner"] if team else wish.owner or wish.team)
        self._owner_is_new = _there(self._terminal, f"/owners/{segment(wish.owner)}") is None
        keys = api.every("/keys", {"team": wish.team}) if team else ()
        name = key_name(self._provider)
        self._key = next((key for key in keys if key["name"] == name), None)
        said = {}
        if self._key is None:
            said = documents(wish, self._provider, owner_is_new=self._owner_is_new, team_is_new=team is None)
        self._merged = Merged(given=Given(documents=said), places={})
        self._plan = ask_plan(self._terminal, self._merged)
        taken = {entry["address"] for entry in api.every("/provider-keys")}
        self._address = address_of(self._provider, wish.team, taken)

    def show(self) -> None:
        if self._terminal.as_json:
            self._terminal.json({"adopted": False, "address": self._address, "tags": self._tags(), "plan": self._plan})
            return
        key = f"{self._found.kind} of {self._provider}, from {self._origin}"
        tags = ", ".join(f"{name}={value}" for name, value in self._tags().items())
        place = self._address if self._plan["steps"] else f"{self._address}, unless it lies in the vault already"
        write(self._terminal.out, card({"key": key, "goes to": place, "tags": tags}))
        write_plan(self._terminal.out, self._plan)

    def run(self, keys_to: Path | None, try_model: str, yes: bool) -> None:
        terminal = self._terminal
        if not terminal.as_json:
            self.show()
        terminal.confirm(f"Adopt the key for team {self._wish.team}?", yes)
        place = KeyFile(keys_to, self._plan)
        try:
            entry, held = self._seal()
        except BaseException:
            place.discard()
            raise
        if held and not self._plan["steps"] and MARK in entry["tags"]:
            self._tell_held(entry)
            return
        text, version = self._make(entry, place)
        if text and not place.path and not terminal.as_json:
            write(terminal.out, secret_panel(f"Virtual key of team {self._wish.team}", text))
        open_end = self._tag(entry, version)
        tried = try_one(terminal, self._provider, try_model, text, str(self._key_id)) if try_model and text else None
        self._tell(entry, "" if place.path else text, version, tried, place)
        if open_end is not None:
            raise open_end
        if tried is not None and tried.get("error"):
            hint = f"The key is adopted all the same; take it back: bursar adopt --undo {version}"
            raise Trouble(f"The call failed: {tried['error']}", hint, REFUSED, tried["code"])

    def _tags(self) -> dict[str, str]:
        models = {"allowed_models": ",".join(self._wish.models)} if self._wish.models else {}
        return {"billing_owner": self._wish.owner, "purpose": self._purpose, **models}

    def _seal(self) -> tuple[dict[str, Any], bool]:
        """The entry, and whether it was there already. Raises Trouble; nothing was changed then."""
        api, tags = self._terminal.api, self._tags()
        if self._owner_is_new:
            del tags["billing_owner"]  # set as soon as there is one; until then the address keeps it to its team
        body = {"address": self._address, "value": self._found.value.reveal(), "tags": tags}
        try:
            return api.call("POST", "/provider-keys", body), False
        except ApiRefusal as refusal:
            if refusal.word != "duplicate_secret":
                raise Trouble(f"{refusal.message}; nothing was changed", refusal.hint, word=refusal.word) from None
            facts = refusal.problem.get("facts", {})
            address = str(facts.get("address", ""))
            if not is_own_address(address, self._provider, self._wish.team):
                hint = "It stays where it is; let this team use it: bursar secrets grant --help"
                raise Trouble(f"{refusal.message}; nothing was changed", hint, word=refusal.word) from None
            self._address = address
            return api.call("GET", f"/provider-keys/{segment(str(facts['secret']))}"), True

    def _make(self, entry: dict[str, Any], place: KeyFile) -> tuple[str, int]:
        """Everything of the directory, as one change -> the virtual key's text, "" if it was there; the version."""
        self._key_id = self._key["id"] if self._key else ""
        if not self._plan["steps"]:
            return "", 0 if entry["tags"].get(MARK) else _made_by(self._terminal, self._key_id)
        on = f"The provider key is sealed as {entry['id']}: to go on, run the same command again; "
        on += f"to leave it, bursar secrets destroy {entry['id']}"
        try:
            done = apply_planned(self._terminal, self._merged, self._plan, place)
        except ApiRefusal as refusal:
            raise Trouble(refusal.message, on, word=refusal.word) from None
        except Trouble as trouble:
            raise Trouble(trouble.message, on, trouble.code, trouble.word) from None
        place.write(done["keys"])
        self._key_id = done["keys"][0]["id"]
        return done["keys"][0]["text"], int(done["version"])

    def _tag(self, entry: dict[str, Any], version: int) -> Trouble | None:
        """Bind owner and adoption to the entry; what went wrong is for the end, when everything is shown."""
        tags = self._tags() | ({MARK: str(version)} if version else {})
        path = f"/provider-keys/{segment(entry['id'])}/tags"
        try:
            self._terminal.api.call("POST", path, {"tags": tags})
        except (ApiRefusal, NotReachable) as error:
            said = " ".join(f"{name}='{value}'" for name, value in tags.items())
            word = error.word if isinstance(error, ApiRefusal) else "not_reachable"
            message = f"Adopted, but the provider key has no owner yet: {error}"
            return Trouble(message, f"bursar secrets tag {entry['id']} {said}", word=word)
        return None

    # ---- telling

    def _tell_held(self, entry: dict[str, Any]) -> None:
        undo = _undo_of(entry["tags"].get(MARK, "0"), entry["id"])
        said = f"this key is adopted already, as {entry['address']}; nothing was changed"
        told = {"adopted": False, "address": entry["address"], "secret": entry["id"], "undo": undo}
        self._terminal.done(f"{said}; undo: {undo}", told)

    def _tell(
        self, entry: dict[str, Any], text: str, version: int, tried: dict[str, Any] | None, place: KeyFile
    ) -> None:
        terminal, wish = self._terminal, self._wish
        node = terminal.place
        url = os.environ.get("BURSAR_URL", node.data_url)
        undo = _undo_of(str(version), entry["id"])
        code = snippet(self._provider, url, text or "YOUR-VIRTUAL-KEY", wish.models)
        told = {
            "base_url": url if self._provider == "anthropic" else f"{url}/v1",
            "virtual_key": f"its text is in {place.path}" if place.path else "" if text else self._no_text(),
            "metrics": node.metrics_url,
            "usage": f"bursar usage --by key; bursar keys show {self._key_id}",
            "now delete": self._origin,
            "undo": undo,
        }
        if tried is not None and not tried.get("error"):
            told["tried"] = f"{tried['model']}: one call, {tried['cost_usd'] or 'its price is not settled yet'}"
        if terminal.as_json:
            key = {"id": self._key_id, "text": "***" if place.path else text}
            more = {"secret": entry["id"], "address": self._address, "key": key, "snippet": code, "tried": tried}
            terminal.json({"adopted": True, **told, **more, "version": version, "delete": self._origin})
            return
        terminal.done(f"adopted: sealed as {self._address}; undo: {undo}", told)
        write(terminal.out, card({name.replace("_", " "): fact for name, fact in told.items() if fact}))
        write(terminal.out, Text(f"\n{code}"))

    def _no_text(self) -> str:
        return f"{self._key_id}, as before; lost its text? bursar keys rotate {self._key_id}"


def _there(terminal: Terminal, path: str) -> dict[str, Any] | None:
    try:
        return dict(terminal.api.call("GET", path))
    except ApiRefusal as refusal:
        if refusal.word != "unknown_id":
            raise
        return None


def _made_by(terminal: Terminal, key_id: str) -> int:
    """The change by which an adoption that broke off has made its virtual key; 0 = another, or it may not be asked."""
    try:
        changes = terminal.api.call("GET", "/changes", query={"of": f"key/{key_id}", "limit": 1000})["items"]
    except ApiRefusal as refusal:
        if refusal.word != "role_not_allowed":
            raise
        return 0
    return int(changes[-1]["version"]) if changes and is_whole(changes[-1]["action"]) else 0  # the oldest is the last


def _undo_of(version: str, secret_id: str) -> str:
    return f"bursar adopt --undo {version}" if version != "0" else f"bursar secrets destroy {secret_id}"


def _take_back(terminal: Terminal, version: int, yes: bool) -> None:
    """The change of the directory first, which may be refused; then what was sealed with it, for ever."""
    entries = [e for e in terminal.api.every("/provider-keys") if e["tags"].get(MARK) == str(version)]
    if not entries:
        hint = f"See: bursar history; what is no adoption goes back with bursar undo {version}"
        raise Trouble(f"No provider key was adopted by change {version}", hint, word="unknown_id")
    named = ", ".join(entry["address"] for entry in entries)
    terminal.confirm(
        f"Take change {version} back and shred {named}, for ever? Have the key at another place first.", yes
    )
    terminal.api.call("POST", f"/changes/{version}/undo")
    for entry in entries:
        try:
            terminal.api.call("DELETE", f"/provider-keys/{segment(entry['id'])}")
        except (ApiRefusal, NotReachable) as error:
            message = f"The directory is as before; {entry['address']} is still sealed: {error}"
            raise Trouble(message, f"bursar secrets destroy {entry['id']}") from None
    done = {"undone": version, "destroyed": [entry["id"] for entry in entries]}
    terminal.done(f"taken back; undo: none, {named} is shredded", done)
