"""The Kubernetes manifests: valid, consistent with each other and with the programs they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manifest_samples import (
    MODELS,
    PARSERS,
    ROOT,
    TIERS,
    container_of,
    find,
    listed,
    pod_of,
)

from deploy.checks.manifests import MANIFESTS, Resource, problems
from internvl.rpc.server import LIVE, READY

CALLS = {"gateway": {"vision", "llm"}, "vision": set[str](), "llm": set[str]()}


@pytest.mark.parametrize("resource", listed(), ids=lambda r: r.name)
def test_resource_is_valid_for_kubernetes(resource: Resource) -> None:
    assert problems(resource) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("spec", "replicaz"), 2, "replicaz"),
        (("spec", "replicas"), "two", "two"),
        (("spec", "template", "spec", "containers", 0, "startupProbe", "grpc", "port"), None, "port"),
    ],
    ids=["unknown field", "wrong type", "missing value"],
)
def test_schema_check_finds_a_broken_resource(
    path: tuple[str | int, ...], value: object, complaint: str
) -> None:
    body: Any = find("Deployment", "vision")
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert any(complaint in problem for problem in problems(Resource("vision.yaml", body)))


def test_every_manifest_is_listed() -> None:
    on_disk = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert {resource.file for resource in listed()} == on_disk


@pytest.mark.parametrize("tier", TIERS)
def test_flags_are_the_programs_own(tier: str) -> None:
    config = PARSERS[tier](container_of(tier)["args"])
    host, port = config.server.listen.rsplit(":", 1)
    ports = {p["name"]: p["containerPort"] for p in container_of(tier)["ports"]}
    assert host == "0.0.0.0", "probes and callers come from outside the pod"
    assert int(port) == ports["grpc"]
    assert config.server.metrics_listen == f"0.0.0.0:{ports['metrics']}"


@pytest.mark.parametrize("tier", MODELS)
def test_models_use_the_cores_they_ask_for(tier: str) -> None:
    container = container_of(tier)
    threads = PARSERS[tier](container["args"]).model.threads
    assert threads == int(container["resources"]["requests"]["cpu"]), (
        "without it, one thread for each core of the node"
    )


@pytest.mark.parametrize("tier", TIERS)
def test_stopping_fits_into_the_termination_grace(tier: str) -> None:
    pre_stop = container_of(tier)["lifecycle"]["preStop"]["sleep"]["seconds"]
    server = PARSERS[tier](container_of(tier)["args"]).server
    stopping = pre_stop + server.drain_delay_s + server.grace_s
    assert server.drain_delay_s > 0, "callers need time to see NOT_SERVING before calls are refused"
    assert stopping + 5 <= pod_of(tier)["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("tier", TIERS)
def test_probes_ask_the_named_health_services(tier: str) -> None:
    container = container_of(tier)
    port = container["ports"][0]["containerPort"]
    assert container["startupProbe"]["grpc"] == {"port": port, "service": LIVE}
    assert container["livenessProbe"]["grpc"] == {"port": port, "service": LIVE}
    assert container["readinessProbe"]["grpc"] == {"port": port, "service": READY}


@pytest.mark.parametrize("tier", TIERS)
def test_pod_is_confined(tier: str) -> None:
    pod, container = pod_of(tier)["spec"], container_of(tier)
    assert pod["automountServiceAccountToken"] is False
    assert find("ServiceAccount", pod["serviceAccountName"])["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= container["resources"].keys()


def test_gateway_writes_only_to_its_volume() -> None:
    container = container_of("gateway")
    config = PARSERS["gateway"](container["args"])
    writable = [Path(m["mountPath"]) for m in container["volumeMounts"] if not m.get("readOnly")]
    for path in (Path(config.store), Path(str(config.media.directory))):
        assert any(path.is_relative_to(mount) for mount in writable), path


@pytest.mark.parametrize("tier", MODELS)
def test_packed_weights_have_room_of_their_own(tier: str) -> None:
    cache = PARSERS[tier](container_of(tier)["args"]).model.weight_cache
    (name,) = (
        mount["name"]
        for mount in container_of(tier)["volumeMounts"]
        if cache.folder.is_relative_to(mount["mountPath"])
    )
    (volume,) = (each for each in pod_of(tier)["spec"]["volumes"] if each["name"] == name)
    assert name != "tmp"
    assert cache.limit_bytes < int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30


@pytest.mark.parametrize("tier", TIERS)
def test_selectors_find_the_pods(tier: str) -> None:
    labels = pod_of(tier)["metadata"]["labels"].items()
    assert find("Service", tier)["spec"]["selector"].items() <= labels
    assert find("PodDisruptionBudget", tier)["spec"]["selector"]["matchLabels"].items() <= labels
    assert find("NetworkPolicy", tier)["spec"]["podSelector"]["matchLabels"].items() <= labels


@pytest.mark.parametrize("tier", TIERS)
def test_network_policy_is_the_call_graph(tier: str) -> None:
    spec = find("NetworkPolicy", tier)["spec"]
    assert peers(spec["egress"], "to") == CALLS[tier]
    callers = {caller for caller, called in CALLS.items() if tier in called}
    assert peers(spec["ingress"], "from") == callers


def test_nothing_is_open_by_default() -> None:
    spec = find("NetworkPolicy", "deny-all")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_gateway_finds_every_replica_of_the_tiers() -> None:
    config = PARSERS["gateway"](container_of("gateway")["args"])
    for tier, target in (("vision", config.vision), ("llm", config.llm)):
        service = find("Service", tier)["spec"]
        assert service["clusterIP"] == "None"
        assert [str(each.host) for each in target] == [tier]
        assert [each.port for each in target] == [service["ports"][0]["port"]]


def test_queue_metric_of_the_autoscaler_is_exported() -> None:
    metrics = find("HorizontalPodAutoscaler", "llm")["spec"]["metrics"]
    (name,) = [m["pods"]["metric"]["name"] for m in metrics if m["type"] == "Pods"]
    assert f'"{name}"' in (ROOT / "llm_service/metrics.py").read_text()


def peers(rules: list[dict[str, Any]], side: str) -> set[str]:
    """The tiers that a policy's rules let through on one side."""
    selectors = [peer.get("podSelector", {}) for rule in rules for peer in rule[side]]
    names = (selector.get("matchLabels", {}).get("app.kubernetes.io/name") for selector in selectors)
    return {name for name in names if name}
