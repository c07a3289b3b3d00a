"""The rules as Pulumi knows policies.

Two policies and not one for each rule: Pulumi decodes an object anew for every policy, and KServe's definitions alone
are 2 MB. Each message begins with its rule's name instead.
"""

from __future__ import annotations

from functools import cache

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)

from infra.policies.cloud_rules import examine_cloud
from infra.policies.exceptions import PolicyException, load_exceptions
from infra.policies.objects import read_resource
from infra.policies.pack import examine_object, examine_stack, exception_for, rule_names

NAME = "slipway"


def serve() -> None:
    """Serve the pack to the engine that started this process, until it ends it."""
    _exceptions()  # a mistake in the file ends it here, before the first object
    PolicyPack(name=NAME, enforcement_level=EnforcementLevel.MANDATORY, policies=[*policies()])


def policies() -> tuple[ResourceValidationPolicy, StackValidationPolicy]:
    """One for what an object breaks by itself, refused before it is made; one for all objects together."""
    return (
        ResourceValidationPolicy(
            name="objects",
            description="Every object keeps to the rules, or has a named exception.",
            validate=validate_resource,
        ),
        StackValidationPolicy(
            name="stack",
            description="All objects together keep to the rules, or have a named exception.",
            validate=validate_stack,
        ),
    )


def validate_resource(args: ResourceValidationArgs, report_violation: ReportViolation) -> None:
    """What the engine asks for each resource before it is made."""
    thing = read_resource(args.resource_type, args.name, args.props, args.urn)
    for finding in examine_object(thing) if thing else ():
        if not exception_for(finding, _exceptions()):
            report_violation(str(finding), args.urn)
    for message in examine_cloud(args.resource_type, args.props):
        report_violation(message, args.urn)


def validate_stack(args: StackValidationArgs, report_violation: ReportViolation) -> None:
    """What the engine asks once it knows every resource."""
    read = (read_resource(item.resource_type, item.name, item.props, item.urn) for item in args.resources)
    for finding in examine_stack([thing for thing in read if thing]):
        if not exception_for(finding, _exceptions()):
            report_violation(str(finding), finding.thing.urn)


@cache
def _exceptions() -> tuple[PolicyException, ...]:
    return load_exceptions(rule_names())
