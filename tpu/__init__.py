"""Launching a config where the accelerators are: Cloud TPU, GKE, Slurm, SkyPilot. Every command can be printed instead of run."""
