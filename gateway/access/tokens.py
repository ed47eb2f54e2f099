"""JSON web tokens: who a bearer is, by the signature of an issuer that the gateway trusts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.access.api_keys import NAME
from gateway.access.watched_file import WatchedFile
from gateway.caller import Caller
from internvl.errors import ConfigError, Unauthenticated

if TYPE_CHECKING:
    from jwt import PyJWK

_LEEWAY_S = 10
_MIN_SECRET_BYTES = 32
# What a key of either kind may sign with: a token must not choose to be checked less strictly.
_SECRET_ALGORITHM = "HS256"
_PUBLIC_ALGORITHMS = ("RS256", "ES256")


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Which tokens are taken.

    Attributes:
        secret_file: holds the secret that the issuer signs with (HS256); None if it has key pairs.
        jwks_file: holds its public keys (RS256, ES256) as a JSON web key set; None if it has a secret.
        issuer: the `iss` that a token must carry.
        audience: the `aud` that a token must be for.
        tenant_claim: the claim that names the tenant.
    """

    issuer: str
    audience: str
    secret_file: Path | None = None
    jwks_file: Path | None = None
    tenant_claim: str = "tenant"


class Tokens:
    """Checks tokens. They must be signed, not expired, from the issuer and for the audience.

    The keys are read again when their file changes, so that an issuer can change them without a restart.
    """

    def __init__(self, config: TokenConfig) -> None:
        """Read the keys.

        Raises:
            ConfigError: they cannot be read or used; names the flag.
        """
        self._config = config
        secret, public = config.secret_file, config.jwks_file
        self._secret = None if secret is None else WatchedFile(secret, _read_secret)
        self._public = None if public is None else WatchedFile(public, _read_jwks)

    def check(self, token: str) -> Caller:
        """Who the bearer of this token is.

        Raises:
            Unauthenticated: it is not to be trusted; says which check failed.
        """
        import jwt

        config = self._config
        try:
            key, algorithm = self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=config.issuer,
                audience=config.audience,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub", config.tenant_claim]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token is from another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token has no claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError):
            raise Unauthenticated("the token is damaged or its signature does not hold") from None
        tenant, subject = claims[config.tenant_claim], claims["sub"]
        if not isinstance(tenant, str) or not NAME.fullmatch(tenant):
            raise Unauthenticated(f"the token's claim {config.tenant_claim} is no name of a tenant")
        return Caller(tenant, str(subject)[:64])

    def _key(self, header: dict[str, Any]) -> tuple[Any, str]:
        """The key that must have signed this token, and the only algorithm that it may have used."""
        if self._secret is not None:
            return self._secret(), _SECRET_ALGORITHM
        keys = {} if self._public is None else self._public()
        name = header.get("kid")
        if not isinstance(name, str) or name not in keys:
            raise Unauthenticated("the token was signed with a key that is not known here")
        key = keys[name]
        return key.key, str(key.algorithm_name)


def _read_secret(file: Path) -> bytes:
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"--jwt-secret-file: cannot read {file} ({error.strerror})") from None
    if len(secret) < _MIN_SECRET_BYTES:
        raise ConfigError(f"--jwt-secret-file: must hold at least {_MIN_SECRET_BYTES} bytes")
    return secret


def _read_jwks(file: Path) -> dict[str, PyJWK]:
    import jwt

    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(file.read_text("utf-8"))).keys
    except OSError as error:
        raise ConfigError(f"--jwt-jwks-file: cannot read {file} ({error.strerror})") from None
    except (jwt.PyJWTError, ValueError, AttributeError, TypeError):
        raise ConfigError("--jwt-jwks-file: is no JSON web key set") from None
    for key in keys:
        if key.algorithm_name not in _PUBLIC_ALGORITHMS:
            allowed = " or ".join(_PUBLIC_ALGORITHMS)
            raise ConfigError(f"--jwt-jwks-file: keys must be for {allowed}, got {key.algorithm_name}")
        if not key.key_id:
            raise ConfigError("--jwt-jwks-file: every key needs a kid")
    return {str(key.key_id): key for key in keys}
