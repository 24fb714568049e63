"""The manifests of docker/k8s, against the schemas that Kubernetes publishes and against what the stages take."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from schemas.base import validate_config
from schemas.run_config import RunConfig
from tests.docker.conftest import ROOT, STAGES

FOLDER = ROOT / "docker" / "k8s"
VERSIONS = ("1.31", "1.34")
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def manifest(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def job(stage: str) -> Any:
    return manifest(f"{stage}.yaml")["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", KUSTOMIZATION["resources"])
def test_a_manifest_is_valid_by_the_published_schema(name: str, version: str) -> None:
    kubernetes_validate.validate(manifest(name), version, strict=True)


def test_the_validator_would_find_a_wrong_key() -> None:
    wrong = manifest("qat.yaml")
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolicies"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_every_manifest_is_applied() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "run.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files


def test_the_run_s_configuration_is_valid() -> None:
    validate_config(RunConfig, manifest("run.yaml"), "run.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_a_pod_is_confined_like_a_compose_service(stage: str) -> None:
    pod = job(stage)["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001 and pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert ("/validation" in mounted) == (stage == "eval"), "eval alone sees the validation images"


def test_the_pods_of_synth_share_its_shards() -> None:
    spec = job("synth")
    environment = {entry["name"]: entry for entry in spec["template"]["spec"]["containers"][0]["env"]}
    assert spec["completionMode"] == "Indexed"
    assert environment["WORLD_SIZE"]["value"] == str(spec["completions"])
    assert "job-completion-index" in environment["RANK"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_the_image_that_waits_waits_for_what_the_stage_before_publishes_last() -> None:
    for stage, published in (("qat", "/data/calibration/manifest.json"), ("eval", "/data/student/student.json")):
        (waiting,) = job(stage)["template"]["spec"]["initContainers"]
        assert published in waiting["command"][-1]


def test_paths_of_the_manifests_exist() -> None:
    for generator in KUSTOMIZATION["configMapGenerator"]:
        assert all((FOLDER / file).is_file() for file in generator["files"])
