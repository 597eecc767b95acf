"""What `lobsmith up` runs beside Triton: processes of long life, one folder each."""
