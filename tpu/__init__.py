"""Launching runs on Cloud TPU, GKE, Slurm and SkyPilot. Every command can be printed instead of run."""
