"""How the loopback iCloud knows people: SRP, two-factor codes and security keys, trust, and sessions of the web."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import srp
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

ITERATIONS = 1000
SALT = b"sixteen salty bt"
PRIME_HEX = (
    "AC6BDB41324A9A9BF166DE5E1389582FAF72B6651987EE07FC3192943DB56050A37329CBB4A099ED8193E0757767A13DD52312AB4B03310DCD"
    "7F48A9DA04FD50E8083969EDB767B0CF6095179A163AB3661A05FBD5FAAAE82918A9962F0B93B855F97993EC975EEAA80D740ADBF4FF747359"
    "D041D5C33EA71D281E446B14773BCA97B43A23FB801676BD207A436C6481F1D2B9078717461A5B9D32E688F87748544523B524B0D57D5EA77A"
    "2775D2ECFA032CFBDBF52FB3786160279004E57AE6AF874E7303CE53299CCC041C7BC308D82A5698F3A8D0C38271AE35F8E9DBFBB694B5C803"
    "D89F7AE435DE236D525F54759B65E372FCD68EF20FA7111F9E4AFF73"
)
"""The 2048-bit group of RFC 5054."""
RELYING_PARTY = "apple.com"


@dataclass
class Attempt:
    """One sign-in under way."""

    verifier: Any
    proven: bool = False
    confirmed: bool = False


@dataclass
class Answer:
    """What to send back: a status, a JSON document and headers."""

    status: int
    document: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Accounts:
    """One Apple ID, its sign-ins, tokens and cookies. Called under the server's lock."""

    def __init__(self, apple_id: str, password: str) -> None:
        self.apple_id = apple_id
        self.password = password
        self.code = "492816"
        self.delivery = "sms"
        """How the second factor comes: "sms", "device" or "key"."""
        self.codes_sent = 0
        self.terms_needed = False
        self.locked = False
        self.security_key: ec.EllipticCurvePublicKey | None = None
        self.key_handle = b"handle-of-the-key"
        self.sign_ins = 0
        self._challenge = b""
        self._attempts: dict[str, Attempt] = {}
        self._session_tokens: dict[str, bool] = {}  # token -> whether the second factor was given
        self._trust_tokens: set[str] = set()
        self._web: dict[str, bool] = {}  # cookie -> trusted

    # --- what tests do ---------------------------------------------------------------------------------------------

    def trust(self) -> dict[str, str]:
        """Tokens of a session that is trusted, as a sign-in would have left them."""
        session, trust, web = secrets.token_hex(24), secrets.token_hex(24), secrets.token_hex(24)
        self._session_tokens[session] = True
        self._trust_tokens.add(trust)
        self._web[web] = True
        return {"session_token": session, "trust_token": trust, "web_token": web}

    def behave(self) -> None:
        """As it was at the start; who is signed in or trusted stays so."""
        self.delivery, self.terms_needed, self.locked = "sms", False, False
        self.security_key = None

    def end_web_sessions(self) -> None:
        """What happens every few hours: the cookies no longer count, the trust does."""
        self._web.clear()

    def end_sessions(self) -> None:
        """What happens now and then: only password and trust count."""
        self._web.clear()
        self._session_tokens.clear()

    def end_trust(self) -> None:
        """What happens after about 30 days: a person must sign in."""
        self.end_sessions()
        self._trust_tokens.clear()

    # --- sign-in ---------------------------------------------------------------------------------------------------

    def begin(self, body: dict[str, Any]) -> Answer:
        """``/signin/init``"""
        # Both parties live in one process in the tests, and the library keeps these two for all of it.
        srp.rfc5054_enable()
        srp.no_username_in_x()
        digest = hashlib.sha256(self.password.encode()).digest()
        stretched = hashlib.pbkdf2_hmac("sha256", digest, SALT, ITERATIONS, 32)
        inner = hashlib.sha256(b":" + stretched).digest()
        exponent = int.from_bytes(hashlib.sha256(SALT + inner).digest(), "big")
        prime = int(PRIME_HEX, 16)
        number = pow(2, exponent, prime)
        verifier = srp.Verifier(
            str(body["accountName"]),
            SALT,
            number.to_bytes((number.bit_length() + 7) // 8, "big"),
            base64.b64decode(body["a"]),
            hash_alg=srp.SHA256,
            ng_type=srp.NG_2048,
        )
        salt, b = verifier.get_challenge()
        attempt = secrets.token_hex(16)
        self._attempts[attempt] = Attempt(verifier)
        document = {
            "salt": base64.b64encode(salt).decode(),
            "b": base64.b64encode(b).decode(),
            "c": attempt,
            "iteration": ITERATIONS,
            "protocol": "s2k",
        }
        return Answer(200, document, {"X-Apple-ID-Session-Id": attempt, "scnt": secrets.token_hex(8)})

    def complete(self, body: dict[str, Any]) -> Answer:
        """``/signin/complete``"""
        self.sign_ins += 1
        if self.locked:
            return _refusal(403, -20209, "This account is locked.")
        attempt = self._attempts.get(str(body.get("c")))
        proof = base64.b64decode(body.get("m1", ""))
        if attempt is None or body["accountName"] != self.apple_id or not attempt.verifier.verify_session(proof):
            return _refusal(401, -20101, "Check the account information you entered and try again.")
        attempt.proven = True
        headers = {"X-Apple-ID-Session-Id": str(body["c"]), "X-Apple-ID-Account-Country": "USA"}
        if any(token in self._trust_tokens for token in body.get("trustTokens", [])):
            attempt.confirmed = True
            return Answer(200, {"authType": "hsa2"}, headers | {"X-Apple-Session-Token": self._session(True)})
        return Answer(409, {"authType": "hsa2"}, headers | {"X-Apple-Session-Token": self._session(False)})

    def options(self, attempt: str) -> Answer:
        """``GET /appleauth/auth``"""
        if not self._proven(attempt):
            return _refusal(401, -20101, "Sign in first.")
        document: dict[str, Any] = {"authType": "hsa2", "hasTrustedDevices": True}
        if self.delivery == "sms":
            phone = {"id": 1, "pushMode": "sms", "nonFTEU": True, "obfuscatedNumber": "••••••42"}
            document |= {"mode": "sms", "trustedPhoneNumber": phone, "trustedPhoneNumbers": [phone]}
        if self.delivery == "key":
            self._challenge = secrets.token_bytes(32)
            document["keyNames"] = ["Key on the ring"]
            document["fsaChallenge"] = {
                "challenge": _urlsafe(self._challenge),
                "keyHandles": [_urlsafe(self.key_handle)],
                "rpId": RELYING_PARTY,
            }
        return Answer(200, document)

    def send_code(self, attempt: str) -> Answer:
        """``PUT /verify/phone``"""
        if not self._proven(attempt):
            return _refusal(401, -20101, "Sign in first.")
        self.codes_sent += 1
        return Answer(200, {"mode": "sms"})

    def check_code(self, attempt: str, body: dict[str, Any]) -> Answer:
        """``/verify/{phone,trusteddevice}/securitycode``"""
        if not self._proven(attempt):
            return _refusal(401, -20101, "Sign in first.")
        if body.get("securityCode", {}).get("code") != self.code:
            return _refusal(400, -21669, "Incorrect verification code.")
        self._attempts[attempt].confirmed = True
        return Answer(200, {"securityCode": {"valid": True}})

    def check_key(self, attempt: str, body: dict[str, Any]) -> Answer:
        """``/verify/security/key``: a WebAuthn assertion, verified."""
        client_data = base64.b64decode(body["clientData"])
        told = json.loads(client_data)
        authenticator = base64.b64decode(body["authenticatorData"])
        signed = authenticator + hashlib.sha256(client_data).digest()
        good = (
            self._proven(attempt)
            and self.security_key is not None
            and told["challenge"] == _urlsafe(self._challenge)
            and told["type"] == "webauthn.get"
            and authenticator[:32] == hashlib.sha256(RELYING_PARTY.encode()).digest()
            and base64.b64decode(body["credentialID"]) == self.key_handle
        )
        try:
            if self.security_key is not None:
                self.security_key.verify(base64.b64decode(body["signatureData"]), signed, ec.ECDSA(SHA256()))
        except InvalidSignature:
            good = False
        if not good:
            return _refusal(401, -20101, "The key was not accepted.")
        self._attempts[attempt].confirmed = True
        return Answer(200, {})

    def grant_trust(self, attempt: str) -> Answer:
        """``GET /2sv/trust``"""
        if not self._proven(attempt) or not self._attempts[attempt].confirmed:
            return _refusal(401, -20101, "Confirm first.")
        token = secrets.token_hex(24)
        self._trust_tokens.add(token)
        return Answer(
            204, None, {"X-Apple-TwoSV-Trust-Token": token, "X-Apple-Session-Token": self._session(confirmed=True)}
        )

    # --- the web's sessions ----------------------------------------------------------------------------------------

    def login(self, body: dict[str, Any]) -> tuple[bool, str] | None:
        """``/accountLogin``: whether the session is trusted, and its new cookie; ``None`` for an unknown token."""
        confirmed = self._session_tokens.get(str(body.get("dsWebAuthToken")))
        if confirmed is None:
            return None
        trusted = confirmed and body.get("trustToken") in self._trust_tokens
        cookie = secrets.token_hex(24)
        self._web[cookie] = trusted
        return trusted, cookie

    def is_signed_in(self, cookie: str) -> bool:
        return cookie in self._web

    def is_trusted(self, cookie: str) -> bool:
        return self._web.get(cookie, False)

    def _session(self, confirmed: bool) -> str:
        token = secrets.token_hex(24)
        self._session_tokens[token] = confirmed
        return token

    def _proven(self, attempt: str) -> bool:
        return attempt in self._attempts and self._attempts[attempt].proven


def _refusal(status: int, code: int, text: str) -> Answer:
    return Answer(status, {"serviceErrors": [{"code": str(code), "message": text}], "hasError": True})


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
