"""Files and folders, here and at URIs: whole files, locks, storages, checkpoints and the copies of both."""
