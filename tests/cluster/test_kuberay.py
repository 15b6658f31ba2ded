"""The Kubernetes files: fields of KubeRay's reference, Ray's own reading of the cluster, who may come in.

No package registry has KubeRay's schema. `FIELDS` holds what the files use of it and of Kubernetes' own
objects, from the references of KubeRay (ray-project.github.io/kuberay/reference/api, v1.5) and Kubernetes.
A key that is not in it fails, so a new one is looked up before it is added here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"[1-9]\d*(m|Mi|Gi)?")
OURS = {"app.kubernetes.io/part-of": "distill-ray"}


class Text(str):
    """A pattern that a text must have in full."""


STRINGS: Mapping[str, Any] = {"*": str}
RESOURCES = {"requests": {"*": Text(QUANTITY.pattern)}, "limits": {"*": Text(QUANTITY.pattern)}}
POD = {
    "metadata": {"labels": STRINGS},
    "spec": {
        "restartPolicy": Text("Never|OnFailure"),
        "containers!": [
            {
                "name!": Text(NAME.pattern),
                "image!": str,
                "ports": [{"containerPort!": int, "name": Text(r"[a-z0-9-]{1,15}")}],
                "resources": RESOURCES,
                "volumeMounts": [{"name!": str, "mountPath!": Text("/.*")}],
            }
        ],
        "volumes": [{"name!": str, "persistentVolumeClaim": {"claimName!": str}}],
        "tolerations": [
            {
                "key": str,
                "operator": Text("Exists|Equal"),
                "effect": Text("NoSchedule|NoExecute|PreferNoSchedule"),
            }
        ],
    },
}
CLUSTER = {
    "rayVersion!": str,
    "authOptions": {"mode": Text("token|disabled"), "secretName": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"version": Text("v1|v2"), "idleTimeoutSeconds": int},
    "headGroupSpec!": {"serviceType": Text("ClusterIP"), "rayStartParams!": STRINGS, "template!": POD},
    "workerGroupSpecs": [
        {
            "groupName!": Text(NAME.pattern),
            "replicas": int,
            "minReplicas!": int,
            "maxReplicas!": int,
            "rayStartParams!": STRINGS,
            "template!": POD,
        }
    ],
}
JOB = {
    "entrypoint!": str,
    "submissionMode": Text("K8sJobMode|HTTPMode|InteractiveMode"),
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "submitterPodTemplate": POD,
    "rayClusterSpec!": CLUSTER,
}
SELECTOR = {"matchLabels!": STRINGS}
VOLUME = {
    "accessModes!": [Text("ReadWriteMany|ReadWriteOnce")],
    "resources!": {"requests!": {"storage!": Text(QUANTITY.pattern)}},
    "storageClassName": str,
}
POLICY = {
    "podSelector!": SELECTOR,
    "policyTypes": [Text("Ingress|Egress")],
    "ingress": [
        {
            "from": [{"podSelector": SELECTOR, "namespaceSelector": {}}],
            "ports": [{"port": int, "protocol": str}],
        }
    ],
}
MONITOR = {
    "selector!": SELECTOR,
    "podMetricsEndpoints!": [{"port": str, "interval": Text(r"\d+s"), "path": str}],
}
FIELDS: Mapping[tuple[str, str], Any] = {
    ("ray.io/v1", "RayCluster"): CLUSTER,
    ("ray.io/v1", "RayJob"): JOB,
    ("v1", "PersistentVolumeClaim"): VOLUME,
    ("networking.k8s.io/v1", "NetworkPolicy"): POLICY,
    ("monitoring.coreos.com/v1", "PodMonitor"): MONITOR,
}


def problems(value: Any, wanted: Any, where: str) -> Iterator[str]:
    """Where `value` is not as `wanted`: a type, a pattern, [shape] or {key: shape}, "!" a required key."""
    if isinstance(wanted, Text):
        if not (isinstance(value, str) and re.fullmatch(wanted, value)):
            yield f"{where} is {value!r}"
    elif isinstance(wanted, type):
        if type(value) is not wanted:
            yield f"{where} is {value!r}, no {wanted.__name__}"
    elif isinstance(wanted, list):
        if not (isinstance(value, list) and value):
            yield f"{where} is no list, or empty"
            return
        for index, item in enumerate(value):
            yield from problems(item, wanted[0], f"{where}[{index}]")
    elif not isinstance(value, dict):
        yield f"{where} is no mapping"
    else:
        known = {key.rstrip("!"): shape for key, shape in wanted.items()}
        missing = {key[:-1] for key in wanted if key.endswith("!")} - value.keys()
        yield from (f"{where}.{key} is missing" for key in missing)
        for key, item in value.items():
            if key in known or "*" in known:
                yield from problems(item, known.get(key, known.get("*")), f"{where}.{key}")
            else:
                yield f"{where}.{key} is not known"


def load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text("utf-8")))


def document_problems(document: dict[str, Any]) -> list[str]:
    shape = {
        "apiVersion!": str,
        "kind!": str,
        "metadata!": {"name!": Text(NAME.pattern)},
        "spec!": FIELDS[document["apiVersion"], document["kind"]],
    }
    return list(problems(document, shape, document["kind"]))


CLUSTER_FILE, JOB_FILE = load("raycluster.yaml")[0], load("rayjob.yaml")[0]
VOLUME_FILE, POLICY_FILE = load("common.yaml")
(MONITOR_FILE,) = load("../monitoring/podmonitor.yaml")
RAY_PODS = [
    CLUSTER_FILE["spec"]["headGroupSpec"]["template"],
    *(group["template"] for group in CLUSTER_FILE["spec"]["workerGroupSpecs"]),
]


@pytest.mark.parametrize(
    "document",
    [CLUSTER_FILE, JOB_FILE, VOLUME_FILE, POLICY_FILE, MONITOR_FILE],
    ids=lambda item: item["kind"],
)
def test_every_field_is_one_of_the_reference(document: dict[str, Any]) -> None:
    assert document_problems(document) == []


def test_a_broken_field_is_found() -> None:
    def broken(place: str, value: object) -> list[str]:
        """With `value` at the dotted `place` of the spec; None takes it away."""
        document = copy.deepcopy(CLUSTER_FILE)
        *way, last = place.split(".")
        inner: Any = document["spec"]
        for key in way:
            inner = inner[int(key)] if key.isdigit() else inner[key]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        return [item.removeprefix("RayCluster.spec.") for item in document_problems(document)]

    assert broken("authOption", {"mode": "token"}) == ["authOption is not known"]
    assert broken("authOptions.mode", "tokens") == ["authOptions.mode is 'tokens'"]
    assert broken("rayVersion", 2.6) == ["rayVersion is 2.6, no str"]
    assert broken("workerGroupSpecs.0.maxReplicas", None) == ["workerGroupSpecs[0].maxReplicas is missing"]
    assert broken("workerGroupSpecs.0.minReplicas", "0") == ["workerGroupSpecs[0].minReplicas is '0', no int"]
    assert broken("headGroupSpec.rayStartParams", {"num-cpus": 0}) == [
        "headGroupSpec.rayStartParams.num-cpus is 0, no str"
    ]
    container = "headGroupSpec.template.spec.containers"
    assert broken(f"{container}.0.resources.limits", {"memory": "8GB"}) == [
        f"{container}[0].resources.limits.memory is '8GB'"
    ]


def read_by_ray(document: dict[str, Any]) -> dict[str, Any]:
    """The autoscaler's own reading of a RayCluster; validates it too."""
    named = {**document, "metadata": {**document["metadata"], "namespace": "default"}}
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config = _derive_autoscaling_config_from_ray_cr(named)
    assert isinstance(config, dict)
    return config


