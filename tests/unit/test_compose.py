"""The compose files: the programs of the manifests, apart, with bounds on what is kept."""

from __future__ import annotations

import pytest
from manifest_samples import (
    MODELS,
    PARSERS,
    ROOT,
    TIERS,
    compose,
    container_of,
    folders_of_the_user,
)

from deploy.checks.manifests import MANY_GATEWAYS, resources


@pytest.mark.parametrize("tier", TIERS)
def test_compose_starts_the_same_programs(tier: str) -> None:
    service = compose()["services"][tier]
    config = PARSERS[tier](service["command"])
    assert config.server.listen == f"0.0.0.0:{container_of(tier)['ports'][0]['containerPort']}"
    assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    stop_s = int(service["stop_grace_period"].removesuffix("s"))
    assert config.server.drain_delay_s + config.server.grace_s + 5 <= stop_s


@pytest.mark.parametrize("tier", MODELS)
def test_compose_keeps_packed_weights_in_a_volume(tier: str) -> None:
    cache = PARSERS[tier](compose()["services"][tier]["command"]).model.weight_cache
    volumes = dict(reversed(each.rsplit(":", 1)) for each in compose()["services"][tier]["volumes"])
    assert volumes[str(cache.folder)] in compose()["volumes"]
    assert f"/{cache.folder.name}" in folders_of_the_user(tier)


def test_compose_keeps_the_tiers_apart() -> None:
    services = compose()["services"]
    assert not set(services["vision"]["networks"]) & set(services["llm"]["networks"])
    assert "ports" not in services["vision"]
    assert "ports" not in services["llm"]


def test_compose_with_redis_changes_the_store_and_asks_for_keys() -> None:
    alone, shared = compose(), compose("compose.shared.yaml")
    gateway = shared["services"]["gateway"]
    kept = [flag for flag in alone["services"]["gateway"]["command"] if not flag.startswith("--store=")]
    assert set(kept) < set(gateway["command"])
    config = PARSERS["gateway"](gateway["command"])
    assert config.store == "redis://redis:6379/0"
    (secret,) = gateway["secrets"]
    assert config.access.api_keys == f"/run/secrets/{secret}"
    assert secret in shared["secrets"]
    assert shared["networks"]["store"]["internal"]
    assert set(gateway["networks"]) & set(shared["services"]["redis"]["networks"]) == {"store"}
    assert {"--appendonly", "--maxmemory-policy"} <= set(shared["services"]["redis"]["command"])


def test_every_deployment_has_the_last_redis_of_a_free_licence() -> None:
    """7.4 came under licences that none of our dependencies may have."""
    (redis,) = (each.body for each in resources(MANY_GATEWAYS) if each.body["kind"] == "StatefulSet")
    images = [container["image"] for container in redis["spec"]["template"]["spec"]["containers"]]
    images.append(compose("compose.shared.yaml")["services"]["redis"]["image"])
    assert [image.partition("-")[0] for image in images] == ["redis:7.2", "redis:7.2"]
