# The broker itself: it keeps provider keys below secret/bursar and nowhere else.
# KV version 2 has one path for values, one for metadata (tags, versions) and one for each way of making a version go.

path "secret/data/bursar/*" {
  capabilities = ["create", "read", "update"]
}

path "secret/metadata/bursar/*" {
  capabilities = ["create", "read", "update", "patch", "delete", "list"]
}

# Shredding one old version. There is no right to `delete` or `undelete`: Bursar hides nothing that can come back.
path "secret/destroy/bursar/*" {
  capabilities = ["update"]
}

# Is the mount a KV engine of version 2? Without this Bursar does not ask, and takes it for one.
path "sys/internal/ui/mounts/secret" {
  capabilities = ["read"]
}
