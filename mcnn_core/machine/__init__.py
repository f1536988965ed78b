"""What the method runs on: files, checkpoints, devices, processes, a cluster."""
