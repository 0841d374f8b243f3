"""What `bursar up` shows: where to call, with what, and what lies where."""

from pathlib import Path

from bursar.app.places import key_place, keyfile_path
from bursar.app.spec import Ready
from bursar.config import Config

_SNIPPET = """\
from openai import OpenAI

client = OpenAI(
    base_url="{url}/v1",
    api_key="{key}",
)
answer = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)
"""

_CURL = """\
curl -s {url}/v1/chat/completions \\
  -H 'authorization: Bearer {key}' \\
  -H 'content-type: application/json' \\
  -d '{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""

_NEXT = """\
Then, in another terminal:
{path}  bursar usage --by model   what that call cost
  bursar adopt TEAM         a provider key of yours: vault, budget, virtual key
  bursar checklist          what is still to be done, and what to type for it
  bursar --help             everything else

"""


def render_banner(config: Config, folder: Path, ready: Ready, programs: str = "") -> str:
    """Plain text of 80 columns, as far as addresses let it; what is to be pasted begins its line, as Python asks.

    The demo key appears at the very first start only. `programs`: the folder of the `bursar` command, where the shell
    does not find it.
    """
    scheme = "https" if config.listen.data.tls is not None else "http"
    url = f"{scheme}://{_host(config.listen.data.host)}:{config.listen.data.port}"
    parts = [
        "Bursar is serving.\n",
        f"  data port   {url}   (point an OpenAI or Anthropic SDK here)\n",
        f"  admin API   http://{_host(config.listen.admin.host)}:{config.listen.admin.port}\n",
        f"  metrics     http://{_host(config.listen.metrics.host)}:{config.listen.metrics.port}/metrics\n\n",
        _providers(ready),
        _demo(url, ready, programs),
        _where(config, folder),
    ]
    return "".join(parts)


def _host(host: str) -> str:
    shown = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104  # shown, not bound
    return f"[{shown}]" if ":" in shown else shown


def _providers(ready: Ready) -> str:
    lines = []
    if ready.sealed:
        lines.append(f"Sealed from the environment (billing owner `unassigned`): {', '.join(ready.sealed)}.\n")
    if ready.unsealed:
        lines.append(
            f"Provider keys seen in the environment: {', '.join(ready.unsealed)}. They were left alone; "
            "`bursar up --seal-env`\nseals them into the vault.\n"
        )
    if ready.emulator:
        lines.append(
            "No provider key is stored: the built-in EMULATOR answers, with made-up text and\n"
            "real prices. Store one with `bursar adopt TEAM` or `bursar secrets put`.\n"
        )
    if ready.flagged and not ready.emulator:
        lines.append(f"{ready.flagged} provider key(s) have no billing owner: `bursar secrets list`.\n")
    return "".join(lines) + ("\n" if lines else "")


def _demo(url: str, ready: Ready, programs: str) -> str:
    if not ready.demo_key:
        return "Virtual keys: `bursar keys list`; a new one: `bursar keys create --help`.\n\n"
    curl = _CURL.format(url=url, key=ready.demo_key)
    snippet = _SNIPPET.format(url=url, key=ready.demo_key)
    path = f'  export PATH="{programs}:$PATH"\n' if programs else ""
    return (
        f"Demo virtual key (shown this once; $100 a month):\n  {ready.demo_key}\n\n"
        f"Try it with curl:\n\n{curl}\nor with the official SDK:\n\n{snippet}\n{_NEXT.format(path=path)}"
    )


def _where(config: Config, folder: Path) -> str:
    wrapper, reveals = config.wrapper, _REVEALS_LITTLE
    key = f"the wrapping key is {key_place(wrapper, folder)}"
    if wrapper.kind == "keyfile" and keyfile_path(wrapper, folder).is_relative_to(folder):
        reveals = _REVEALS_ALL
    return f"Data lies in {folder};\n{key}.\n{reveals}Stop with Ctrl-C.\n"


_REVEALS_ALL = (
    "A copy of this folder reveals everything, provider keys included, because the\n"
    "wrapping key lies in it; `wrapper.path` in bursar.yaml keeps it elsewhere.\n"
)
_REVEALS_LITTLE = (
    "A copy of the folder reveals names, tags, spend and the admin token, but\n"
    "no provider key and no virtual key: those need the wrapping key. Keep the two apart.\n"
)
