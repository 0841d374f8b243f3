"""What is measured: nginx and the bare pass-through, in front of the same upstream, on free local ports."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.accounts import family

OUT = Path(__file__).parent / "out"

_NGINX = """
daemon off;
worker_processes 1;
{user}
error_log {out}/nginx-error.log;
pid {out}/nginx.pid;
worker_rlimit_nofile {files};
events {{ worker_connections 50000; }}
http {{
    access_log off;
    client_body_temp_path {out}/body; proxy_temp_path {out}/proxy;
    fastcgi_temp_path {out}/fastcgi; uwsgi_temp_path {out}/uwsgi; scgi_temp_path {out}/scgi;
    client_max_body_size 64m; client_body_buffer_size 1m; keepalive_requests 100000000; keepalive_timeout 300s;
    upstream provider {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 600s;
    server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://provider; }} }}
    server {{ listen 127.0.0.1:{unbuffered}; location / {{ proxy_buffering off; proxy_pass http://provider; }} }}
    server {{
        listen 127.0.0.1:{tls} ssl; ssl_certificate {out}/cert.pem; ssl_certificate_key {out}/key.pem;
        location / {{ proxy_pass http://provider; }}
    }}
}}
"""


def descriptors() -> int:
    """How many files a process may open here at most: what bounds the number of streams (two a stream in a proxy)."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. All are held until all are chosen, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def wait_port(port: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")


@dataclass
class Target:
    """A running proxy (or the upstream itself) and how to speak to it."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    tls_url: str = ""
    stream_url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)  # what the report must say about it
    may_refuse: bool = False  # a disk that syncs too slowly makes money close: counted and told, not a broken bench

    @property
    def pids(self) -> list[int]:
        return family(self.process.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def spawn(name: str, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    log = (OUT / f"{name}.log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=OUT.parent.parent, env=env)


def certificate() -> None:
    """A throw-away certificate for 127.0.0.1; wrk does not verify it, the cost of TLS is the same."""
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(OUT / "key.pem"), "-out", str(OUT / "cert.pem")]
    subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)


def upstream() -> Target:
    (port,) = free_ports(1)
    process = spawn("upstream", sys.executable, "-m", "bench.upstream", str(port))
    wait_port(port)
    url = f"http://127.0.0.1:{port}"
    return Target("direct", process, url, stream_url=url)


def nginx(upstream_port: int) -> Target:
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed")
    plain, unbuffered, tls = free_ports(3)
    conf = OUT / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(
        _NGINX.format(
            out=OUT, user=user, files=descriptors(), upstream=upstream_port, plain=plain, unbuffered=unbuffered, tls=tls
        )
    )
    process = spawn("nginx", program, "-e", str(OUT / "nginx-error.log"), "-c", str(conf))
    wait_port(plain)
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr.strip()
    return Target(
        "nginx",
        process,
        f"http://127.0.0.1:{plain}",
        f"https://127.0.0.1:{tls}",
        f"http://127.0.0.1:{unbuffered}",
        facts={"version": version.removeprefix("nginx version: ")},
    )


def passthrough(upstream_port: int, *, tls: bool) -> Target:
    (port,) = free_ports(1)
    files = (str(OUT / "cert.pem"), str(OUT / "key.pem")) if tls else ()
    command = (sys.executable, "-m", "bench.passthrough", str(port), str(upstream_port))
    process = spawn(f"passthrough{'-tls' if tls else ''}", *command, *files)
    wait_port(port)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    return Target("pass-through", process, "" if tls else url, url if tls else "", "" if tls else url)
