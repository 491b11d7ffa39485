"""Launches that tests make: the arguments of each, by name of its golden file."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GOLDEN = Path(__file__).parent / "golden"

COMMON = [
    "--config",
    "configs/mmbert_base.py",
    "--workdir",
    "mmbert",
    "--set",
    "steps=100",
    "--set",
    "data.store=/mnt/runs/store",
]

SECRET = "not to be seen"

CLOUD = ["--zone", "us-west4-a", "--project", "my-project", "--bucket", "my-runs"]

LAUNCHES = {
    "tpu_vm": [*CLOUD, "--topology", "v5e:4x4", "--spot"],
    "queued": [*CLOUD, "--topology", "v5p:8x8x8", "--target", "queued"],
    "gke": [
        "--bucket",
        "my-runs",
        "--image",
        "repository/mlm_jax:1",
        "--topology",
        "2xv6e:16x16",
        "--target",
        "gke",
        "--spot",
        "--set",
        "mesh.slices=2",
    ],
    "reserved": [*CLOUD, "--topology", "v5p:4x4x16", "--target", "queued", "--reservation", "tuesday"],
    "network": [
        *CLOUD,
        "--topology",
        "v5e:2x2",
        "--service-account",
        "me@p.iam.gserviceaccount.com",
        "--network",
        "n",
        "--set",
        "mesh.fsdp=4",
        "--subnetwork",
        "s",
        "--internal-ips",
        "--iap",
        "--env",
        "A=it's",
        "--secret",
        "WANDB_API_KEY",
    ],
    "calendar": [*CLOUD, "--topology", "v5p:4x4x16", "--target", "queued", "--reservation", "tuesday", "--calendar"],
    "slices": [*CLOUD, "--topology", "2xv5e:4x4", "--target", "queued", "--set", "mesh.slices=2"],
    "gke_tpu7x": [
        "--bucket",
        "my-runs",
        "--image",
        "us-docker.pkg.dev/p/r/mlm_jax:1",
        "--topology",
        "tpu7x:2x2x2",
        "--target",
        "gke",
        "--namespace",
        "research",
        "--queue",
        "team",
        "--service-account",
        "trainer",
        "--secret",
        "WANDB_API_KEY",
        "--env",
        "A=b",
        "--set",
        "training.wandb=project",
    ],
    "gke_gpu": ["--bucket", "my-runs", "--image", "repository/mlm_jax:1", "--topology", "H100:16", "--target", "gke"],
    "slurm_one": [
        "--topology",
        "H100:1",
        "--target",
        "slurm",
        "--setup",
        "source venv/bin/activate",
        "--set",
        "mesh.fsdp=1",
        "--env",
        "A=b",
        "--secret",
        "WANDB_API_KEY",
        "--cpus",
        "12",
    ],
    "slurm_array": ["--config", "configs/sweeps/alpha.py", "--sweep", "--topology", "H100:1", "--target", "slurm"],
    "slurm": ["--topology", "H100:16", "--target", "slurm"],
    "skypilot_tpu": ["--bucket", "my-runs", "--topology", "v5e:4x4", "--target", "skypilot", "--spot"],
    "skypilot_gpu": ["--bucket", "my-runs", "--topology", "H100:16", "--target", "skypilot"],
}
