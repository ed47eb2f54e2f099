"""Who calls: everything that is kept belongs to a tenant, and no tenant sees what is another's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, as far as the gateway needs to know.

    Attributes:
        tenant: whose conversations, media and turns it may see; empty where no keys are configured, so that
            everybody is one tenant.
        key_name: name of the key it showed, for limits and logs; never the key itself.
    """

    tenant: str = ""
    key_name: str = ""


ANYBODY = Caller()
