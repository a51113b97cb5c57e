"""Evaluation of GILL and of baselines through the same protocols: metrics, tasks and tables of results."""
