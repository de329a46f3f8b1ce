"""What strangers can send to the API's port: nothing of it is served that two HTTP parsers could read differently, and nothing of it ends
the service. Every refusal is a problem (RFC 9457), the connection is closed behind it, and what was smuggled along is never answered."""

import pytest
from support.wire import Wire

HOST = b"Host: x\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /health HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"
BODY_MAX = 65536
TARGET_MAX = 4096
HEADERS_MAX = 16384


def header(line: bytes, body: bytes = b"") -> bytes:
    return POST + line + b"\r\n\r\n" + body


def first_line(line: bytes) -> bytes:
    return line + b"\r\n" + HOST + b"\r\n"


REFUSED = {
    # Where does the body end?
    "length and chunked": (400, header(b"Content-Length: 6\r\nTransfer-Encoding: chunked", b"0\r\n\r\nX")),
    "chunked and length": (400, header(b"Transfer-Encoding: chunked\r\nContent-Length: 6", b"0\r\n\r\nX")),
    "two equal lengths": (400, header(b"Content-Length: 5\r\nContent-Length: 5", b"hello")),
    "two lengths": (400, header(b"Content-Length: 5\r\nContent-Length: 60", b"hello")),
    "length +5": (400, header(b"Content-Length: +5", b"hello")),
    "length -5": (400, header(b"Content-Length: -5", b"hello")),
    "length 0x5": (400, header(b"Content-Length: 0x5", b"hello")),
    "length 5,5": (400, header(b"Content-Length: 5,5", b"hello")),
    "length 5 5": (400, header(b"Content-Length: 5 5", b"hello")),
    "length of 20 digits": (400, header(b"Content-Length: 18446744073709551621", b"hello")),
    "length empty": (400, header(b"Content-Length:", b"hello")),
    "length with a tab": (400, header(b"Content-Length:\t5", b"hello")),
    "length and NUL": (400, header(b"Content-Length: 5\0", b"hello")),
    "gzip, chunked": (400, header(b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n")),
    "chunked, identity": (400, header(b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n")),
    "chunked, many blanks, identity": (431, header(b"Transfer-Encoding: chunked" + 260 * b" " + b", identity", b"0\r\n\r\n")),
    "length and many blanks": (431, header(b"Content-Length: 5" + 264 * b" ", b"hello")),
    "identity": (400, header(b"Transfer-Encoding: identity")),
    "xchunked": (400, header(b"Transfer-Encoding: xchunked", b"0\r\n\r\n")),
    "tab chunked": (400, header(b"Transfer-Encoding:\tchunked", b"0\r\n\r\n")),
    "vertical tab chunked": (400, header(b"Transfer-Encoding:\x0bchunked", b"0\r\n\r\n")),
    "chunked and NUL": (400, header(b"Transfer-Encoding: chunked\0", b"0\r\n\r\n")),
    "chunked twice": (400, header(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")),
    "chunked, then another": (400, header(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", b"0\r\n\r\n")),
    "folded chunked": (400, header(b"Transfer-Encoding:\r\n chunked", b"0\r\n\r\n")),
    "chunked in HTTP/1.0": (400, b"POST /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a body of HEAD": (400, b"HEAD /health HTTP/1.1\r\nHost: x\r\nContent-Length: 65\r\n\r\n"),
    "chunks of HEAD": (400, b"HEAD /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a body of TRACE": (400, b"TRACE /health HTTP/1.1\r\nHost: x\r\nContent-Length: 65\r\n\r\n"),
    "a body of an unknown method": (400, b"BREW /health HTTP/1.1\r\nHost: x\r\nContent-Length: 65\r\n\r\n"),
    # Chunks
    "chunk of +5": (400, CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk of -5": (400, CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk of 0x5": (400, CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk after a blank": (400, CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n"),
    "chunk before a blank": (400, CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk extension": (400, CHUNKED + b"5;x=y\r\nhello\r\n0\r\n\r\n"),
    "chunk after an empty line": (400, CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n"),
    "chunk with bare LF": (400, CHUNKED + b"5\nhello\r\n0\r\n\r\n"),
    "chunk longer than it says": (400, CHUNKED + b"3\r\nhello\r\n0\r\n\r\n"),
    "chunk without its end": (400, CHUNKED + b"5\r\nhello0\r\n\r\n"),
    "chunk overflow": (400, CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    "chunk of no digits": (400, CHUNKED + b"\r\n"),
    "trailers": (400, CHUNKED + b"0\r\nX-Request-Id: y\r\n\r\n"),
    # Lines
    "blank before the colon": (400, header(b"Content-Length : 5", b"hello")),
    "tab before the colon": (400, header(b"Content-Length\t: 5", b"hello")),
    "no colon": (400, header(b"nonsense")),
    "no name": (400, header(b": x")),
    "folded": (400, header(b"X: a\r\n b")),
    "folded by a tab": (400, header(b"X: a\r\n\tb")),
    "first header folded": (400, b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n"),
    "bare CR": (400, header(b"X: a\rContent-Length: 5")),
    "bare LF": (400, header(b"X: a\nContent-Length: 5", b"hello")),
    "bare LF everywhere": (400, b"GET /health HTTP/1.1\nHost: x\n\n"),
    "NUL in a value": (400, header(b"X: a\0b")),
    "NUL in a name": (400, header(b"X\0: a")),
    "DEL in a value": (400, header(b"X: \x7f")),
    "no Host": (400, b"GET /health HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, GET + HOST + b"\r\n"),
    "Host with a path": (400, b"GET /health HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    "Host with a user": (400, b"GET /health HTTP/1.1\r\nHost: a@x\r\n\r\n"),
    "Host list": (400, b"GET /health HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    # The first line
    "HTTP/0.9": (400, b"GET /health\r\n"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (400, first_line(b"GET /health HTTP/1.2")),
    "HTTP/3": (400, first_line(b"GET /health HTTP/3")),
    "TLS": (400, bytes.fromhex("16030100c8010000c40303")),
    "empty line first": (400, b"\r\n" + GET + b"\r\n"),
    "two blanks": (400, first_line(b"GET  /health HTTP/1.1")),
    "a tab between": (400, first_line(b"GET\t/health HTTP/1.1")),
    "a blank behind": (400, first_line(b"GET /health HTTP/1.1 ")),
    "absolute form": (400, first_line(b"GET http://x/health HTTP/1.1")),
    "authority form": (400, first_line(b"GET x:443 HTTP/1.1")),
    "CONNECT": (400, first_line(b"CONNECT x:443 HTTP/1.1")),
    "CONNECT with a path": (400, first_line(b"CONNECT /health HTTP/1.1")),
    "asterisk": (400, first_line(b"OPTIONS * HTTP/1.1")),
    "two slashes": (400, first_line(b"GET //x/health HTTP/1.1")),
    "no slash": (400, first_line(b"GET health HTTP/1.1")),
    "%00": (400, first_line(b"GET /health%00 HTTP/1.1")),
    "%0": (400, first_line(b"GET /health?a=%0 HTTP/1.1")),
    "%zz": (400, first_line(b"GET /health%zz HTTP/1.1")),
    "NUL in the path": (400, first_line(b"GET /health\0 HTTP/1.1")),
    "NUL behind the version": (400, first_line(b"GET /health HTTP/1.1\0")),
    "UTF-8 in the path": (400, first_line("GET /é HTTP/1.1".encode())),
    "a fragment": (400, first_line(b"GET /health#x HTTP/1.1")),
    "a long method": (400, first_line(b"A" * 17 + b" /health HTTP/1.1")),
    # Sizes
    "address + 1": (414, first_line(b"GET /" + b"a" * TARGET_MAX + b" HTTP/1.1")),
    "address without an end": (414, b"GET /" + b"a" * 100_000),
    "101 headers": (431, GET + b"".join(b"X-%d: y\r\n" % i for i in range(100)) + b"\r\n"),
    "20 000 headers": (431, GET + b"a:\r\n" * 20_000 + b"\r\n"),
    "headers + 1": (431, GET + b"X: " + b"a" * (HEADERS_MAX - len(HOST) - 4) + b"\r\n\r\n"),
    "a header without an end": (431, GET + b"X: " + b"a" * 100_000),
    "body + 1": (413, header(b"Content-Length: %d" % (BODY_MAX + 1), b"a" * (BODY_MAX + 1))),
    "10 digits": (413, header(b"Content-Length: 9999999999", b"hello")),
    "chunks + 1": (413, CHUNKED + b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n2\r\naa\r\n0\r\n\r\n"),
    "a chunk of 4 GiB": (413, CHUNKED + b"ffffffff\r\nhello"),
    "a chunk without an end": (400, CHUNKED + b"5" * 100_000),
    # Expectations
    "another expectation": (400, header(b"Content-Length: 5\r\nExpect: 200-ok", b"hello")),
    "two expectations": (400, header(b"Content-Length: 5\r\nExpect: 100-continue\r\nExpect: x", b"hello")),
    "continue with a large body": (413, header(b"Content-Length: %d\r\nExpect: 100-continue" % (BODY_MAX + 1))),
}


@pytest.fixture(scope="module")
def port(module_api):
    return module_api.api_port


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_well_formed_is_refused_and_closed_and_nothing_behind_it_served(port, name):
    status, request = REFUSED[name]
    with Wire(port) as wire:
        wire.send(request + SMUGGLED)
        answers = wire.answers_until_closed()
    assert [answer.status for answer in answers] == [status], answers
    answer = answers[0]
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status and problem["type"].startswith("/problems/") and problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"] != "smuggled"


WELL_FORMED = {
    "GET": (200, GET + b"\r\n"),
    "a body of GET": (400, GET + b"Content-Length: 5\r\n\r\nhello"),
    "HTTP/1.0": (200, b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    "HTTP/1.0 with a list": (200, b"GET /health HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n"),
    "length": (405, header(b"Content-Length: 5", b"hello")),
    "blanks around values": (405, header(b"Content-Length:   5  ", b"hello")),
    "length 0": (405, header(b"Content-Length: 0")),
    "chunks": (405, CHUNKED + b"5\r\nhello\r\n000A\r\n0123456789\r\n0\r\n\r\n"),
    "chunks of blanks and lines": (405, CHUNKED + b"4\r\n\r\n\r\n\r\n2\r\n  \r\n0\r\n\r\n"),
    "no chunk": (405, CHUNKED + b"0\r\n\r\n"),
    "a body that looks like a request": (405, header(b"Content-Length: %d" % len(SMUGGLED), SMUGGLED)),
    "largest body": (405, header(b"Content-Length: %d" % BODY_MAX, b"a" * BODY_MAX)),
    "largest chunked body": (405, CHUNKED + b"8000\r\n" + b"a" * 0x8000 + b"\r\n8000\r\n" + b"a" * 0x8000 + b"\r\n0\r\n\r\n"),
    "longest address": (404, first_line(b"GET /" + b"a" * (TARGET_MAX - 1) + b" HTTP/1.1")),
    "100 headers": (200, GET + b"".join(b"X-%d: y\r\n" % i for i in range(99)) + b"\r\n"),
    "largest headers": (200, GET + b"X: " + b"a" * (HEADERS_MAX - len(HOST) - 5) + b"\r\n\r\n"),
    "lower-case method": (405, b"get /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    "TRACE": (405, b"TRACE /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    "OPTIONS": (405, b"OPTIONS /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    "unknown method": (405, b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    "percent": (404, first_line(b"GET /%2e%2e/health%0d%0a HTTP/1.1")),
    "latin in a value": (200, GET + b"User-Agent: \xe9\r\n\r\n"),
    "continue": (405, header(b"Content-Length: 5\r\nExpect: 100-continue", b"hello")),
}


def test_well_formed_requests_are_answered_one_by_one_on_one_connection(port):
    with Wire(port) as wire:
        for name, (status, request) in WELL_FORMED.items():
            wire.send(request)
            answer = wire.answer()
            assert answer is not None and answer.status == status, f"{name}: {answer}"
            assert answer.headers["x-request-id"] != "smuggled"


def test_pipelined_requests_are_answered_in_order_however_the_bytes_arrive(port):
    small = {name: row for name, row in WELL_FORMED.items() if len(row[1]) < 1000 and name != "continue"}
    for one_by_one in (False, True):
        with Wire(port) as wire:
            wire.send(b"".join(request for _, request in small.values()), one_by_one)
            for name, (status, _) in small.items():
                answer = wire.answer()
                assert answer is not None and answer.status == status, f"{name}: {answer}"


def test_a_refused_request_behind_good_ones_ends_the_connection_after_their_answers(port):
    with Wire(port) as wire:
        wire.send(GET + b"\r\n" + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + GET + b"Content-Length: 0x5\r\n\r\n" + SMUGGLED)
        assert [answer.status for answer in wire.answers_until_closed()] == [200, 405, 400]


def test_nothing_is_read_after_a_request_that_closes(port):
    for request in (GET + b"Connection: close\r\n\r\n", b"GET /health HTTP/1.0\r\n\r\n"):
        with Wire(port) as wire:
            wire.send(request + b"nonsense\r\n\r\n" + SMUGGLED)
            assert [answer.status for answer in wire.answers_until_closed()] == [200]


def test_head_has_the_headers_of_get_and_no_body(port):
    with Wire(port) as wire:
        wire.send(GET + b"\r\n")
        expected = wire.answer()
        wire.send(b"HEAD /health HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"\r\n")
        got = wire.answer(to_head=True)
        assert (got.status, got.headers["content-length"]) == (200, expected.headers["content-length"])
        assert wire.answer().body == expected.body


def test_continue_is_said_before_the_body_is_sent(port):
    with Wire(port) as wire:
        wire.send(header(b"Content-Length: 5\r\nExpect: 100-continue"))
        assert wire.answer().status == 100
        wire.send(b"hello")
        assert wire.answer().status == 405


def test_a_wrong_method_is_told_what_is_allowed(port):
    rows = {
        b"POST /health": "GET, HEAD",
        b"TRACE /openapi.json": "GET, HEAD",
        b"OPTIONS /ready": "GET, HEAD",
        b"DELETE /api/v1/integrations/event-types": "GET, HEAD",
    }
    for line, allow in rows.items():
        with Wire(port) as wire:
            wire.send(first_line(line + b" HTTP/1.1"))
            answer = wire.answer()
            assert (answer.status, answer.headers["allow"]) == (405, allow), line


def test_a_request_id_is_echoed_only_when_it_is_harmless(port):
    for given, kept in ((b"abc-1._X", True), (b"a" * 64, True), (b"a" * 65, False), (b"a b", False), (b'"', False), (b"\xc3\xa9", False),
                        (b"", False)):
        with Wire(port) as wire:
            wire.send(GET + b"X-Request-Id: " + given + b"\r\n\r\n")
            assert (wire.answer().headers["x-request-id"].encode() == given) == kept, given
