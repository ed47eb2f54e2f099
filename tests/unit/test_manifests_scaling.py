"""Which tiers grow, and what a gateway that grows must not keep itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from manifest_samples import (
    PARSERS,
    TIERS,
    container_of,
    find,
    listed,
    pod_of,
)

from deploy.checks.manifests import MANIFESTS, MANY_GATEWAYS, Resource, problems, resources


@pytest.mark.parametrize(
    "resource",
    [each for each in resources(MANY_GATEWAYS) if each.name not in {each.name for each in listed()}],
    ids=lambda r: r.name,
)
def test_what_many_gateways_add_is_valid_for_kubernetes(resource: Resource) -> None:
    assert problems(resource) == []


def test_many_gateways_keep_nothing_themselves_and_ask_for_keys() -> None:
    patch = yaml.safe_load((MANY_GATEWAYS / "gateway.yaml").read_text())
    assert patch["metadata"]["name"] == find("Deployment", "gateway")["metadata"]["name"]
    pod = patch["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config, alone = (
        PARSERS["gateway"](args) for args in (container["args"], container_of("gateway")["args"])
    )
    assert (config.server, config.vision, config.llm) == (alone.server, alone.vision, alone.llm)
    services = [each.body for each in resources(MANY_GATEWAYS) if each.body["kind"] == "Service"]
    (port,) = next(each["spec"]["ports"] for each in services if each["metadata"]["name"] == "redis")
    assert config.store == f"redis://redis:{port['port']}/0"
    assert str(config.media.directory).startswith("s3://")
    deleted, keys = container["volumeMounts"]
    assert Path(config.access.api_keys).is_relative_to(keys["mountPath"])
    (mount,) = (m for m in container_of("gateway")["volumeMounts"] if m["mountPath"] == deleted["mountPath"])
    assert deleted["$patch"] == "delete"
    assert {"name": mount["name"], "$patch": "delete"} in pod["volumes"]
    volumes = {each["name"]: each for each in pod_of("gateway")["spec"]["volumes"]}
    claim = volumes[mount["name"]]["persistentVolumeClaim"]
    patches = yaml.safe_load((MANY_GATEWAYS / "kustomization.yaml").read_text())["patches"]
    inline = [yaml.safe_load(each["patch"]) for each in patches if "patch" in each]
    assert {"name": claim["claimName"]} in [
        each["metadata"] for each in inline if isinstance(each, dict) and each["$patch"] == "delete"
    ]


def test_gateway_with_a_local_store_has_one_replica() -> None:
    deployment = find("Deployment", "gateway")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert "gateway" not in scaled(MANIFESTS)


def test_every_tier_that_can_grow_has_its_own_autoscaler_and_headless_service() -> None:
    assert scaled(MANIFESTS) == {"vision", "llm"}
    assert scaled(MANY_GATEWAYS) == {"vision", "llm", "gateway"}
    for tier in TIERS:
        assert find("Service", tier)["spec"]["clusterIP"] == "None"


def scaled(folder: Path) -> set[str]:
    """The deployments that an autoscaler of these manifests scales."""
    bodies = [each.body for each in resources(folder)]
    return {each["spec"]["scaleTargetRef"]["name"] for each in bodies if "Autoscaler" in each["kind"]}
