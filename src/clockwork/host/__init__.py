"""The hosts: what runs the machines live. Event loops, threads, disks and clocks are here and nowhere else."""
