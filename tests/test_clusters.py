"""The files of clusters/, checked offline: by Ray's own schema, KubeRay's CRDs, bash, and with stand-ins for Slurm."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
CLUSTERS, PAGE = ROOT / "clusters", ROOT / "docs" / "guide" / "clusters.md"
CRDS = ROOT.parent / "shared" / "data" / "kuberay"
LAUNCHERS = ["aws", "gcp", "local"]
FILES = [path for path in sorted(CLUSTERS.iterdir()) if path.is_file()]
# (CPUs, GPUs) of the machine types that are used, as the providers list them.
MACHINES = {"m5.xlarge": (4, 0), "g5.xlarge": (4, 1), "n2-standard-4": (4, 0), "g2-standard-8": (8, 1)}


def launcher(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTERS / f"kuberay-{name}.yaml").read_text()))


# ---- the launcher's files


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_fit_rays_schema(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(launcher(name), schema)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_are_whole_with_rays_defaults(name: str, tmp_path: Path) -> None:
    config = launcher(name)
    config["cluster_name"] = f"eqr-test-{tmp_path.name}"  # the local provider keeps a state file by this name
    validate_config(prepare_config(config))


def test_the_schema_finds_mistakes() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**launcher("aws"), "max_worker": 3}))


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_head_stays_and_workers_are_spot(name: str) -> None:
    config = launcher(name)
    head, gpu = (config["available_node_types"][kind] for kind in ("head", "gpu"))
    assert config["head_node_type"] == "head"
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])
    market = [
        (node["node_config"].get("InstanceMarketOptions") or node["node_config"].get("scheduling") or {})
        for node in (head, gpu)
    ]
    assert market[0] == {}
    assert market[1].get("MarketType") == "spot" or market[1].get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_machines_are_what_they_are_said_to_be(name: str) -> None:
    for kind, node in launcher(name)["available_node_types"].items():
        config = node["node_config"]
        cpus, gpus = MACHINES[config.get("InstanceType") or config["machineType"]]
        assert node["resources"].get("GPU", 0) == gpus
        assert node["resources"]["CPU"] == (0 if kind == "head" else cpus)
        known = {"InstanceType", "ImageId", "BlockDeviceMappings", "MetadataOptions", "InstanceMarketOptions"}
        assert set(config) <= (known if name == "aws" else {"machineType", "disks", "metadata", "scheduling"})
        if name == "aws":
            assert re.fullmatch(r"ami-[0-9a-f]{17}|resolve:ssm:/aws/service/[\w./-]+/ami-id", config["ImageId"])
        else:
            (disk,) = config["disks"]
            zone = launcher(name)["provider"]["availability_zone"]
            image, kind_of_disk = (disk["initializeParams"][key] for key in ("sourceImage", "diskType"))
            assert re.fullmatch(r"projects/[\w-]+/global/images/family/[\w-]+", image)
            assert kind_of_disk == f"zones/{zone}/diskTypes/pd-balanced"


def images() -> set[str]:
    dockerfile = re.findall(r"^FROM (\S+)$", (CLUSTERS / "Dockerfile").read_text(), re.MULTILINE)
    return {launcher(name)["docker"]["image"] for name in ("aws", "gcp")} | set(dockerfile)


def test_one_image_of_the_ray_that_is_tested_with() -> None:
    (image,) = images()
    wanted = re.search(r'"ray\[[\w,]+\]>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    assert re.fullmatch(rf"rayproject/ray:{re.escape(wanted[1])}\.\d+-py311-gpu", image)
    version = image.split(":")[1].split("-")[0]
    for name in ("cluster", "job"):
        assert f"rayVersion: {version}\n" in (CLUSTERS / f"kuberay-{name}.yaml").read_text()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_nothing_is_open_to_the_world(name: str) -> None:
    text, config = (CLUSTERS / f"{name}.yaml").read_text(), launcher(name)
    assert "RAY_AUTH_MODE=token" in text
    assert any(target.endswith("/.ray/auth_token") for target in config["file_mounts"])
    assert "0.0.0.0" not in text
    (head,) = (command for command in config["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head
    for rule in config["provider"].get("security_group", {}).get("IpPermissions", []):
        assert (rule["FromPort"], rule["ToPort"]) == (22, 22)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_data_runs_and_secrets_are_not_copied(name: str) -> None:
    assert {".git", ".venv", ".env", "data", "runs"} <= set(launcher(name)["rsync_exclude"])


# ---- KubeRay


def schema_of(kind: str) -> dict[str, Any]:
    file = CRDS / f"ray.io_{kind.lower()}s.yaml.gz"
    if not file.exists():
        pytest.skip(f"the CRDs of KubeRay are not there ({file})")
    (crd,) = [found for found in yaml.safe_load_all(gzip.decompress(file.read_bytes())) if found]
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """Kubernetes drops unknown keys in silence; here they are mistakes."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    inner = {key: closed(value) for key, value in schema.items()}
    named = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner["additionalProperties"] = False
    return inner


