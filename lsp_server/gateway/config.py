"""How the gateway listens and what it takes; everything is checked before a socket is opened."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

TOKEN_VARIABLE = "SNOWCODER_GATEWAY_TOKEN"
_LEAST_TOKEN = 16


class GatewayError(Exception):
    """The gateway cannot be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Settings of one gateway.

    Attributes:
        host: address to listen on; anything but loopback demands a token.
        port: TCP port; 0 takes a free one.
        token: what clients must send as `Authorization: Bearer`; None asks for nothing.
        max_body: bytes of a request's body.
        rate: requests that one client may send in a second, on average over two.
        max_waiting: requests that wait for the engine, of all clients.
        max_waiting_per_client: requests of one client among them.
        max_tokens: most tokens of one continuation.
        answer_s: seconds after which a request is answered whatever the engine does.
    """

    host: str = "127.0.0.1"
    port: int = 8012
    token: str | None = None
    max_body: int = 2_000_000
    rate: float = 100.0
    max_waiting: int = 256
    max_waiting_per_client: int = 8
    max_tokens: int = 512
    answer_s: float = 30.0

    def check(self) -> GatewayConfig:
        """The same, if it is safe.

        Raises:
            GatewayError: an address other than loopback without a token, or one easily guessed.
        """
        if self.token is not None and (len(self.token) < _LEAST_TOKEN or not self.token.isascii()):
            raise GatewayError(f"the token needs at least {_LEAST_TOKEN} ASCII characters")
        if self.token is None and not self.loopback:
            raise GatewayError(
                f"{self.host} can be reached from other machines: set a token in the environment "
                f"variable {TOKEN_VARIABLE}, or listen on 127.0.0.1"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
