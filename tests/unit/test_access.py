"""Who is who, and how much each may ask for."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.access.access import Access, AccessConfig, bearer_of
from gateway.access.api_keys import Allowance
from gateway.access.limiter import Limiter
from gateway.access.tokens import TokenConfig, Tokens
from gateway.caller import ANYBODY, Caller
from internvl.errors import ConfigError, Overloaded, Unauthenticated

SECRET = b"a secret of more than thirty-two bytes"
CALLER = Caller("team-a", "ci")


def entry(text: str, **fields: Any) -> str:
    fields = {"name": text, "tenant": "team-a", "sha256": hashlib.sha256(text.encode()).hexdigest()} | fields
    return "\n".join(["[[keys]]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())])


def claims(**changes: Any) -> dict[str, Any]:
    in_a_minute = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    given = {"iss": "us", "aud": "internvl", "sub": "ann", "exp": in_a_minute, "tenant": "team-a"} | changes
    return {name: value for name, value in given.items() if value is not None}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text("\n".join([entry("alpha"), entry("beta", tenant="team-b", concurrency=1)]))
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    return path


def test_key_names_its_tenant(keys: Path) -> None:
    access = Access(AccessConfig(str(keys)))
    assert access.identify("alpha") == Caller("team-a", "alpha")
    assert access.identify("beta") == Caller("team-b", "beta")


@pytest.mark.parametrize("bearer", [None, "", "alph", "alphaa", "ALPHA", "x" * 10_000, "a.b.c", "\u00e9"])
def test_unknown_key_is_refused_without_being_repeated(keys: Path, bearer: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        Access(AccessConfig(str(keys))).identify(bearer)
    assert not bearer or bearer not in str(caught.value)


def test_hash_of_a_key_opens_nothing(keys: Path) -> None:
    with pytest.raises(Unauthenticated):
        Access(AccessConfig(str(keys))).identify(hashlib.sha256(b"alpha").hexdigest())


def test_without_keys_everybody_is_anybody() -> None:
    assert Access(AccessConfig()).identify(None) == ANYBODY
    assert Access(AccessConfig()).identify("whatever") == ANYBODY


@pytest.mark.parametrize(
    ("header", "bearer"),
    [
        ("Bearer k", "k"),
        ("bearer  k ", "k"),
        ("Basic k", None),
        ("k", None),
        (None, None),
        ("Bearer", None),
    ],
)
def test_scheme_is_bearer(header: str | None, bearer: str | None) -> None:
    assert bearer_of(header) == bearer


def test_changed_file_is_read_again_and_a_broken_one_changes_nothing(keys: Path) -> None:
    access = Access(AccessConfig(str(keys)))
    for number, (text, known, unknown) in enumerate(
        [
            (entry("gamma"), "gamma", "alpha"),
            ("not toml [", "gamma", "alpha"),
            (entry("alpha"), "alpha", "gamma"),
        ]
    ):
        keys.write_text(text)
        os.utime(keys, (number, number))
        assert access.identify(known).key_name == known
        with pytest.raises(Unauthenticated):
            access.identify(unknown)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEYS", entry("alpha"))
    assert Access(AccessConfig("env:OUR_KEYS")).identify("alpha").tenant == "team-a"
    with pytest.raises(ConfigError, match="NO_KEYS"):
        Access(AccessConfig("env:NO_KEYS"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"\[\[keys\]\]"),
        ("keys = 3", r"\[\[keys\]\]"),
        ("keys = [3]", "must be a table"),
        ("[[keys]", "not TOML"),
        (entry("a") + "\n" + entry("b", name="a"), "two keys have the same name"),
        (entry("a") + "\n" + entry("a", name="b"), "two keys have the same sha256"),
        (entry("a", sha256="abc"), r"keys\[0\].sha256"),
        (entry("a", tenant="a b"), r"keys\[0\].tenant"),
        (entry("a", tenant=""), r"keys\[0\].tenant"),
        (entry("a", key="alpha"), "unknown field key"),
        (entry("a", concurrency=0), r"keys\[0\].concurrency"),
        (entry("a", requests_per_minute=True), r"keys\[0\].requests_per_minute"),
        (entry("a", max_priority=11), r"keys\[0\].max_priority"),
        (entry("a", max_priority="high"), r"keys\[0\].max_priority"),
    ],
)
def test_bad_keys_are_refused_by_flag(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"--api-keys.*{problem}"):
        Access(AccessConfig(str(path)))


def test_token_names_its_tenant(secret: Path) -> None:
    tokens = Tokens(TokenConfig("us", "internvl", secret_file=secret))
    assert tokens.check(jwt.encode(claims(), SECRET, "HS256")) == Caller("team-a", "ann")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "no claim exp"),
        ({"aud": "others"}, "another audience"),
        ({"aud": None}, "no claim aud"),
        ({"iss": "others"}, "another issuer"),
        ({"iss": None}, "no claim iss"),
        ({"sub": None}, "no claim sub"),
        ({"tenant": None}, "no claim tenant"),
        ({"tenant": ""}, "no name of a tenant"),
        ({"tenant": "a b"}, "no name of a tenant"),
        ({"tenant": ["a"]}, "no name of a tenant"),
        ({"nbf": 2**40}, "damaged"),
    ],
)
def test_token_that_is_not_for_us_is_refused(secret: Path, changes: dict[str, Any], problem: str) -> None:
    tokens = Tokens(TokenConfig("us", "internvl", secret_file=secret))
    with pytest.raises(Unauthenticated, match=problem):
        tokens.check(jwt.encode(claims(**changes), SECRET, "HS256"))


def test_token_cannot_choose_how_it_is_checked(secret: Path) -> None:
    tokens = Tokens(TokenConfig("us", "internvl", secret_file=secret))
    for token in (
        jwt.encode(claims(), None, "none"),
        jwt.encode(claims(), SECRET * 2, "HS512"),
        jwt.encode(claims(), b"another secret of thirty-two bytes", "HS256"),
        jwt.encode(claims(), SECRET, "HS256")[:-4] + "AAAA",
        "a.b.c",
        "..",
    ):
        with pytest.raises(Unauthenticated):
            tokens.check(token)


def test_public_keys_are_chosen_by_name_and_bound_to_their_algorithm(tmp_path: Path) -> None:
    pair, curve = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(pair.public_key()))
    elliptic = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(curve.public_key()))
    file = tmp_path / "jwks.json"
    file.write_text(
        json.dumps({"keys": [public | {"kid": "r", "alg": "RS256"}, elliptic | {"kid": "e", "alg": "ES256"}]})
    )
    tokens = Tokens(TokenConfig("us", "internvl", jwks_file=file))
    assert tokens.check(jwt.encode(claims(), pair, "RS256", {"kid": "r"})).tenant == "team-a"
    assert tokens.check(jwt.encode(claims(), curve, "ES256", {"kid": "e"})).tenant == "team-a"
    for token in (
        jwt.encode(claims(), pair, "RS256", {"kid": "e"}),
        jwt.encode(claims(), pair, "RS256", {"kid": "x"}),
        jwt.encode(claims(), pair, "RS256"),
        jwt.encode(claims(), pair, "PS256", {"kid": "r"}),
        # The classic: a public key taken for a secret.
        jwt.encode(claims(), public["n"].encode(), "HS256", {"kid": "r"}),
    ):
        with pytest.raises(Unauthenticated):
            tokens.check(token)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": 3}', '{"keys": [{"kty": "oct", "k": "YQ"}]}'])
def test_bad_key_set_is_refused_by_flag(tmp_path: Path, content: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="--jwt-jwks-file"):
        Tokens(TokenConfig("us", "internvl", jwks_file=file))


def test_changed_secret_is_read_again_and_a_broken_one_changes_nothing(secret: Path) -> None:
    tokens = Tokens(TokenConfig("us", "internvl", secret_file=secret))
    other = b"another secret of thirty-two bytes"
    for number, (content, known, unknown) in enumerate(
        [(other, other, SECRET), (b"short", other, SECRET), (SECRET, SECRET, other)]
    ):
        secret.write_bytes(content)
        os.utime(secret, (number, number))
        assert tokens.check(jwt.encode(claims(), known, "HS256")).tenant == "team-a"
        with pytest.raises(Unauthenticated):
            tokens.check(jwt.encode(claims(), unknown, "HS256"))


def test_changed_key_set_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    pairs = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("old", "new")}

    def publish(name: str) -> None:
        key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(pairs[name].public_key()))
        file.write_text(json.dumps({"keys": [key | {"kid": name, "alg": "ES256"}]}))

    publish("old")
    tokens = Tokens(TokenConfig("us", "internvl", jwks_file=file))
    publish("new")
    os.utime(file, (0, 0))
    assert tokens.check(jwt.encode(claims(), pairs["new"], "ES256", {"kid": "new"})).tenant == "team-a"
    with pytest.raises(Unauthenticated, match="not known here"):
        tokens.check(jwt.encode(claims(), pairs["old"], "ES256", {"kid": "old"}))


def test_short_secret_is_refused_by_flag(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"short")
    with pytest.raises(ConfigError, match="--jwt-secret-file"):
        Tokens(TokenConfig("us", "internvl", secret_file=file))


def test_rate_flows_back_evenly() -> None:
    now = [100.0]
    limiter = Limiter(lambda: now[0])

    async def call() -> None:
        async with limiter.admitted(CALLER, Allowance(requests_per_minute=6)):
            pass

    async def work() -> None:
        for _ in range(6):
            await call()
        with pytest.raises(Overloaded) as caught:
            await call()
        assert caught.value.retry_after_s == pytest.approx(10.0)
        now[0] += 10.0
        await call()
        with pytest.raises(Overloaded):
            await call()
        now[0] += 3600.0
        for _ in range(6):
            await call()
        with pytest.raises(Overloaded):
            await call()

    asyncio.run(work())


def test_calls_under_way_are_counted_by_key_and_given_back() -> None:
    limiter = Limiter()
    two = Allowance(concurrency=2)

    async def work() -> None:
        async with limiter.admitted(CALLER, two), limiter.admitted(CALLER, two):
            with pytest.raises(Overloaded, match="2 calls under way") as caught:
                async with limiter.admitted(CALLER, two):
                    pass
            assert caught.value.retry_after_s > 0
            async with limiter.admitted(Caller("team-b", "ci"), two):
                pass
        with pytest.raises(ZeroDivisionError):
            async with limiter.admitted(CALLER, two):
                _ = 1 / 0
        async with limiter.admitted(CALLER, two), limiter.admitted(CALLER, two):
            pass

    asyncio.run(work())
