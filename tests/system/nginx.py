"""Debian's nginx, run unprivileged with a configuration of the test's own."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

_CONF = """
daemon off;
worker_processes 1;
{user}
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    {http}
}}
"""


class Nginx:
    """Runs until `stop`. `http` is the inside of the http block and listens on `port`."""

    def __init__(self, folder: Path, port: int, http: str) -> None:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        assert program, "nginx is missing: `make test-system` installs it"
        folder.mkdir(parents=True, exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""
        conf = folder / "nginx.conf"
        conf.write_text(_CONF.format(folder=folder, user=user, http=http))
        command = [program, "-e", str(folder / "error.log"), "-c", str(conf)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.process.kill()
        raise AssertionError(f"nginx does not serve: {self.process.communicate()[1].decode()}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)
