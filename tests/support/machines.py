"""A cluster of several nodes on this machine: `ray start --block` as an operator's service would run it, on loopback.

A node can be killed (as by a power cut), told to go (SIGTERM, upon which Ray drains it), frozen (stopped, so that it
answers nobody) and replaced. With cables each node lives in a network namespace of its own, whose cable can be pulled:
it then runs on, and nobody hears it.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Timer
from urllib.request import urlopen

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
NOTICE_S = 30  # between SIGTERM and the end of a node
CUT_S = 20.0  # that a cable is pulled; a node is given up after some 5 s
BRIDGE = "eqr-bridge"


class Cable:
    """From the bridge to a network namespace, which it makes. Needs root and iproute2."""

    def __init__(self, number: int, address: str) -> None:
        self.namespace, self._device = f"eqr-{number}", f"eqr-cable-{number}"
        self.inside = ["ip", "netns", "exec", self.namespace]
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _ip("link", "set", self._device, "master", BRIDGE, "up")
        for command in (["addr", "add", f"{address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            _ip("-n", self.namespace, *command)
        _ip("-n", self.namespace, "link", "set", "lo", "up")

    def pull(self) -> None:
        """Nothing goes through."""
        _ip("link", "set", self._device, "down")

    def plug(self) -> None:
        """All goes through again."""
        _ip("link", "set", self._device, "up")

    def remove(self) -> None:
        """With its namespace, whose processes have ended."""
        _ip("link", "del", self._device)
        _ip("netns", "del", self.namespace)


class Node:
    """One `ray start --block` and all that it has started."""

    address: str
    metrics_port: int  # for Prometheus

    def __init__(
        self, address: str, arguments: list[str], environment: dict[str, str], log: Path, cable: Cable | None = None
    ) -> None:
        self._going = False
        self.cable = cable
        inside = cable.inside if cable else []
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*inside, RAY, "start", f"--node-ip-address={address}", "--disable-usage-stats", "--block", *arguments],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end_s = time.monotonic() + 120
        while "Ray runtime started" not in (said := log.read_text()):
            assert self._process.poll() is None, said
            assert time.monotonic() < end_s, said
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        """The processes of the node, those of its workers too."""
        try:
            whole = psutil.Process(self._process.pid)
            return [whole, *whole.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def answers(self) -> bool:
        """Whether it is there, and not about to go."""
        states = {process.name(): process.status() for process in self.family()}
        return not self._going and states.get("raylet", "gone") not in ("gone", "stopped", "zombie")

    def metrics(self) -> str:
        """What Prometheus would read."""
        with urlopen(f"http://{self.address}:{self.metrics_port}/metrics") as page:
            text: str = page.read().decode()
        return text

    def kill(self) -> None:
        """As a power cut."""
        self._each("kill")
        self._process.wait()
        if self.cable:
            self.cable.remove()
            self.cable = None

    def cut_off(self) -> Timer:
        """Pull its cable; the timer, which is to be started, plugs it in again. By then the cluster has given it up."""
        assert self.cable
        self._going = True
        self.cable.pull()
        return Timer(CUT_S, self.cable.plug)

    def freeze(self) -> None:
        """It hangs: alive, and silent."""
        self._each("suspend")

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        self._each("resume")

    def tell_to_go(self) -> None:
        """As a cloud does before it takes a spot machine back."""
        self._going = True
        self._process.send_signal(signal.SIGTERM)

    def _each(self, what: str) -> None:
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                getattr(process, what)()


class Machines:
    """A head without CPUs, and nodes with one CPU each. Use as a context. `cables`: on a bridge, not on loopback."""

    def __init__(self, logs: Path, cables: bool = False) -> None:
        self._logs, self._cables = logs, cables
        self.port = _free_port()
        self.address = f"{self._address(0)}:{self.port}"
        self.environment = {
            **os.environ,
            **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)},
            **{"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(NOTICE_S), "RAY_health_check_failure_threshold": "3"},
            **{"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000", "OMP_NUM_THREADS": "1"},
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # else several nodes are refused
            **{"RAY_metrics_report_interval_ms": "1000"},
            **({"GLOO_SOCKET_IFNAME": "eth0"} if cables else {}),  # all nodes here have the same host name
        }
        self.head: Node | None = None
        self.nodes: list[Node] = []
        self._added = 0
        self.drivers: list[subprocess.Popen[bytes]] = []  # ended with the cluster

    def __enter__(self) -> Machines:
        if self._cables:
            _remove_left_network()
            _ip("link", "add", BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{self._address(0)}/24", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
        self.start()
        return self

    def start(self) -> None:
        """The head, and as many nodes as there were."""
        nodes, self.nodes = len(self.nodes), []
        ports = ["--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0"]
        agent = f"--dashboard-agent-listen-port={_free_port()}"
        self.head = Node(self._address(0), [*ports, agent], self.environment, self._logs / "head.log")
        for _ in range(nodes):
            self.add()

    def heal(self, nodes: int) -> None:
        """Replace the nodes that are gone or silent."""
        alive = [node for node in self.nodes if node.answers()]
        for node in self.nodes:
            if node not in alive:
                node.kill()
        self.nodes = alive
        while len(self.nodes) < nodes:
            self.add()

    def stop(self) -> None:
        """A power cut of everything."""
        for node in [*self.nodes, *([self.head] if self.head else [])]:
            node.kill()

    def add(self) -> Node:
        """One more node."""
        own = {"dashboard-agent-listen-port": _free_port(), "metrics-export-port": _free_port()}
        ports = [f"--{name}={port}" for name, port in own.items()]
        rest = [f"--address={self.address}", "--num-cpus=1", "--object-store-memory=100000000"]
        self._added += 1
        number = self._added
        address = self._address(number)
        cable = Cable(number, address) if self._cables else None
        node = Node(address, [*rest, *ports], self.environment, self._logs / f"node-{number}.log", cable)
        node.address = address
        node.metrics_port = own["metrics-export-port"]
        self.nodes.append(node)
        return node

    def __exit__(self, *_: object) -> None:
        for driver in self.drivers:
            driver.kill()
            driver.wait()
        self.stop()
        if self._cables:
            _ip("link", "del", BRIDGE)

    def _address(self, number: int) -> str:
        """Each machine has an address of its own. (Ray replaces 127.0.0.1 where it can.)"""
        return f"{'10.77.0' if self._cables else '127.0.0'}.{number + 2}"


def cables_possible() -> bool:
    """Whether this machine lets us make network namespaces."""
    try:
        _remove_left_network()
        _ip("netns", "add", "eqr-probe")
        _ip("link", "add", "eqr-probe", "type", "bridge")
        _ip("link", "add", "eqr-cable-0", "type", "veth", "peer", "name", "eth0", "netns", "eqr-probe")
        _remove_left_network()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _remove_left_network() -> None:
    """What somebody left who was killed."""
    for namespace in _ip("netns", "list").split():
        if namespace.startswith("eqr-"):
            for process in _ip("netns", "pids", namespace).split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            _ip("netns", "del", namespace)
    for link in _ip("-brief", "link").splitlines():
        if (device := link.split()[0].partition("@")[0]).startswith("eqr-"):
            with suppress(subprocess.CalledProcessError):  # a cable may have ended with its namespace
                _ip("link", "del", device)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
