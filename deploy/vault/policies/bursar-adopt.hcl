# A layout that was there before, secret/llm/TEAM/KEY_TYPE, adopted in place for reading: somebody else rotates there.

path "secret/data/llm/+/+" {
  capabilities = ["read"]
}

path "secret/metadata/llm/*" {
  capabilities = ["read", "list"]
}
