"""Google Kubernetes Engine: a JobSet with a Job for each slice (or one for all GPU machines) and a pod for each host.

https://jobset.sigs.k8s.io, https://docs.cloud.google.com/kubernetes-engine/docs/how-to/tpus,
https://docs.cloud.google.com/kubernetes-engine/docs/how-to/gpus
"""

from __future__ import annotations

import shlex
from typing import Any

from mlm_jax.common.errors import UNFINISHED, UserError
from tpu.job import COORDINATOR_PORT, RENAME_LIMIT, Job
from tpu.manifest_yaml import as_yaml

TPU_PORT = 8471  # JAX's port on TPU pods
GROUP = "slice"  # name of the group of pods
NAME = "app.kubernetes.io/name"  # label of the JobSet and its pods
# Pod failures that are interruptions: its node was removed or drained, or a signal stopped the run. They fail the Job with this
# reason, for which the JobSet restarts without counting the failure.
INTERRUPTED = "PodFailurePolicy"
POD_FAILURE_POLICY = {
    "rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [UNFINISHED]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
}
JOB_SET_RULE = {
    "name": "interrupted",
    "action": "RestartJobSetAndIgnoreMaxRestarts",
    "onJobFailureReasons": [INTERRUPTED],
}


def manifest(job: Job, *, retries: int) -> str:
    """Return the JobSet as YAML, for ``kubectl apply``.

    Args:
      job: the job to launch; ``job.image`` contains mlm_jax and its configs.
      retries: number of restarts of the whole set after a failure; interruptions are not counted.

    Raises:
      UserError: there is no image, or no bucket to write to.
    """
    if not job.image:
        raise UserError(
            "no container image was given", remedy="build the Dockerfile of this checkout, push it, and give --image"
        )
    job.check_bucket()
    metadata: dict[str, Any] = {"name": job.name}
    if job.namespace:
        metadata["namespace"] = job.namespace
    metadata["labels"] = {NAME: job.name} | ({"kueue.x-k8s.io/queue-name": job.queue} if job.queue else {})
    if not job.is_gpu:  # each slice has its own node pool
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    pods: dict[str, Any] = {
        "metadata": {"labels": {NAME: job.name}, "annotations": {"gke-gcsfuse/volumes": "true"}},
        "spec": pod(job),
    }
    template = {
        "spec": {
            "parallelism": job.hosts,
            "completions": job.hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": POD_FAILURE_POLICY,
            "template": pods,
        }
    }
    found = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": retries, "rules": [JOB_SET_RULE]},
            "replicatedJobs": [{"name": GROUP, "replicas": job.topology.slices, "template": template}],
        },
    }
    return as_yaml(found)


