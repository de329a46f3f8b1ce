"""An issuer's keys and the tokens that it signs with them; wrong ones as well: whatever header and claims a test asks for is signed."""

import base64
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

P256_BYTES = 32  # of a coordinate, and of each half of a signature


def part(value) -> str:
    """base64url of bytes, or of the JSON of anything else."""
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    """A number of a key, as RFC 7518 writes it."""
    return part(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Key:
    """jwk: its public part. token(): signed with it, whatever the header says."""

    alg: str

    def __init__(self, kid: str, private, members: dict):
        self.kid = kid
        self.private = private
        self.jwk = {"kid": kid, "alg": self.alg, "use": "sig", **members}

    def public_bytes(self, encoding=serialization.Encoding.PEM) -> bytes:
        return self.private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)

    def token(self, claims: dict, **header) -> str:
        """header: members other than usual; None takes one away."""
        members = {"alg": self.alg, "typ": "JWT", "kid": self.kid, **header}
        text = part({name: value for name, value in members.items() if value is not None}) + "." + part(claims)
        return text + "." + part(self.sign(text.encode()))

    def sign(self, text: bytes) -> bytes:
        raise NotImplementedError


class Rs256(Key):
    alg = "RS256"

    def __init__(self, kid: str):
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = private.public_key().public_numbers()
        super().__init__(kid, private, {"kty": "RSA", "n": number(public.n), "e": number(public.e)})

    def sign(self, text: bytes) -> bytes:
        return self.private.sign(text, padding.PKCS1v15(), hashes.SHA256())


class Es256(Key):
    alg = "ES256"

    def __init__(self, kid: str):
        private = ec.generate_private_key(ec.SECP256R1())
        public = private.public_key().public_numbers()
        super().__init__(kid, private, {"kty": "EC", "crv": "P-256", "x": number(public.x, P256_BYTES), "y": number(public.y, P256_BYTES)})

    def sign(self, text: bytes) -> bytes:
        r, s = utils.decode_dss_signature(self.private.sign(text, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(P256_BYTES, "big") + s.to_bytes(P256_BYTES, "big")
