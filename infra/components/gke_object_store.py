"""A bucket of Cloud Storage, spoken to as S3 by keys of one account for each part: private, encrypted, versioned.

The client must leave out the checksums that only Amazon takes; the registry, which speaks to it, is told so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.object_store import ManagedObjectStore, ObjectKey, ObjectUser, users_of

URL = "https://storage.googleapis.com"
KEPT = 30
"""Days for which an overwritten or deleted object can be had back."""


@dataclass(frozen=True)
class GkeObjectStoreArgs:
    site: ClusterSite
    apis: Sequence[pulumi.Resource]


class GkeObjectStore(ClusterComponent):
    """One bucket, and for each part an account that may list, read and write below the part's own name only."""

    def __init__(self, name: str, args: GkeObjectStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        self.bucket = self._create_bucket()
        keys = {user.name: self._create_key(user) for user in users_of(args.site.settings)}
        self.endpoint = ManagedObjectStore(URL, "auto", self.bucket.name, keys)
        self.register_outputs({"bucket": self.bucket.name})

    def _create_bucket(self) -> gcp.storage.Bucket:
        protect = self.site.settings.managed.protect
        return gcp.storage.Bucket(
            # Names of buckets are the whole world's: Pulumi puts some letters behind it.
            cloud.name_of(self.site.environment),
            location=self.site.settings.network.region,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            versioning=gcp.storage.BucketVersioningArgs(enabled=True),
            lifecycle_rules=[
                gcp.storage.BucketLifecycleRuleArgs(
                    action=gcp.storage.BucketLifecycleRuleActionArgs(type="Delete"),
                    condition=gcp.storage.BucketLifecycleRuleConditionArgs(days_since_noncurrent_time=KEPT),
                ),
                gcp.storage.BucketLifecycleRuleArgs(
                    action=gcp.storage.BucketLifecycleRuleActionArgs(type="AbortIncompleteMultipartUpload"),
                    condition=gcp.storage.BucketLifecycleRuleConditionArgs(age=7),
                ),
            ],
            force_destroy=not protect,
            opts=self._options(*self.args.apis, protect=protect),
        )

    def _create_key(self, user: ObjectUser) -> ObjectKey:
        name = f"{self.name}-{user.name}"
        account = gcp.serviceaccount.Account(
            name,
            account_id=cloud.short_name(self.site.environment, user.name),
            display_name=f"Objects of {cloud.name_of(self.site.environment)}, {user.name}",
            opts=self._options(*self.args.apis),
        )
        gcp.storage.BucketIAMMember(
            name,
            bucket=self.bucket.name,
            role="roles/storage.objectUser",
            member=account.email.apply(lambda email: f"serviceAccount:{email}"),
            condition=gcp.storage.BucketIAMMemberConditionArgs(
                title=f"below {user.name}",
                expression=self.bucket.name.apply(lambda bucket: below(bucket, user.name)),
            ),
            opts=self._options(),
        )
        key = gcp.storage.HmacKey(name, service_account_email=account.email, opts=self._options())
        return ObjectKey(key.access_id, key.secret)


def below(bucket: str, prefix: str) -> str:
    """The condition, in the language of Google's IAM, that a request is about objects below `prefix`.

    A list is asked of the bucket and names no object: it is known by the prefix that it asks for.
    """
    listed = 'api.getAttribute("storage.googleapis.com/objectListPrefix", "")'
    named = f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/{prefix}/")'
    return f'{named} || {listed}.startsWith("{prefix}/")'
