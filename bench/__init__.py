"""Measurements, not tests: each states its workload and units and is compared with a baseline in the same run."""
