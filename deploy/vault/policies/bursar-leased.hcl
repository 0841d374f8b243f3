# Credentials that a dynamic engine makes at each read. Bursar renews them at two thirds and revokes them at its end.

path "openai/creds/inference" {
  capabilities = ["read"]
}

path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}
