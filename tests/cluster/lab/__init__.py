"""A Kubernetes without nodes on this machine: a real control plane, real controllers, simulated kubelets.

Everything listens on loopback and ends with the tests. No container runs here: what a pod does is shown elsewhere.
"""
