"""Put on PYTHONPATH by a test: no process of that run reaches a network, and each attempt is written down."""

import os
import socket
import sys
import traceback
from typing import Any

_LOG = os.environ.get("ZSQ_TEST_NETWORK_LOG")
_connect = socket.socket.connect


def _refused(what: str, arguments: object) -> OSError:
    if _LOG:
        with open(_LOG, "a", encoding="utf-8") as log:
            place = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[-6:-2]]
            log.write(f"{' '.join(sys.argv)[:200]}: {what}{arguments!r} at {place}\n")
    return OSError(f"{what}: the network is cut")


def _cut(name: str) -> Any:
    def refuse(*arguments: Any, **_: Any) -> Any:
        of_socket = arguments and isinstance(arguments[0], socket.socket)
        if of_socket and arguments[0].family == socket.AF_UNIX:
            return _connect(*arguments)
        raise _refused(name, arguments[1:] if of_socket else arguments)

    return refuse


for _name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, _name, _cut(_name))
for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, _name, _cut(_name))
