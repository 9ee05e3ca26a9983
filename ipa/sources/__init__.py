"""From a name to files: folders, single files, short names, the hub."""
