"""Measurements that are not tests: each prints JSON lines."""
