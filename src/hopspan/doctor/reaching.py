"""Whether a receiver answers: a TCP connection, and TLS with the certificates that are configured.

Nothing is sent. With TLS 1.3 a server refuses a client only after the handshake, so one read with a
short wait follows it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import TYPE_CHECKING

from hopspan.doctor.receivers import PREFIX

if TYPE_CHECKING:
    from hopspan.doctor.receivers import Receiver

_REFUSAL_SECONDS = 0.3
"""A server that refuses does so at once; one that does not is silent."""


def problem_with(receiver: Receiver, seconds: float) -> tuple[str, str] | None:
    """What keeps telemetry from getting there, and how to mend it; None if it answers."""
    absent = _absent_file(receiver)
    if absent:
        return absent
    where = f"{receiver.host}:{receiver.port}"
    try:
        with socket.create_connection((receiver.host, receiver.port), timeout=seconds) as plain:
            return _problem_with_tls(receiver, plain) if receiver.tls else None
    except socket.gaierror as failure:
        return f"the host {receiver.host} is not known ({failure.strerror})", _other(receiver)
    except TimeoutError:
        return f"{where} does not answer within {seconds:g} s", _other(receiver)
    except OSError as failure:
        return f"{where} cannot be reached: {failure.strerror or failure}", _other(receiver)


def _other(receiver: Receiver) -> str:
    return f"start a collector there, or {receiver.set_to('https://HOST:PORT')}"


def _absent_file(receiver: Receiver) -> tuple[str, str] | None:
    files = {
        "CERTIFICATE": receiver.certificate,
        "CLIENT_CERTIFICATE": receiver.client_certificate,
        "CLIENT_KEY": receiver.client_key,
    }
    for name, path in files.items():
        if path and not os.access(path, os.R_OK):
            return f"{path} cannot be read", f"{PREFIX}{name}=the file, readable by this user"
    if bool(receiver.client_certificate) != bool(receiver.client_key):
        lacking = "CLIENT_KEY" if receiver.client_certificate else "CLIENT_CERTIFICATE"
        return (
            "a client certificate and its key go together, and one is missing",
            f"{PREFIX}{lacking}=its file",
        )
    return None


def _problem_with_tls(receiver: Receiver, plain: socket.socket) -> tuple[str, str] | None:
    where = f"{receiver.host}:{receiver.port}"
    try:
        context = _context(receiver)
    except OSError:  # ssl.SSLError is one
        files = [receiver.certificate, receiver.client_certificate, receiver.client_key]
        return (
            f"{', '.join(filter(None, files))} is no certificate or key that can be used",
            f"{PREFIX}CERTIFICATE, ..._CLIENT_CERTIFICATE and ..._CLIENT_KEY: PEM files",
        )
    try:
        with context.wrap_socket(plain, server_hostname=receiver.host) as secured:
            secured.settimeout(_REFUSAL_SECONDS)
            with contextlib.suppress(TimeoutError):
                secured.recv(1)
    except ssl.SSLCertVerificationError as failure:
        return (
            f"the certificate of {where} is not trusted: {failure.verify_message}",
            f"{PREFIX}CERTIFICATE=the file of the authority that has signed it",
        )
    except ssl.SSLError as failure:
        return _refusal(where, failure)
    return None


def _context(receiver: Receiver) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=receiver.certificate or None)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if receiver.client_certificate:
        context.load_cert_chain(receiver.client_certificate, receiver.client_key)
    return context


def _refusal(where: str, failure: ssl.SSLError) -> tuple[str, str]:
    reason = failure.reason or str(failure)
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            f"{where} asks for a client certificate",
            f"{PREFIX}CLIENT_CERTIFICATE=FILE and {PREFIX}CLIENT_KEY=FILE",
        )
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason or "HTTP_REQUEST" in reason:
        return f"{where} does not speak TLS", f"a port of it that does, or http://{where}"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason:
        return (
            f"{where} does not accept the client certificate ({reason})",
            f"{PREFIX}CLIENT_CERTIFICATE=one that it trusts",
        )
    return f"TLS with {where} fails: {reason}", f"look at the certificates of {where}"
