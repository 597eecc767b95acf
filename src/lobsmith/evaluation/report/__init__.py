"""The evaluation report: one HTML page, its drawings and its wording."""
