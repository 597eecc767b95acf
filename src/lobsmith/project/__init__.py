"""What makes a folder a project, and the files of a new one."""