RAY_OBJECTS = [("cluster", "RayCluster"), ("job", "RayJob")]


def ray_object(name: str, kind: str) -> dict[str, Any]:
    (found,) = [manifest for manifest in manifests(name) if manifest["kind"] == kind]
    return found


@pytest.mark.parametrize(("name", "kind"), RAY_OBJECTS)
def test_manifests_fit_the_crds(name: str, kind: str) -> None:
    manifest, schema = ray_object(name, kind), schema_of(kind)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(manifest, schema)
    manifest["spec"]["sleep"] = True
    with pytest.raises(jsonschema.ValidationError, match="sleep"):
        jsonschema.validate(manifest, schema)


@pytest.mark.parametrize(("name", "kind"), RAY_OBJECTS)
def test_pods_are_whole(name: str, kind: str) -> None:
    spec = ray_object(name, kind)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    claims = {manifest["metadata"]["name"] for manifest in manifests("cluster") if "Claim" in manifest["kind"]}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        used = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
        assert used == claims
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("there", [False, True])
def test_the_entrypoint_of_the_job_begins_or_goes_on(tmp_path: Path, there: bool) -> None:
    entrypoint = ray_object("job", "RayJob")["spec"]["entrypoint"]
    run, bin_folder = tmp_path / "a run", stand_ins(tmp_path, python='echo "$@"')
    run.mkdir()
    (run / "lock.json").touch()
    if there:
        (run / "config.json").touch()
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OUT": str(run)}
    done = subprocess.run(entrypoint, shell=True, env=environment, capture_output=True, text=True, check=True)
    words = "data=/mnt/eqr/data/sudoku9 workers=2 zero=2 out" if not there else "resume"
    assert done.stdout == f"-m eqr_ray.train {words}={run}\n"
    assert (run / "lock.json").exists() == (not there)


# ---- scripts


def scripts() -> list[Path]:
    found = [*CLUSTERS.iterdir(), *(ROOT / "jobs").iterdir(), *(ROOT / ".ci").iterdir()]
    return sorted(path for path in found if path.is_file() and path.read_bytes()[:2] == b"#!" and b"bash" in line(path))


