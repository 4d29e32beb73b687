"""Addresses of the Internet, as server and client judge them."""

from __future__ import annotations

import ipaddress


def is_loopback_address(address: str) -> bool:
    """Tell whether only this machine can reach an address, which may have a zone (``fe80::1%eth0``)."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
