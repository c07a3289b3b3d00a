"""The infrastructure: a cluster, and the platform on it, as two Pulumi programs. Nothing is created when imported."""
