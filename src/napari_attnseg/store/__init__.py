"""Files and folders: models and images."""
