"""One file a stage of `dvc.yaml`, from files to files."""
