"""The data port's certificate: read at start, read anew at SIGHUP. A bad new one leaves the old one serving."""

import logging
import ssl

from bursar.config import Tls

_log = logging.getLogger("bursar.tls")


class TlsFiles:
    def __init__(self, files: Tls | None) -> None:
        self._files = files

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
