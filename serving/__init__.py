"""The model server: one process per revision, KServe's V1 and V2 protocols on a unix socket of mode 0600."""
