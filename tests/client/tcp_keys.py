"""Keys for buses over tcp, made anew for each run of the tests."""

from __future__ import annotations

from dataclasses import replace

import zmq

from agentbus import Keys

__all__ = ["CLIENT", "LISTENING", "LOOPBACK", "SERVER", "new_keys"]

LOOPBACK = "ab://127.0.0.1:0"


def new_keys(server: str = "") -> Keys:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    return Keys(public=public, secret=secret, server=server)


SERVER = new_keys()
CLIENT = new_keys(SERVER.public)
LISTENING = replace(SERVER, authorized={"client": CLIENT.public})
