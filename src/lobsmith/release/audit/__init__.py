"""Audit: verification, repair and integrity incidents of a repository."""
