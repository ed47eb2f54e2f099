"""The images: pinned, unprivileged, and with all that their tier needs."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from urllib.parse import urlsplit

import fsspec
import pytest
import yaml
from manifest_samples import (
    MODELS,
    PARSERS,
    ROOT,
    TIERS,
    instructions,
    stages,
    variables,
)

from deploy.checks.manifests import MANY_GATEWAYS


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


def test_the_gateways_image_reaches_the_bucket() -> None:
    patch = yaml.safe_load((MANY_GATEWAYS / "gateway.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    scheme = urlsplit(str(PARSERS["gateway"](container["args"]).media.directory)).scheme
    needed = fsspec.get_filesystem_class(scheme).__module__.partition(".")[0]
    assert re.search(rf"^{needed}==", (ROOT / "deploy/requirements/gateway.lock").read_text(), re.MULTILINE)
