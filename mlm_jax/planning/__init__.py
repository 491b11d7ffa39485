"""Plans: memory, speed and cost of a config on devices that this machine lacks, compiled for them or estimated."""
