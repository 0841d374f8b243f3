"""The data port's certificate: read at start, and anew at SIGHUP or when its files change.

A new one that cannot be used leaves the old one serving.
"""

import logging
import ssl
from pathlib import Path

from bursar.config import Tls

_log = logging.getLogger("bursar.tls")


class TlsFiles:
    def __init__(self, files: Tls | None) -> None:
        self._files = files
        self._seen = self._stamp()

    def changed(self) -> bool:
        """Whether the files were replaced since this was last asked. Two stats: cheap enough to ask every second."""
        before, self._seen = self._seen, self._stamp()
        return self._seen != before

    def _stamp(self) -> tuple[int, ...]:
        if self._files is None:
            return ()
        try:
            stats = [Path(name).stat() for name in (self._files.cert, self._files.key)]
        except OSError:
            return ()  # in the middle of a replacement: the next look sees the new files
        return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_ino, stat.st_size))

    @property
    def wanted(self) -> bool:
        return self._files is not None

    def context(self) -> ssl.SSLContext | None:
        """A fresh server context, or None without TLS or when the files cannot be used (said in the log)."""
        if self._files is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._files.cert, self._files.key)
        except (OSError, ssl.SSLError) as fault:
            _log.error("the certificate %s cannot be used (%s)", self._files.cert, type(fault).__name__)
            return None
        return context
