"""Where no webhook may lead: addresses inside (practices 6.1) and the tricks of URLs that name one (6.2), each with what the customer reads.
The worker is held against them when it connects, the API when a webhook is registered."""

DENIED_BY_OPERATOR = "127.77.13.1"

# practices 6.1: one or more of each range, and what the customer reads.
ADDRESSES = {
    "0.0.0.0": "this network", "0.1.2.3": "this network", "10.0.0.1": "private", "10.255.255.254": "private",
    "100.64.0.1": "shared address space", "100.100.100.200": "shared address space", "127.0.0.1": "loopback", "127.0.0.2": "loopback",
    "127.255.255.254": "loopback", "168.63.129.16": "cloud platform", "169.254.0.1": "link-local", "169.254.169.254": "link-local",
    "169.254.170.2": "link-local", "172.16.0.1": "private", "172.31.255.254": "private", "192.0.0.1": "IETF", "192.0.0.9": "IETF",
    "192.0.0.192": "IETF", "192.0.2.2": "documentation", "192.31.196.1": "AS112", "192.52.193.1": "AMT", "192.88.99.1": "6to4",
    "192.168.1.1": "private", "192.175.48.1": "AS112", "198.18.0.1": "benchmarking", "198.19.255.254": "benchmarking",
    "198.51.100.1": "documentation", "203.0.113.1": "documentation", "224.0.0.1": "multicast", "239.255.255.255": "multicast",
    "240.0.0.1": "reserved", "255.255.255.255": "broadcast",
    "::": "unspecified", "::1": "loopback", "::7f00:1": "IPv4-compatible", "::ffff:7f00:1": "loopback", "::ffff:a00:1": "private",
    "::ffff:0:7f00:1": "IPv4-translated", "64:ff9b::7f00:1": "NAT64", "64:ff9b:1::1": "NAT64", "100::1": "discard", "100:0:0:1::1": "dummy",
    "5f00::1": "segment routing", "fc00::1": "unique local", "fd00:ec2::254": "unique local", "fe80::1": "link-local",
    "fec0::1": "site-local", "ff02::1": "multicast", "2001::1": "Teredo", "2001:1::1": "IETF", "2001:2::1": "benchmarking", "2001:3::1": "IETF",
    "2001:4:112::1": "IETF", "2001:10::1": "ORCHID", "2001:20::1": "ORCHIDv2", "2001:30::1": "IETF", "2001:db8::1": "documentation",
    "2002:7f00:1::": "6to4", "2620:4f:8000::1": "AS112", "3fff::1": "documentation", "4000::1": "outside 2000::/3",
    DENIED_BY_OPERATOR: "denied by the operator",
}

LOOPBACK = "127.0.0.1.*loopback"
NO_HOST = "neither a name nor a valid IP address"
# practices 6.2: spellings and tricks. {port} is the canaries'. What the customer reads is a pattern.
SPELLINGS = {
    "http://2130706433:{port}/": LOOPBACK, "http://0x7f.1:{port}/": LOOPBACK, "http://0X7F.0x0.0X0.1:{port}/": LOOPBACK,
    "http://0177.0.0.1:{port}/": LOOPBACK, "http://127.1:{port}/": LOOPBACK, "http://127.0.1:{port}/": LOOPBACK,
    "http://017700000001:{port}/": LOOPBACK, "http://0x7f000001:{port}/": LOOPBACK, "http://0:{port}/": "this network",
    "http://0x0:{port}/": "this network", "http://①②⑦.0.0.1:{port}/": LOOPBACK, "http://１２７.0.0.1:{port}/": LOOPBACK,
    "http://127。0。0。1:{port}/": LOOPBACK, "http://０x7f.1:{port}/": LOOPBACK, "http://127.0\u00ad.0.1:{port}/": LOOPBACK,
    "http://ⓛocalhost:{port}/": "private network", "http://localhost:{port}/": "private network",
    "http://LOCALHOST.:{port}/": "private network", "http://a.localhost:{port}/": "private network",
    "http://printer.local:{port}/": "private network", "http://metadata.google.internal:{port}/": "private network",
    "http://router.home.arpa:{port}/": "private network", "http://intranet:{port}/": "full name",
    "http:/127.0.0.1:{port}/": "must start with", "http:///127.0.0.1:{port}/": "no host", "http:127.0.0.1:{port}/": "must start with",
    "//127.0.0.1:{port}/": "must start with", "http://example.net\\@127.0.0.1:{port}/": "backslash",
    "http://127.0.0.1%2f@example.net:{port}/": "user name", "http://example.net@127.0.0.1:{port}/": "user name",
    "http://u@h@127.0.0.1:{port}/": "user name", "http://example.net#@127.0.0.1:{port}/": "fragment",
    "http://127.0.0.1:{port}/#x": "fragment", "http://%31%32%37.0.0.1:{port}/": "percent-encoding",
    "http://[::ffff:127.0.0.1]:{port}/": LOOPBACK, "http://[::127.0.0.1]:{port}/": "IPv4-compatible",
    "http://[0:0:0:0:0:0:0:1]:{port}/": "loopback", "http://[::1%25lo]:{port}/": "zones", "http://[fe80::1%lo]:{port}/": "zones",
    "http://[127.0.0.1]:{port}/": "Bad IPv6", "http://127.0.0.1.:{port}/": "ends in a dot", "http://256.1.1.1:{port}/": NO_HOST,
    "http://1.2.3.4.5:{port}/": NO_HOST, "http://08.8.8.8:{port}/": NO_HOST, "http://0x100000001:{port}/": NO_HOST,
    "http://example.0x7f:{port}/": NO_HOST, "http://127.0.0.1:0/": "port 0", "http://127.0.0.1:70000/": ".",
    "http://127.0.0.1:80:{port}/": ".",
    "http://127.0.0.1:{port} /": "blank", "http://127.0.0.1:{port}/\r\nHost: x": "blank", "ftp://127.0.0.1:{port}/": "must start with",
    "file:///etc/passwd": "must start with", "gopher://127.0.0.1:{port}/": "must start with",
}


def url_of(host, port):
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
