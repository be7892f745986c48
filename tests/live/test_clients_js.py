"""What applications do in JavaScript, with the npm package and with our client.js."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from node_js import needs_node
from sdk_driver import Sdk, node_sdk
from sdk_scenarios import SCENARIOS, Scenario, World

from simple_ws.live.script import client_js

pytestmark = needs_node


ONCE = pytest.param("client.js", marks=pytest.mark.one_backend)


@pytest.fixture(scope="module", params=["centrifuge", ONCE])
def sdk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sdk]:
    """The npm package, and our client as servers serve it."""
    module: str | Path = request.param
    if module == "client.js":
        module = tmp_path_factory.mktemp("js") / "client.mjs"
        module.write_bytes(client_js().plain)
    with node_sdk(module) as made:
        yield made


@pytest.fixture
def world(sdk: Sdk) -> Iterator[World]:
    made = World(sdk)
    yield made
    made.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_scenario(scenario: Scenario, world: World) -> None:
    scenario(world)