def test_ray_reads_a_cluster_whose_gpus_come_on_demand() -> None:
    config = read_by_ray(CLUSTER_FILE)
    kinds = config["available_node_types"]
    head = kinds[config["head_node_type"]]["resources"]
    assert head["CPU"] == 0
    assert "GPU" not in head
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["max_workers"]) == (0, 4)
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert kinds["gpu"]["resources"]["CPU"] >= 1
    assert CLUSTER_FILE["spec"]["enableInTreeAutoscaling"] is True
    less = copy.deepcopy(CLUSTER_FILE)
    resources = less["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]
    del resources["limits"]["cpu"], resources["requests"]["cpu"]
    with pytest.raises(ValueError, match="failed to detect `CPU` resources for group gpu"):
        read_by_ray(less)


def test_no_command_asks_for_more_gpus_than_the_pods_have() -> None:
    kind = read_by_ray(CLUSTER_FILE)["available_node_types"]["gpu"]
    offered = kind["max_workers"] * kind["resources"]["GPU"]
    asked = [
        int(number)
        for name in ("raycluster.yaml", "rayjob.yaml")
        for number in re.findall(r"--num-workers (\d+)", (KUBERAY / name).read_text("utf-8"))
    ]
    assert len(asked) == 2
    assert 0 < max(asked) <= offered


def test_the_job_brings_the_same_cluster() -> None:
    assert JOB_FILE["spec"]["rayClusterSpec"] == CLUSTER_FILE["spec"]


def test_clusters_ask_for_a_token() -> None:
    assert CLUSTER_FILE["spec"]["authOptions"] == {"mode": "token"}


def test_the_head_has_the_ports_that_kuberay_looks_for() -> None:
    (container,) = CLUSTER_FILE["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "metrics": 8080}


def test_all_pods_mount_the_volume_that_the_command_uses() -> None:
    spec = JOB_FILE["spec"]
    for pod in RAY_PODS:
        (claimed,) = pod["spec"]["volumes"]
        assert claimed["persistentVolumeClaim"]["claimName"] == VOLUME_FILE["metadata"]["name"]
        (mounted,) = pod["spec"]["containers"][0]["volumeMounts"]
        assert mounted["name"] == claimed["name"]
        assert spec["entrypoint"].count(f" {mounted['mountPath']}/") == 2
    assert VOLUME_FILE["spec"]["accessModes"] == ["ReadWriteMany"]


def test_only_named_pods_may_come_in_and_all_of_ours_are_behind_the_policy() -> None:
    for pod in (*RAY_PODS, JOB_FILE["spec"]["submitterPodTemplate"]):
        assert pod["metadata"]["labels"] == OURS
    policy = POLICY_FILE["spec"]
    assert policy["podSelector"]["matchLabels"] == OURS
    assert policy["policyTypes"] == ["Ingress"]
    peers = [peer for rule in policy["ingress"] for peer in rule["from"]]
    assert len(peers) == len(policy["ingress"]) == 3
    assert all(peer["podSelector"]["matchLabels"] for peer in peers)
    assert MONITOR_FILE["spec"]["selector"]["matchLabels"] == OURS
    (scraped,) = MONITOR_FILE["spec"]["podMetricsEndpoints"]
    for pod in RAY_PODS:
        ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        assert ports[scraped["port"]] == policy["ingress"][2]["ports"][0]["port"]
