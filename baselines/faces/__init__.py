"""Face crops of methods that come with a detector of their own. No method itself."""
