"""What every deployment of the gateway keeps has an end."""

from __future__ import annotations

import pytest
import yaml
from manifest_samples import (
    PARSERS,
    compose,
    container_of,
)

from deploy.checks.manifests import MANY_GATEWAYS


def gateway_commands() -> dict[str, list[str]]:
    """How each file starts the gateway."""
    many = yaml.safe_load((MANY_GATEWAYS / "gateway.yaml").read_text())
    return {
        "compose.yaml": compose()["services"]["gateway"]["command"],
        "compose.shared.yaml": compose("compose.shared.yaml")["services"]["gateway"]["command"],
        "kubernetes": container_of("gateway")["args"],
        "many-gateways": many["spec"]["template"]["spec"]["containers"][0]["args"],
    }


@pytest.mark.parametrize("file", gateway_commands())
def test_nobody_uses_up_what_the_gateway_keeps(file: str) -> None:
    """Conversations end, and where there are several tenants, none takes the media quota of all."""
    config = PARSERS["gateway"](gateway_commands()[file])
    assert config.kept.time_to_live_s is not None
    if config.access.api_keys is not None:
        assert config.media.tenant_quota_bytes is not None
        assert config.media.tenant_quota_bytes <= config.media.quota_bytes / 4
