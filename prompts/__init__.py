"""The benchmark's prompts and identity manifests: data only, versioned."""
