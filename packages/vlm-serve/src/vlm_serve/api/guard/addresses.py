"""Which network addresses a server may connect to for a client: public ones alone. Which of a client's are one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_UNICAST, _NAT64 = ip_network("2000::/3"), ip_network("64:ff9b::/96")
_SERVICES = frozenset({ip_address("168.63.129.16")})
"""Addresses in public ranges that lead to a cloud's own services: Azure's virtual machines."""


def is_public(text: str) -> bool:
    """Whether an address is reached over the public internet, and no service of this machine, network or cloud.

    Not public: private, loopback, link-local (which holds the metadata services), shared, multicast and reserved ones,
    and IPv6 addresses that stand for such an IPv4 address (mapped, 6to4, Teredo, NAT64).
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return _is_global(address)
    inner = _embedded(address)
    return all(map(_is_global, inner)) and (bool(inner) or (address in _UNICAST and _is_global(address)))


def client_network(host: str) -> str:
    """A client's address; of IPv6 the /64 network, within which a client may choose its address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and address not in _SERVICES


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in inner if each is not None]
