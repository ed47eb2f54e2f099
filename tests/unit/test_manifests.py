"""The deployment files: valid for Kubernetes, consistent with each other and with the programs they start."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest
import yaml

import gateway.config
import llm_service.config
import vision_service.config
from deploy.checks.manifests import MANIFESTS, MANY_GATEWAYS, Resource, problems, resources
from internvl.rpc.server import LIVE, READY

ROOT = Path(__file__).parents[2]
TIERS = ("vision", "llm", "gateway")
MODELS = ("vision", "llm")
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "vision": vision_service.config.parse_config,
    "llm": llm_service.config.parse_config,
    "gateway": gateway.config.parse_config,
}
CALLS = {"gateway": {"vision", "llm"}, "vision": set[str](), "llm": set[str]()}


@cache
def listed() -> tuple[Resource, ...]:
    return tuple(resources(MANIFESTS))


def find(kind: str, name: str) -> dict[str, Any]:
    (body,) = (r.body for r in listed() if r.body["kind"] == kind and r.body["metadata"]["name"] == name)
    return copy.deepcopy(body)


def pod_of(tier: str) -> dict[str, Any]:
    template: dict[str, Any] = find("Deployment", tier)["spec"]["template"]
    return template


def container_of(tier: str) -> dict[str, Any]:
    (container,) = pod_of(tier)["spec"]["containers"]
    assert isinstance(container, dict)
    return container


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


def peers(rules: list[dict[str, Any]], side: str) -> set[str]:
    """The tiers that a policy's rules let through on one side."""
    selectors = [peer.get("podSelector", {}) for rule in rules for peer in rule[side]]
    names = (selector.get("matchLabels", {}).get("app.kubernetes.io/name") for selector in selectors)
    return {name for name in names if name}


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


def compose(file: str = "compose.yaml") -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / file).read_text())
    return body


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


@pytest.mark.parametrize("tier", TIERS)
def test_dockerfile_is_pinned_and_unprivileged(tier: str) -> None:
    lines = instructions(ROOT / "deploy/images" / tier / "Dockerfile")
    bases = [rest for keyword, rest in lines if keyword == "FROM"]
    versions = [rest for keyword, rest in lines if keyword == "ARG"]
    assert all(re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-\w+", version) for version in versions)
    assert all(base.startswith("python:${PYTHON}") for base in bases)
    assert ("USER", "10001:10001") in lines
    for keyword, rest in lines:
        if keyword == "COPY" and not rest.startswith("--from"):
            assert (ROOT / shlex.split(rest)[0]).exists()


@pytest.mark.parametrize("tier", TIERS)
def test_dockerfile_starts_the_tier(tier: str) -> None:
    lines = dict(instructions(ROOT / "deploy/images" / tier / "Dockerfile"))
    entry, command = yaml.safe_load(lines["ENTRYPOINT"]), yaml.safe_load(lines["CMD"])
    assert entry[:2] == ["python", "-m"]
    assert find_spec(f"{entry[2]}.__main__") is not None
    assert PARSERS[tier](command).server.listen.endswith(f":{lines['EXPOSE'].split()[0]}")


@pytest.mark.parametrize("tier", MODELS)
def test_image_finds_the_native_operators_where_they_were_built(tier: str) -> None:
    build, image = stages(tier)
    assert ("RUN", "python -m kernels.native") in build
    assert any(keyword == "RUN" and "g++" in rest for keyword, rest in build)
    (cache,) = {variables(stage)["XDG_CACHE_HOME"] for stage in (build, image)}
    for folder in (cache, "/app/venv"):  # the library's name tells where Paddle lies
        assert ("COPY", f"--from=build {folder} {folder}") in image


def stages(tier: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The instructions that build, and those of the image."""
    lines = instructions(ROOT / "deploy/images" / tier / "Dockerfile")
    _, start = (number for number, (keyword, _) in enumerate(lines) if keyword == "FROM")
    return lines[:start], lines[start:]


def variables(stage: list[tuple[str, str]]) -> dict[str, str]:
    """What a stage sets in the environment."""
    settings = (word for keyword, rest in stage if keyword == "ENV" for word in shlex.split(rest))
    return dict(setting.split("=", 1) for setting in settings)


def folders_of_the_user(tier: str) -> set[str]:
    """Folders of an image that its user may write to; a fresh volume mounted there takes after them."""
    made = (rest for keyword, rest in stages(tier)[1] if keyword == "RUN" and rest.startswith("install "))
    return {rest.rsplit(" ", 1)[1] for rest in made if "--owner=10001 --group=10001" in rest}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines)]


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


def test_the_gateways_image_reaches_the_bucket() -> None:
    patch = yaml.safe_load((MANY_GATEWAYS / "gateway.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    scheme = urlsplit(str(PARSERS["gateway"](container["args"]).media.directory)).scheme
    needed = fsspec.get_filesystem_class(scheme).__module__.partition(".")[0]
    assert re.search(rf"^{needed}==", (ROOT / "deploy/requirements/gateway.lock").read_text(), re.MULTILINE)
