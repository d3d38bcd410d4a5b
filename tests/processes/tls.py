"""TLS before a server that speaks none, as Google's do: gRPC sends tokens over nothing else."""

from __future__ import annotations

import datetime as dt
import ipaddress
import selectors
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_POLL_S = 0.05


class TlsFront:
    """Takes encrypted connections and passes what they say on in plain text, and back.

    Args:
        behind: "host:port" of the server.
        certificate: Where to write the certificate that clients must trust.
    """

    def __init__(self, behind: str, certificate: Path) -> None:
        host, _, port = behind.rpartition(":")
        self._behind = (host, int(port))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_alpn_protocols(["h2"])
        key = certificate.with_suffix(".key")
        _write_certificate(certificate, key)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_POLL_S)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="tls front")]
        self._threads[0].start()

    def __enter__(self) -> TlsFront:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                accepted, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(accepted,), name="tls pipe")
                self._threads.append(thread)
                thread.start()

    def _serve(self, accepted: socket.socket) -> None:
        with accepted, suppress(OSError):
            accepted.settimeout(5)
            with (
                self._context.wrap_socket(accepted, server_side=True) as outer,
                socket.create_connection(self._behind) as inner,
            ):
                self._pass_on(outer, inner)

    def _pass_on(self, outer: ssl.SSLSocket, inner: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(outer, selectors.EVENT_READ, inner)
            selector.register(inner, selectors.EVENT_READ, outer)
            while not self._ended.is_set():
                for key, _ in selector.select(_POLL_S):
                    data = key.fileobj.recv(65_536)  # type: ignore[union-attr]  # a socket of ours
                    if not data:
                        return
                    key.data.sendall(data)
                    while outer.pending():
                        inner.sendall(outer.recv(65_536))


def _write_certificate(certificate: Path, key_path: Path) -> None:
    """A certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
