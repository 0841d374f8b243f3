"""The command line: every subject a group, every answer a table or JSON, every refusal with what to type next."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from bursar.faces.cli_access import policy_group
from bursar.faces.cli_admins import add_whoami, admins_group
from bursar.faces.cli_adopt import add_adopt
from bursar.faces.cli_apply import add_apply
from bursar.faces.cli_audit import audit_group
from bursar.faces.cli_backup import BackupDesk, add_backup
from bursar.faces.cli_breakers import breakers_group
from bursar.faces.cli_check import CheckConfig, Connect, add_check
from bursar.faces.cli_checklist import add_checklist
from bursar.faces.cli_estimate import add_estimate
from bursar.faces.cli_explain import add_explain
from bursar.faces.cli_fleet import add_nodes
from bursar.faces.cli_history import add_history
from bursar.faces.cli_import import import_group
from bursar.faces.cli_keys import keys_group
from bursar.faces.cli_login import add_login, sessions_group
from bursar.faces.cli_map import add_map
from bursar.faces.cli_models import models_group
from bursar.faces.cli_money import budgets_group
from bursar.faces.cli_observe import observe_group
from bursar.faces.cli_panels import Ordered, set_panels
from bursar.faces.cli_prices import Compare, prices_group
from bursar.faces.cli_replay import LoadPrices, add_policy_test
from bursar.faces.cli_scan import add_scan
from bursar.faces.cli_secrets import secrets_group
from bursar.faces.cli_shadow import add_shadow
from bursar.faces.cli_store import Move, store_group
from bursar.faces.cli_tenants import owners_group, teams_group
from bursar.faces.cli_terminal import Locate, Place, Terminal, Verified, command, tell
from bursar.faces.cli_token import add_token
from bursar.faces.cli_trust import tokens_group, trust_group
from bursar.faces.cli_usage import add_usage
from bursar.faces.cli_vault import RecoveryDesk, add_vault
from bursar.faces.tables import card, write

EPILOG = (
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 node not reachable, "
    "4 a verification or a line of the checklist failed, or a scan found keys, 5 the configuration has faults."
)


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `bursar up` was told."""

    config: str | None
    data: str | None
    seal_env: bool


@dataclass(frozen=True, slots=True)
class Offline:
    """What works on files or starts processes; handed in by the composition root, which alone knows adapters."""

    locate: Locate
    up: Callable[[UpOptions], int]
    check_config: CheckConfig
    connect: Connect
    verify_ledger: Callable[[Place], Verified]
    move_store: Move
    verify_audit: Callable[[Place, str | None], Verified]  # (where the node lies, known public key)
    compare_prices: Compare
    load_prices: LoadPrices
    recovery: RecoveryDesk
    backup: BackupDesk


def build_cli(offline: Offline) -> typer.Typer:
    app = typer.Typer(
        name="bursar",
        cls=Ordered,
        help="The broker that stops leaked LLM keys and exploding LLM bills.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # its tracebacks show local variables, and those may hold a secret
        add_completion=True,
    )
    locate = offline.locate
    _add_node(app, offline)
    app.add_typer(keys_group(locate), name="keys")
    app.add_typer(teams_group(locate), name="teams")
    app.add_typer(owners_group(locate), name="owners")
    app.add_typer(budgets_group(locate), name="budgets")
    policy = policy_group(locate)
    add_policy_test(policy, locate, offline.load_prices)
    app.add_typer(policy, name="policy")
    app.add_typer(models_group(locate), name="models")
    app.add_typer(breakers_group(locate), name="breakers")
    secrets = secrets_group(locate)
    add_map(secrets, locate)
    add_vault(secrets, locate, offline.recovery)
    app.add_typer(secrets, name="secrets")
    add_backup(app, locate, offline.backup)
    add_estimate(app, locate)
    add_usage(app, locate)
    app.add_typer(prices_group(locate, offline.compare_prices), name="prices")
    app.add_typer(_ledger_group(offline), name="ledger")
    app.add_typer(store_group(locate, offline.move_store), name="store")
    app.add_typer(audit_group(locate, offline.verify_audit), name="audit")
    app.add_typer(admins_group(locate), name="admins")
    add_whoami(app, locate)
    add_nodes(app, locate)
    add_login(app, locate)
    app.add_typer(sessions_group(locate), name="sessions")
    add_history(app, locate)
    add_shadow(app, locate)
    add_checklist(app, locate)
    add_apply(app, locate)
    add_explain(app, locate)
    add_adopt(app, locate)
    app.add_typer(import_group(locate), name="import")
    app.add_typer(observe_group(locate), name="observe")
    app.add_typer(trust_group(locate), name="trust")
    app.add_typer(tokens_group(locate), name="tokens")
    add_token(app, locate)
    add_scan(app, locate)
    set_panels(app)
    return app


def _add_node(app: typer.Typer, offline: Offline) -> None:
    @app.command("up")
    def up(
        config: Annotated[str | None, typer.Option("--config", envvar="BURSAR_CONFIG", help="bursar.yaml.")] = None,
        data: Annotated[str | None, typer.Option("--data", envvar="BURSAR_DATA", help="The data folder.")] = None,
        seal_env: Annotated[
            bool, typer.Option("--seal-env", help="Seal the provider keys found in the environment.")
        ] = False,
    ) -> None:
        """Start Bursar and stay in the foreground; Ctrl-C drains and stops."""
        raise typer.Exit(offline.up(UpOptions(config, data, seal_env)))

    add_check(app, offline.locate, offline.check_config, offline.connect)

    @command(app, "status", offline.locate)
    def status(terminal: Terminal) -> None:
        """How the running node is, and what wants attention."""
        found = terminal.api.call("GET", "/status")
        if terminal.as_json:
            terminal.json(found)
            return
        write(terminal.out, card(_status_facts(found)))
        for warning in found["warnings"]:
            write(terminal.out, Text.assemble(("! ", "bold yellow"), warning))


def _status_facts(status: dict[str, Any]) -> dict[str, str]:
    gateways = [
        f"{g['node']}: process {g['pid']}, {'connected' if g['connected'] else 'gone'}, at {g['directory_version']}"
        for g in status["gateways"]
    ]
    return {
        "bursar": f"{status['version']}, node {status['node']}",
        "since": status["started_at"],
        "data": status["data"],
        "directory": f"version {status['directory_version']}",
        "gateway": "; ".join(gateways),
        "knows": ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in status["counts"].items()),
        "wrong tokens": str(status["failed_guesses"]) if status["failed_guesses"] else "",
        "state": "ok" if status["ok"] else "",
    }


def _ledger_group(offline: Offline) -> typer.Typer:
    group = typer.Typer(help="The ledger, proven from its raw records.", no_args_is_help=True)

    @command(group, "verify", offline.locate)
    def verify(terminal: Terminal) -> None:
        """Prove the raw ledger: every hold ended once, every entry sums to zero, no hard budget was passed."""
        tell(terminal, offline.verify_ledger(terminal.place), "the ledger is proven")

    return group
