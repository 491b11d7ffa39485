"""What a config needs on a pod, before it is booked: compiled for chips that nobody has here, or estimated."""
