"""An S3 bucket for bundles, features, logs and pipelines: private, encrypted, versioned, over TLS only."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.object_store import ManagedObjectStore, ObjectKey, ObjectUser, users_of

KEPT = 30
"""Days for which an overwritten or deleted object can be had back."""


@dataclass(frozen=True)
class EksObjectStoreArgs:
    site: ClusterSite


class EksObjectStore(ClusterComponent):
    """One bucket, and for each part a user that may list, read and write below the part's own name and nowhere else."""

    def __init__(self, name: str, args: EksObjectStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.bucket = self._create_bucket()
        self._close()
        region = args.site.settings.network.region
        keys = {user.name: self._create_user(user) for user in users_of(args.site.settings)}
        self.endpoint = ManagedObjectStore(f"https://s3.{region}.amazonaws.com", region, self.bucket.bucket, keys)
        self.register_outputs({"bucket": self.bucket.bucket})

    def _create_bucket(self) -> aws.s3.Bucket:
        protect = self.site.settings.managed.protect
        bucket = aws.s3.Bucket(
            # Names of buckets are the whole world's: Pulumi puts some letters behind it.
            cloud.name_of(self.site.environment),
            force_destroy=not protect,
            opts=self._options(protect=protect),
        )
        aws.s3.BucketVersioning(
            f"{self.name}-versions",
            bucket=bucket.bucket,
            versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(status="Enabled"),
            opts=self._options(),
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{self.name}-encryption",
            bucket=bucket.bucket,
            rules=[
                aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
                    apply_server_side_encryption_by_default=aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs(
                        sse_algorithm="AES256"
                    )
                )
            ],
            opts=self._options(),
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{self.name}-lifecycle",
            bucket=bucket.bucket,
            rules=[
                aws.s3.BucketLifecycleConfigurationRuleArgs(
                    id="leftovers",
                    status="Enabled",
                    filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
                    noncurrent_version_expiration=aws.s3.BucketLifecycleConfigurationRuleNoncurrentVersionExpirationArgs(
                        noncurrent_days=KEPT
                    ),
                    abort_incomplete_multipart_upload=aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs(
                        days_after_initiation=7
                    ),
                )
            ],
            opts=self._options(),
        )
        return bucket

    def _close(self) -> None:
        closed = aws.s3.BucketPublicAccessBlock(
            f"{self.name}-private",
            bucket=self.bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=self._options(),
        )
        aws.s3.BucketPolicy(
            f"{self.name}-tls",
            bucket=self.bucket.bucket,
            policy=self.bucket.arn.apply(
                lambda arn: json.dumps(
                    _policy(
                        {
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [arn, f"{arn}/*"],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    )
                )
            ),
            opts=self._options(closed),
        )

    def _create_user(self, user: ObjectUser) -> ObjectKey:
        name = f"{self.name}-{user.name}"
        account = aws.iam.User(name, force_destroy=True, opts=self._options())
        aws.iam.UserPolicy(
            name,
            user=account.name,
            policy=self.bucket.arn.apply(
                lambda arn: json.dumps(
                    _policy(
                        {
                            "Effect": "Allow",
                            "Action": "s3:ListBucket",
                            "Resource": arn,
                            "Condition": {"StringLike": {"s3:prefix": f"{user.name}/*"}},
                        },
                        {
                            "Effect": "Allow",
                            "Action": [
                                "s3:GetObject",
                                "s3:PutObject",
                                "s3:DeleteObject",
                                "s3:AbortMultipartUpload",
                                "s3:ListMultipartUploadParts",
                            ],
                            "Resource": f"{arn}/{user.name}/*",
                        },
                    )
                )
            ),
            opts=self._options(),
        )
        key = aws.iam.AccessKey(name, user=account.name, opts=self._options())
        return ObjectKey(key.id, key.secret)


def _policy(*statements: dict[str, object]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}
