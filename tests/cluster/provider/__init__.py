"""A small Kubernetes provider that speaks Pulumi's provider protocol, for where the published plugin is not installed.

Engine, graph, state, secrets, order and the API server are the real ones; only what stands between them is this. What
it does alike: server-side apply under one field manager, dry runs in previews, refusal to take over what exists,
conflicts reported, definitions awaited, deletions awaited. What it does not: it waits for no pod, Service or volume.
"""
