# What the CSI provider and External Secrets read for the mounted directory: these values, and nothing of their metadata.

path "secret/data/llm/platform/*" {
  capabilities = ["read"]
}
