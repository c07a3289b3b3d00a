"""What the engine runs: serves the pack until the engine ends it."""

from __future__ import annotations

from infra.policies.pulumi_pack import serve

if __name__ == "__main__":
    serve()
