"""Plans of a config on a pod, before it is booked: compiled for chips that are not here, or estimated."""
