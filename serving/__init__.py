"""The model server: one process per revision, KServe's V1 and V2 protocols on a private unix socket or a pod's port."""
