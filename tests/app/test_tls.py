"""The data port's certificate: read when it can be, noticed when it changes, kept when the new one is no good."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bursar.app.tls import TlsFiles
from bursar.config import Tls


def write_pair(folder: Path) -> Tls:
    """A fresh self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now)
    certificate = builder.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    files = Tls(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))
    Path(files.cert).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    Path(files.key).write_bytes(private)
    return files


def test_without_files_there_is_no_tls() -> None:
    files = TlsFiles(None)
    assert not files.wanted
    assert files.context() is None
    assert not files.changed()


def test_a_certificate_serves(tmp_path: Path) -> None:
    files = TlsFiles(write_pair(tmp_path))
    context = files.context()
    assert files.wanted
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_replacement_is_noticed_once(tmp_path: Path) -> None:
    files = TlsFiles(write_pair(tmp_path))
    assert not files.changed()
    write_pair(tmp_path)
    assert files.changed()
    assert not files.changed()


def test_files_in_the_middle_of_a_replacement(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    files = TlsFiles(pair)
    Path(pair.key).unlink()
    assert files.changed()
    write_pair(tmp_path)
    assert files.changed()
    assert files.context() is not None


def test_what_cannot_be_used_is_said_without_its_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = write_pair(tmp_path)
    Path(pair.key).write_text("canary")
    assert TlsFiles(pair).context() is None
    assert pair.cert in caplog.text
    assert "canary" not in caplog.text
