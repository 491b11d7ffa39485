"""Google Kubernetes Engine: a JobSet with a Job for each slice and a pod for each of its hosts.

https://jobset.sigs.k8s.io, https://docs.cloud.google.com/kubernetes-engine/docs/how-to/tpus
"""

from __future__ import annotations

from typing import Any

import yaml

from mlm_jax.common.errors import UserError
from tpu.job import RENAME_LIMIT, UNFINISHED, Job

COORDINATOR_PORT = 8471  # JAX's own, on TPU pods
# Which ends of a pod are interruptions: its node was taken away or drained, or a signal stopped the run. They fail the
# Job with this reason, by which the JobSet begins again without counting it.
INTERRUPTED = "PodFailurePolicy"
POD_FAILURE_POLICY = {"rules": [
    {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [UNFINISHED]}},
    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
]}  # fmt: skip


def manifest(job: Job, *, retries: int) -> str:
    """Return the JobSet as YAML, for ``kubectl apply``.

    Args:
      job: what to launch; ``job.image`` has mlm_jax and its configs in it.
      retries: how often the whole set begins again after a failure; interruptions are not counted.

    Raises:
      UserError: there is no image, or no bucket to write to.
    """
    if not job.image:
        raise UserError("on GKE a container runs", remedy="give --image with mlm_jax[tpu] installed and configs/ in it")
    job.check_bucket()
    template = {"spec": {
        "parallelism": job.hosts, "completions": job.hosts, "completionMode": "Indexed", "backoffLimit": 0,
        "podFailurePolicy": POD_FAILURE_POLICY,
        "template": {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, "spec": pod(job)},
    }}  # fmt: skip
    found: dict[str, Any] = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        # Each slice has a node pool to itself.
        "metadata": {"name": job.name, "annotations": {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}},
        "spec": {
            "failurePolicy": {"maxRestarts": retries, "rules": [
                {"name": "interrupted", "action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": [INTERRUPTED]},
            ]},
            "replicatedJobs": [{"name": "slice", "replicas": job.topology.slices, "template": template}],
        },
    }  # fmt: skip
    return yaml.safe_dump(found, sort_keys=False, width=1000)


def pod(job: Job) -> dict[str, Any]:
    """Return the specification of one host's pod."""
    container = {
        "name": "train",
        "image": job.image,
        "command": ["sh", "-c", job.train()],
        "ports": [{"containerPort": COORDINATOR_PORT}],
        "resources": {limit: {"google.com/tpu": job.chips_per_host} for limit in ("requests", "limits")},
        "volumeMounts": [{"name": "runs", "mountPath": job.mount}],
    }
    attributes = {"bucketName": job.bucket, "mountOptions": f"implicit-dirs,rename-dir-limit={RENAME_LIMIT}"}
    volume = {"name": "runs", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}
    selector = {
        "cloud.google.com/gke-tpu-accelerator": job.offer.gke,
        "cloud.google.com/gke-tpu-topology": "x".join(map(str, job.topology.shape)),
    } | ({"cloud.google.com/gke-spot": "true"} if job.spot else {})
    if job.reservation:
        selector["cloud.google.com/reservation-name"] = job.reservation
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,  # SIGTERM saves a checkpoint
        "nodeSelector": selector,
        "containers": [container],
        "volumes": [volume],
    }