def pod(job: Job) -> dict[str, Any]:
    """Return the specification of one host's pod."""
    resource = "nvidia.com/gpu" if job.is_gpu else "google.com/tpu"
    container: dict[str, Any] = {
        "name": "train",
        "image": job.image,
        "command": ["bash", "-c", command(job)],
        "env": environment(job),
        "ports": [{"containerPort": COORDINATOR_PORT if job.is_gpu else TPU_PORT}],
        "resources": {limit: {resource: job.chips_per_host} for limit in ("requests", "limits")},
        "volumeMounts": [{"name": "runs", "mountPath": job.mount}],
    }
    attributes = {"bucketName": job.bucket, "mountOptions": f"implicit-dirs,rename-dir-limit={RENAME_LIMIT}"}
    volumes: list[dict[str, Any]] = [
        {"name": "runs", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}
    ]
    if job.is_gpu:  # NCCL uses it as memory that the processes of a machine share
        container["volumeMounts"].append({"name": "shared-memory", "mountPath": "/dev/shm"})
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
    found: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,  # SIGTERM saves a checkpoint; spot nodes leave about 15 seconds
        "nodeSelector": selector(job),
        "containers": [container],
        "volumes": volumes,
    }
    if job.service_account:  # it may write to the bucket by Workload Identity
        found["serviceAccountName"] = job.service_account
    if job.is_gpu:
        found["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return found


def command(job: Job) -> str:
    """Return the shell lines of a pod, which train and copy the log into the workdir."""
    joined = ""
    if job.is_gpu and job.hosts > 1:  # pods of a JobSet have DNS names
        first = f"{job.name}-{GROUP}-0-0.{job.name}"
        joined = f' --coordinator {first}:{COORDINATOR_PORT} --process-count {job.hosts} --process-index "$JOB_COMPLETION_INDEX"'
    return KEEPS_LOG.format(logs=shlex.quote(job.logs), train=job.train() + joined)


# Kubernetes signals only the first process, so the shell passes the signal on.
KEEPS_LOG = """\
mkdir -p {logs}
log=$(mktemp) kept={logs}/$HOSTNAME-$(date +%Y%m%dT%H%M%S).log
trap 'kill -TERM "$run"' TERM
{train} > >(tee "$log") 2>&1 & run=$!
(while sleep 60; do cp "$log" "$kept"; done) & copying=$!
wait "$run"; code=$?
while kill -0 "$run" 2> /dev/null; do wait "$run"; code=$?; done  # a signal ends the first wait early
kill "$copying"
cp "$log" "$kept"
exit "$code"
"""


def environment(job: Job) -> list[dict[str, Any]]:
    """Return a pod's environment variables; secrets come from a Kubernetes Secret."""
    plain = [{"name": name, "value": value} for name, value in job.environment]
    if job.is_gpu and "NCCL_DEBUG" not in dict(job.environment):
        plain.append({"name": "NCCL_DEBUG", "value": "WARN"})  # its errors name the network interface
    keys = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret_name(job), "key": name}}} for name in job.secrets
    ]
    return plain + keys


def selector(job: Job) -> dict[str, str]:
    """Return the labels of the nodes that a pod may run on."""
    if job.is_gpu:
        found = {"cloud.google.com/gke-accelerator": job.offer.gke}
    else:
        shape = "x".join(map(str, job.topology.shape))
        found = {"cloud.google.com/gke-tpu-accelerator": job.offer.gke, "cloud.google.com/gke-tpu-topology": shape}
    if job.spot:
        found["cloud.google.com/gke-spot"] = "true"
    if job.reservation:
        found["cloud.google.com/reservation-name"] = job.reservation
    return found


def secret_name(job: Job) -> str:
    """Return the name of the Kubernetes Secret that holds the job's secrets."""
    return f"{job.name}-secrets"


def secret(job: Job) -> str:
    """Return the Kubernetes Secret as YAML.

    Raises:
      UserError: a secret is not set in the launcher's environment.
    """
    metadata = {"name": secret_name(job), **({"namespace": job.namespace} if job.namespace else {})}
    found = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": job.secret_values()}
    return as_yaml(found)


def status(job: Job) -> tuple[str, ...]:
    """Return the command that shows the JobSet and its pods."""
    return "kubectl", "get", "jobsets,pods", "-l", f"{NAME}={job.name}", *namespaced(job)


def logs(job: Job) -> tuple[str, ...]:
    """Return the command that shows the log of the first pod as it grows."""
    chosen = f"{NAME}={job.name},batch.kubernetes.io/job-completion-index=0"
    return "kubectl", "logs", "--follow", "--tail=-1", "-c", "train", "-l", chosen, *namespaced(job)


def stop(job: Job) -> tuple[str, ...]:
    """Return the command that deletes the JobSet: its pods get a signal, and save within the grace period."""
    return "kubectl", "delete", "jobset", job.name, *namespaced(job)


def namespaced(job: Job) -> tuple[str, ...]:
    """Return kubectl's option for the job's namespace."""
    return ("--namespace", job.namespace) if job.namespace else ()
