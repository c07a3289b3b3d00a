"""`pulumi up` in this folder; the stack is named like the environment."""

from __future__ import annotations

import pulumi

from infra.cluster.program import stand_up
from slipway.environment import open_environment

stand_up(open_environment(pulumi.get_stack()).settings)
