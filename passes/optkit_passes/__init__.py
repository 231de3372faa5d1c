"""The passes that come with optkit: one pass, one file; found through the entry points `optkit.passes`."""
