"""Slipway: the control plane of a self-hostable MLOps platform.

Nothing here reads, writes or connects when it is imported, and nothing here imports the folders that stand on it
(`pipelines`, `serving`, `monitoring`, `feature_repo`, `infra`): it starts those as processes only.
"""
