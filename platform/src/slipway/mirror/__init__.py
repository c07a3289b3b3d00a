"""A folder with every chart, manifest and image that the platform installs, for sites without the internet.

DIR/charts/*.tgz, DIR/manifests/*.yaml, DIR/images (one OCI layout), and DIR/digests.toml: what was found for pins that
name no digest yet. Reads infra/versions.toml as data; installs nothing.
"""