def line(path: Path) -> bytes:
    return path.read_bytes().split(b"\n", 1)[0]


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_scripts_please_shellcheck(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "--severity=warning", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def stand_ins(folder: Path, **programs: str) -> Path:
    """A folder of commands, each a line or more of sh."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name, body in programs.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_folder / name).chmod(0o755)
    return bin_folder


@pytest.mark.parametrize(
    ("cloud", "curl", "left_s"),
    [
        (
            "aws",
            'case "$*" in *token*PUT*|*PUT*token) echo key ;; *"key"*instance-action) {asked} ;; *) exit 22 ;; esac',
            110,
        ),
        ("gcp", 'case "$*" in *preempted) {asked} && echo TRUE || echo FALSE ;; *) exit 22 ;; esac', 25),
    ],
)
def test_a_spot_notice_drains_the_node_and_nothing_else_does(
    cloud: str, curl: str, left_s: int, tmp_path: Path
) -> None:
    """The cloud says no three times, and then that the machine goes."""
    asked = f'{{ echo >>"{tmp_path}/asked"; [ "$(wc -l <"{tmp_path}/asked")" -gt 3 ]; }}'
    bin_folder = stand_ins(tmp_path, curl=curl.replace("{asked}", asked), ray=f'echo "$@" >"{tmp_path}/ray"')
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "EQR_SPOT_EVERY_S": "0.01"}
    subprocess.run(["bash", CLUSTERS / "spot_notice.sh", cloud], env=environment, check=True, timeout=30)
    assert len((tmp_path / "asked").read_text()) == 4
    words = (tmp_path / "ray").read_text()
    assert words.startswith("drain-node --reason DRAIN_NODE_REASON_PREEMPTION")
    assert words.endswith(f"--deadline-remaining-seconds {left_s}\n")


class Slurm:
    """The batch script among stand-ins: `srun`, `scontrol` and `python` write down how they were called."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder, self.calls = folder, folder / "calls"
        note = f'echo "$(basename "$0") $*" >>"{self.calls}"'
        joined = f'until [ "$(grep -c ^srun "{self.calls}")" -ge 2 ]; do sleep 0.05; done 2>/dev/null'
        stand_ins(
            folder,
            srun=f"{note}\nexec sleep 60",
            scontrol=note,
            python=f"case $1 in -c) printf secret ;; -) cat >/dev/null; {joined} ;; *) {note}\n{command} ;; esac",
        )
        (folder / "bin" / "activate").write_text(f'PATH="{folder / "bin"}:$PATH"')
        (folder / "home").mkdir()

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        variables = {"SLURM_JOB_ID": "41234567", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "8"}
        variables |= {"EQR_ENV": str(self.folder), "HOME": str(self.folder / "home"), "PATH": os.environ["PATH"]}
        command = ["bash", str(CLUSTERS / "slurm.sbatch"), *arguments]
        return subprocess.Popen(
            command, env={**variables, **environment}, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def said(self, program: str) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [called for called in lines if called.startswith(f"{program} ")]


@pytest.mark.parametrize("status", [0, 2])
def test_slurm_starts_head_and_workers_and_hands_on_the_status(tmp_path: Path, status: int) -> None:
    slurm = Slurm(tmp_path, f"exit {status}")
    process = slurm.start("train", "data=/d a", f"out={tmp_path}/run")
    _, said = process.communicate(timeout=30)
    assert process.returncode == status, said
    head, workers = sorted(slurm.said("srun"), key=lambda call: "--head" not in call)
    assert "--nodes=1 --ntasks=1" in head
    assert "--include-dashboard=false" in head
    assert "--nodes=2 --ntasks=2" in workers
    (driver,) = slurm.said("python")
    port = 20000 + 41234567 % 20000
    assert re.fullmatch(rf"python -m eqr_ray.train data=/d a out={tmp_path}/run address=[\d.]+:{port}", driver)
    assert f"--port={port}" in head
    assert list((tmp_path / "home").iterdir()) == []  # the token is gone
    assert "secret" not in slurm.calls.read_text() + said


def test_slurm_goes_on_with_the_run_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.json", "lock.json"):
        (tmp_path / "run" / name).touch()
    slurm = Slurm(tmp_path, "exit 0")
    slurm.start("train", "zero=2", f"out={tmp_path}/run", SLURM_RESTART_COUNT="0").communicate(timeout=30)
    assert (tmp_path / "run" / "lock.json").exists()  # perhaps somebody else's
    slurm.start("train", "zero=2", f"out={tmp_path}/run", SLURM_RESTART_COUNT="1").communicate(timeout=30)
    assert not (tmp_path / "run" / "lock.json").exists()
    for call in slurm.said("python"):
        assert call.startswith(f"python -m eqr_ray.train zero=2 resume={tmp_path}/run address=")


def test_slurm_tells_the_driver_before_the_time_is_up_and_queues_again(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, f"trap 'echo told >>{tmp_path}/told; kill $!; exit 130' TERM\nsleep 60 & wait")
    process = slurm.start("infer", f"out={tmp_path}/run")
    end_s = time.monotonic() + 30
    while not slurm.said("python"):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    time.sleep(0.5)  # until it listens
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert (tmp_path / "told").read_text() == "told\n"
    assert slurm.said("scontrol") == ["scontrol requeue 41234567"]


@pytest.mark.parametrize("arguments", [[], ["train"], ["train", "out=here"]])
def test_slurm_without_a_shared_out_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    process = Slurm(tmp_path, "exit 0").start(*arguments)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (1, 2)
    assert "out=" in said


# ---- the page


def test_the_page_says_what_to_fill_in() -> None:
    wanted = {word for file in FILES for word in re.findall(r"FILL_IN_[A-Z_]+", file.read_text())}
    assert wanted == set(re.findall(r"FILL_IN_[A-Z_]+", PAGE.read_text()))


def test_the_page_has_every_file_and_says_cost_and_end() -> None:
    text = PAGE.read_text()
    assert [file.name for file in FILES if f"../clusters/{file.name}" not in text] == []
    sections = text.split("\n## ")[1:]
    assert len(sections) == 5
    for section in sections:
        assert "Costs:" in section
        assert "Tear down:" in section
