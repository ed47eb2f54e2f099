"""What to start, and with which arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.launcher.free_ports import free_ports
from internvl.model_choice import weight_flags

GATEWAY, VISION, LLM = "gateway", "vision", "llm"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the three services listen, and the gateway for HTTP; 0 there for not at all."""

    gateway: int = 50050
    vision: int = 50051
    llm: int = 50052
    http: int = 8000

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody listens on at this moment."""
        return cls(*free_ports(4))


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """One machine's worth of services.

    Attributes:
        model: checkpoint of both model tiers; None for the embedded one.
        device: `cpu` or `gpu:N`, for both model tiers.
        weights: how both keep their weights, see `ModelChoice`.
        weight_cache: a folder, or `off`, as of the services; None is their default.
        ports: None picks free ones.
        threads: compute threads of each model process on CPU; None gives each tier half of the cores. The
            tiers work at the same time (one tile is encoded while the one before it is read), so more would
            only get in each other's way.
        vision_replicas: processes of the vision tier; those after the first listen on free ports.
        llm_replicas: processes of the language tier, likewise.
        store: where conversations are kept, as of the gateway; None keeps them in memory.
        media_dir: where media is kept, as of the gateway; None is a folder beside a store that is a file.
        log_dir: a file for each service; None passes their lines on to `log`.
        log_level: least severe line that the services write.
        ready_timeout_s: longest wait for all of them.
        grace_s: time for running answers to finish at the end.
    """

    model: Path | None = None
    device: str = "cpu"
    weights: str | None = None
    weight_cache: str | None = None
    ports: Ports | None = Ports()
    threads: int | None = None
    vision_replicas: int = 1
    llm_replicas: int = 1
    store: str | None = None
    media_dir: str | None = None
    log_dir: Path | None = None
    log_level: str = "info"
    ready_timeout_s: float = 180.0
    grace_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the system.

    Attributes:
        name: what people call it; replicas after the first end in their number, such as `llm-2`.
        arguments: the command line.
        address: where it will listen.
        http_address: where it will listen for HTTP; empty for nowhere.
    """

    name: str
    arguments: tuple[str, ...]
    address: str
    http_address: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses that it needs for itself."""
        return (self.address, self.http_address) if self.http_address else (self.address,)

    @property
    def tier(self) -> str:
        """What it is a replica of."""
        return self.name.partition("-")[0]


def plan_services(config: LaunchConfig) -> tuple[Service, ...]:
    """The processes to start, in the order in which they stop: the front first, so that it drains."""
    ports = config.ports or Ports.free()
    gateway, vision, llm = (f"127.0.0.1:{port}" for port in (ports.gateway, ports.vision, ports.llm))
    http = f"127.0.0.1:{ports.http}" if ports.http else ""
    door = ("--http-listen", http) if http else ()
    llms = _replicas(LLM, llm, config.llm_replicas)
    visions = _replicas(VISION, vision, config.vision_replicas)
    tiers = ("--vision", ",".join(visions.values()), "--llm", ",".join(llms.values()))
    front = _service(GATEWAY, gateway, config, "gateway", *tiers, *_kept(config), *door)
    return (
        replace(front, http_address=http),
        *_tier(llms, config, "llm_service"),
        *_tier(visions, config, "vision_service"),
    )


def _kept(config: LaunchConfig) -> tuple[str, ...]:
    """Where conversations and media are: what a conversation shows should be there as long as it is."""
    store, media = config.store, config.media_dir
    if media is None and store is not None and store != "memory" and "://" not in store:
        media = f"{store}-media"
    return (
        *(("--store", store) if store is not None else ()),
        *(("--media-dir", media) if media is not None else ()),
    )


def _replicas(tier: str, first: str, count: int) -> dict[str, str]:
    """Names and addresses of the replicas of a tier."""
    others = [f"127.0.0.1:{port}" for port in free_ports(count - 1)]
    return {tier: first} | {f"{tier}-{number}": address for number, address in enumerate(others, 2)}


def _tier(replicas: dict[str, str], config: LaunchConfig, module: str) -> Iterator[Service]:
    for name, address in replicas.items():
        yield _service(name, address, config, module, *_model_arguments(config, len(replicas)))


def _service(name: str, address: str, config: LaunchConfig, module: str, *arguments: str) -> Service:
    common = (
        *("--listen", address),
        *("--log-level", config.log_level),
        *("--grace-seconds", f"{config.grace_s:g}"),
    )
    return Service(name, (sys.executable, "-m", module, *common, *arguments), address)


def _model_arguments(config: LaunchConfig, replicas: int) -> tuple[str, ...]:
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // 2 // replicas)
    model = ("--model", str(config.model)) if config.model is not None else ()
    cache = ("--weight-cache", config.weight_cache) if config.weight_cache is not None else ()
    kept = (*weight_flags(config.weights), *cache)
    return (*model, "--device", config.device, *kept, "--threads", str(threads))
