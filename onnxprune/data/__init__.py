"""Datasets: found, downloaded, checked, split."""
